//! What a folder of differences must keep, as coded rules.

fitment_core::rule_table! {
    F_WEIGHTS_MISSING = "F001" Error "fastchat: files" "The folder holds the files of a saved model: `*.safetensors`, or `pytorch_model*.bin`." => "Get the whole folder of the delta.";
    F_WEIGHTS_FILE = "F002" Error "fastchat: files" "Weight files are sound safetensors, or flat dicts in torch files." => "The file is cut short, damaged, or a git-lfs pointer: fetch it again.";
    F_INDEX = "F003" Error "fastchat: files" "The index, where there is one, names every tensor of the files with its file, and each stands in one." => "A shard is missing or of another delta: get the whole folder.";
    F_DTYPE = "F004" Error "fastchat: tensors" "Differences are F64, F32, F16 or BF16; a tensor of another dtype is zero everywhere." => "A quantised or integer tensor has no difference that FastChat could add.";
    F_FINITE = "F005" Error "fastchat: tensors" "Differences are finite." => "The tuned weights overflowed F16: make the difference again from the two models with `fitment diff`.";
    F_ZERO = "F006" Warning "fastchat: tensors" "Some difference is not zero." => "The delta changes nothing: is this the right folder?";
}
