//! What a sparse patch must keep, as coded rules. TRL checks none of them but the checksum.

fitment_core::rule_table! {
    L_FILE = "L001" Error "trl: file" "The patch is one sound safetensors file." => "The file is cut short, damaged, or a git-lfs pointer: fetch it again.";
    L_METADATA = "L002" Error "trl: metadata" "`format` is `sparse_weight_patch`, `version` is `1`, `encoding` is `raw` or `gap_delta`, where they are there." => "A newer TRL wrote the patch: write it again with an encoding that is read.";
    L_ENCODING = "L003" Error "trl: metadata" "The positions are not compressed by nvCOMP." => "Only nvCOMP on an NVIDIA GPU reads them. Write the patch again with the encoding `gap_delta` or `raw`.";
    L_PAIR = "L004" Error "trl: tensors" "Every tensor of a patch is one of a pair: `NAME.indices` and `NAME.values`, or `NAME.idx` and `NAME.val`; an anchor holds whole parameters." => "The file was put together from two, or is no patch.";
    L_INDEX = "L005" Error "trl: tensors" "Positions are I32, U32 or I64 `[n]`, gaps U16 or U32 `[n]`, for `n` values." => "The file is damaged: write the patch again.";
    L_ORDER = "L006" Error "trl: tensors" "Positions ascend strictly from 0 on, and fit in 32 bits where they are told as gaps." => "An element would be set twice, or one that is not there: write the patch again from the two models.";
    L_VALUE = "L007" Error "trl: tensors" "Values are F64, F32, F16 or BF16, and finite." => "The training run holds NaN or infinite weights: go back to a step before them.";
    L_COUNT = "L008" Warning "trl: metadata" "`num_changed_params`, `total_changed_elements` and `changed_params` are those of the tensors." => "The tensors count. TRL itself goes by `changed_params`: parameters that it does not list stay as they were.";
    L_CHECKSUM = "L009" Error "trl: metadata" "`checksum_sha256` is that of the base with the patch applied." => "The patch is for the step before it: apply all patches since the anchor, in their order, or name the right base.";
}
