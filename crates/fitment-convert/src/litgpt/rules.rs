//! What LoRA of litgpt's must keep, as coded rules. litgpt itself takes what its model's `load_state_dict` takes.

fitment_core::rule_table! {
    I_FILES = "I001" Error "litgpt: files" "`lit_model.pth.lora`, `hyperparameters.yaml` and `model_config.yaml` lie side by side." => "Get the whole folder that `litgpt finetune lora` wrote: alpha and the numbers of heads stand only there.";
    I_WEIGHTS_FILE = "I002" Error "litgpt: files" "The weight file is a torch file with a flat dict of tensors under `model`." => "The file is damaged, or of another tool.";
    I_CONFIG = "I003" Error "litgpt: config" "The YAML files are maps without aliases and doubles, with the keys that LoRA asks: `lora_r`, `lora_alpha`, `lora_query`, `lora_key`, `lora_value`; `name`, `n_head`, `n_embd`, `mlp_class_name`." => "Get the file that litgpt wrote.";
    I_UNSUPPORTED = "I004" Error "litgpt: keys" "Modules are `attn.qkv`, `attn.proj`, those of `mlp`, and `lm_head`, of a model without latent attention." => "Merge with `litgpt merge_lora`, convert the result and the base with `litgpt convert_from_litgpt`, and take `fitment diff BASE MERGED`.";
    I_KEY = "I005" Error "litgpt: keys" "Every tensor is `lora_A` or `lora_B` of a module." => "Find out what wrote the file: litgpt's adapters of other kinds are no LoRA.";
    I_UNIT = "I006" Error "litgpt: tensors" "Every module has `lora_A` and `lora_B`." => "The file is damaged, or was filtered: save it again.";
    I_SHAPE = "I007" Error "litgpt: tensors" "`lora_A` is `[r, in]`, `lora_B` `[out, r]`, by `lora_r`; of `attn.qkv` `[n·r, in]` and `[rows, r]`, by the heads of the n that are trained." => "The file is of another model or another training than the configs beside it.";
    I_VALUE = "I008" Error "litgpt: tensors" "Weights are F32, F16 or BF16." => "Save the file again in the dtype in which it was trained.";
    I_VARIANT = "I009" Error "litgpt: config" "`hyperparameters.yaml` says plain LoRA: no variant of it." => "litgpt writes none of these: find out what changed the file, or wrote the adapter.";
    I_CONFIG_KEY = "I010" Warning "litgpt: config" "Keys `lora_…` and `use_…` of `hyperparameters.yaml` are litgpt's." => "If it changes what the adapter does, this tool does not know it.";
    I_ALPHA_ZERO = "I011" Warning "litgpt: config" "`lora_alpha` is not 0." => "With alpha 0 the adapter does nothing.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("I{:03}", index + 1));
        }
    }
}
