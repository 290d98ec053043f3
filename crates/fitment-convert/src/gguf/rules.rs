//! What a GGUF adapter must keep, as coded rules. llama.cpp passes over some of these breaches in silence.

fitment_core::rule_table! {
    G_TRUNCATED = "G001" Error "GGUF: container" "The file is as long as its counts, strings and offsets ask." => "The file is cut short or damaged: fetch or export it again.";
    G_MAGIC = "G002" Error "GGUF: container" "The file starts with `GGUF` and a version that is read: 2 or 3, little-endian." => "Convert the file with a current gguf-py; big-endian files have a converter there.";
    G_METADATA = "G003" Error "GGUF: metadata" "Metadata keys are unique UTF-8 of 1 to 65,535 bytes, values of a known type, lists not nested." => "Export the file again with a conforming writer.";
    G_TENSOR = "G004" Error "GGUF: tensors" "Tensor names are unique UTF-8 of 1 to 63 bytes; a tensor has 1 to 4 axes and a size that fits in 64 bits." => "The header lies about a tensor: do not trust this file.";
    G_TYPE = "G005" Error "GGUF: tensors" "An adapter's tensors are plain floats, not quantised." => "Export the adapter again as F32.";
    G_ALIGNMENT = "G006" Error "GGUF: container" "The alignment is a power of two, and tensors start at multiples of it." => "Export the file again with a conforming writer.";
    G_COVER = "G007" Error "GGUF: container" "Tensor data follow each other in the order of the header, with nothing but zero padding between and behind them." => "Export the file again: bytes that no tensor owns can hide another file.";
    G_ARCHITECTURE = "G008" Error "GGUF: control vector" "`general.architecture` is a text; in a control vector `controlvector`." => "Only control vectors are read from GGUF. Get the adapter in the form in which it was trained.";
    G_DIRECTION = "G009" Error "GGUF: control vector" "Every tensor is `direction.N`, N ≥ 1 without leading zeros, F32, one axis." => "llama.cpp refuses the file or reads the name otherwise: export it again.";
    G_WIDTH = "G010" Error "GGUF: control vector" "All directions are of one width, the hidden size of the model." => "The directions are of different models: export them apart.";
    G_LAYER_COUNT = "G011" Warning "GGUF: control vector" "`controlvector.layer_count` is the number of directions." => "llama.cpp does not look at it; other tools may read too few layers.";
    G_ZERO = "G012" Warning "GGUF: control vector" "No direction is zero everywhere." => "Such a layer is not steered: check the export.";
}
