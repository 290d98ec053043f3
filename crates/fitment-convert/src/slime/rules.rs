//! What a version of slime's disk deltas must keep, as coded rules.

fitment_core::rule_table! {
    S_INDEX = "S001" Error "slime: index" "`model.safetensors.index.json` is one JSON object without duplicate keys; its `metadata` say version, base version, encoding, compression and checksum, its `weight_map` the file of each tensor, all as texts." => "The index is missing, damaged, or of an ordinary checkpoint: fetch the version's folder again.";
    S_UNSUPPORTED = "S002" Error "slime: index" "`delta_encoding` is xor or overwrite, `compression_format` zstd, `checksum_format` xxh3-128, blake3 or adler32." => "A later slime wrote the version, or the index was edited: apply it with the slime that wrote it, and take `fitment diff` of both checkpoints.";
    S_VERSION = "S003" Warning "slime: index" "`version` and `base_version` are decimal numbers, the one above the other." => "slime numbers versions one by one: check that the index was not edited. The base decides whether the delta fits it.";
    S_FILE = "S004" Error "slime: files" "Every file of `weight_map` lies beside the index and is sound safetensors." => "The version is cut short or damaged: fetch its folder again.";
    S_MAP = "S005" Error "slime: files" "`weight_map` places every tensor in the file that holds it, and names all tensors of its files." => "Files of two versions were mixed, or the version was not written to its end: fetch its folder again.";
    S_TENSOR = "S006" Error "slime: tensors" "Every tensor is U8 of one axis: a compressed change, not a weight." => "The folder holds weights, or was re-saved with another dtype: fetch the version again.";
    S_FRAME = "S007" Error "slime: tensors" "Every tensor is exactly one zstd frame that states its content's size and decodes to it." => "The file is damaged: fetch it again.";
    S_CHECKSUM = "S008" Error "slime: tensors" "The metadata of the tensor's file hold its checksum: lower-case hexadecimal digits, as many as the format has." => "Without its checksum a change cannot be told from a wrong one: fetch the file again; tools that re-save safetensors drop it.";
    S_OVERWRITE = "S009" Error "slime: tensors" "The content of overwrite is a count, as many strictly ascending positions, and as many bytes." => "The file is damaged, or the encoding in the index is not the one it was written with: fetch the version again.";
    S_BASE = "S010" Error "slime: base" "The base is the version that the delta was made of: every changed tensor gets the checksum that the delta records." => "Apply the versions in their order, each to the result of the one before, and no version twice.";
}
