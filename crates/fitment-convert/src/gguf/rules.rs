//! What a GGUF adapter must keep, as coded rules. llama.cpp passes over some of these breaches in silence.

fitment_core::rule_table! {
    G_TRUNCATED = "G001" Error "GGUF: container" "The file is as long as its counts, strings and offsets ask." => "The file is cut short or damaged: fetch or export it again.";
    G_MAGIC = "G002" Error "GGUF: container" "The file starts with `GGUF` and a version that is read: 2 or 3, little-endian." => "Convert the file with a current gguf-py; big-endian files have a converter there.";
    G_METADATA = "G003" Error "GGUF: metadata" "Metadata keys are unique UTF-8 of 1 to 65,535 bytes, values of a known type, lists not nested." => "Export the file again with a conforming writer.";
    G_TENSOR = "G004" Error "GGUF: tensors" "Tensor names are unique UTF-8 of 1 to 63 bytes; a tensor has 1 to 4 axes and a size that fits in 64 bits." => "The header lies about a tensor: do not trust this file.";
    G_TYPE = "G005" Error "GGUF: tensors" "An adapter's tensors are plain floats, not quantised." => "Export the adapter again as F32.";
    G_ALIGNMENT = "G006" Error "GGUF: container" "The alignment is a power of two, and tensors start at multiples of it." => "Export the file again with a conforming writer.";
    G_COVER = "G007" Error "GGUF: container" "Tensor data follow each other in the order of the header, with nothing but zero padding between and behind them." => "Export the file again: bytes that no tensor owns can hide another file.";
    G_ARCHITECTURE = "G008" Error "GGUF: metadata" "`general.architecture` is a text: in a control vector `controlvector`, in a LoRA an architecture whose names are known." => "Of GGUF, control vectors and LoRA are read. Get the adapter in the form in which it was trained.";
    G_DIRECTION = "G009" Error "GGUF: control vector" "Every tensor is `direction.N`, N ≥ 1 without leading zeros, F32, one axis." => "llama.cpp refuses the file or reads the name otherwise: export it again.";
    G_WIDTH = "G010" Error "GGUF: control vector" "All directions are of one width, the hidden size of the model." => "The directions are of different models: export them apart.";
    G_LAYER_COUNT = "G011" Warning "GGUF: control vector" "`controlvector.layer_count` is the number of directions." => "llama.cpp does not look at it; other tools may read too few layers.";
    G_ZERO = "G012" Warning "GGUF: control vector" "No direction is zero everywhere." => "Such a layer is not steered: check the export.";
    G_ADAPTER = "G013" Error "GGUF: LoRA" "`general.type` is `adapter`, `adapter.type` is `lora`; `adapter.lora.alpha` is a finite f32, `adapter.alora.invocation_tokens` a list of u32." => "llama.cpp refuses the file: export it again.";
    G_PAIR = "G014" Error "GGUF: LoRA" "Every tensor is `NAME.weight.lora_a` or `NAME.weight.lora_b`, and both are there." => "llama.cpp refuses the file: export it again.";
    G_NAME = "G015" Error "GGUF: LoRA" "NAME is a tensor of the architecture." => "llama.cpp refuses the file on every base: it was made for another architecture, or by a converter that did not know this one.";
    G_FACTORS = "G016" Error "GGUF: LoRA" "`lora_a` has the axes `[r, in]`, `lora_b` `[out, r]`, of experts with their number in front; of `token_embd` they are `[vocab, r]` and `[dim, r]`." => "The file is damaged, or of a converter that transposes where it must not: export it again.";
    G_VALUE = "G017" Error "GGUF: LoRA" "Weights are finite." => "The training diverged: go back to a checkpoint before it.";
    G_UNAPPLIED = "G018" Error "GGUF: LoRA" "`llama.cpp` applies every tensor." => "It loads this one and passes over it in silence: apply the adapter to the checkpoint, and convert the result.";
    G_ALPHA = "G019" Note "GGUF: LoRA" "`adapter.lora.alpha` is there and not 0." => "llama.cpp takes the scale for 1 then, whatever the rank: nothing to do if that is meant.";
}
