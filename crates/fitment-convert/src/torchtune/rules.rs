//! What an adapter of torchtune must keep, as coded rules. torchtune itself checks keys against the model, and little else.

fitment_core::rule_table! {
    U_WEIGHTS_MISSING = "U001" Error "torchtune: files" "There is one `adapter_model.pt`, or one `adapter_N.pt`." => "Name the folder of one epoch, or the one file.";
    U_WEIGHTS_FILE = "U002" Error "torchtune: files" "The weight file is a torch file with a flat dict of tensors." => "Take the file that torchtune wrote: `recipe_state.pt` and the shards of the model are others.";
    U_UNSUPPORTED = "U003" Error "torchtune: keys" "Modules are those of torchtune's text decoders: `layers.N.attn`, `layers.N.mlp`, `output`." => "Of models with images, the merged checkpoint that torchtune writes can be had as an adapter: `fitment diff BASE MERGED`.";
    U_KEY = "U004" Error "torchtune: keys" "Every tensor is `lora_a.weight`, `lora_b.weight` or `magnitude` of a module." => "Find out what wrote the file; PEFT's tensors under this name are read when it is renamed to `adapter_model.bin`.";
    U_UNIT = "U005" Error "torchtune: tensors" "Every module has `lora_a` and `lora_b`." => "The file is damaged, or was filtered: save the adapter again.";
    U_SHAPE = "U006" Error "torchtune: tensors" "`lora_a` is `[r, in]`, `lora_b` `[out, r]`, `magnitude` `[out]`, with one `r` for all." => "The file is damaged, or was put together from two.";
    U_VALUE = "U007" Error "torchtune: tensors" "Weights are F32, F16 or BF16." => "Save the adapter again in the dtype in which it was trained.";
    U_CONFIG = "U008" Error "torchtune: config" "`adapter_config.json`, where it is there, is one JSON object with the numbers `lora_alpha` and `r`, the rank of the tensors." => "It is of another adapter, or damaged: get the one of this epoch, or leave it away and say `--alpha`.";
    U_VARIANT = "U009" Error "torchtune: config" "The config says plain LoRA, or DoRA where there are magnitudes: no other variant, no patterns, no biases." => "torchtune writes none of these: get the config of this training, or leave it away and say `--alpha`.";
    U_CONFIG_KEY = "U010" Warning "torchtune: config" "The config holds only keys of PEFT 0.21." => "If it changes what the adapter does, this tool does not know it.";
    U_ALPHA_ZERO = "U011" Warning "torchtune: config" "Alpha is not 0." => "With alpha 0 the adapter does nothing.";
    U_FAMILY = "U012" Warning "torchtune: files" "The `config.json` beside the adapter is of a model like the base." => "Rows and names are read as the file beside the adapter has them. Give the base that the adapter was trained on; where that file is of another model, take it away.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("U{:03}", index + 1));
        }
    }
}
