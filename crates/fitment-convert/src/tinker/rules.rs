//! What an adapter of Tinker must keep, as coded rules. tinker-cookbook finds most breaches while it merges.

fitment_core::rule_table! {
    K_FILES = "K001" Error "tinker: files" "`adapter_model.safetensors` and `adapter_config.json` lie side by side." => "Download the adapter again, with both files.";
    K_WEIGHTS_FILE = "K002" Error "tinker: files" "The weight file is sound safetensors." => "The file is cut short or damaged: download it again.";
    K_CONFIG = "K003" Error "tinker: config" "The config is one JSON object with the numbers `r` and `lora_alpha`." => "Download the adapter again.";
    K_KEY = "K004" Error "tinker: keys" "Every key is `base_model.model.MODULE.lora_A.weight` or `.lora_B.weight`." => "Find out what wrote the file: with PEFT's names it is read with `--from peft`.";
    K_UNSUPPORTED = "K005" Error "tinker: keys" "Modules are those of transformers, or Tinker's own that are known: of experts `w1`, `w2`, `w3`." => "Merge it with tinker-cookbook's `build_hf_model`, and take `fitment diff BASE MERGED`.";
    K_UNIT = "K006" Error "tinker: tensors" "Every module has `lora_A` and `lora_B`." => "The file is damaged, or was filtered: download it again.";
    K_SHAPE = "K007" Error "tinker: tensors" "`lora_A` is `[r, in]`, `lora_B` `[out, r]`, by the config's `r`; of experts with their number in front, which is 1 for what they share, but not for both." => "The file is damaged, or was put together from two.";
    K_VALUE = "K008" Error "tinker: tensors" "Weights are F32, F16 or BF16." => "Download the adapter again.";
    K_TIED = "K009" Note "tinker: keys" "`unembed_tokens` is trained where the base has a head of its own." => "tinker-cookbook merges it into the embedding, and so into the input too. Here it is of the head alone, as it was trained; the result has a head of its own.";
    K_TWICE = "K010" Error "tinker: keys" "No two modules of the file are one in the model." => "Two spellings of one module contradict each other: download the adapter again.";
    K_VARIANT = "K011" Error "tinker: config" "The config says plain LoRA: no variant, no patterns, no biases." => "Tinker writes none of these: find out what changed the config, or wrote the adapter.";
    K_CONFIG_KEY = "K012" Warning "tinker: config" "The config holds only keys of PEFT 0.21." => "If it changes what the adapter does, this tool does not know it.";
    K_ALPHA_ZERO = "K013" Warning "tinker: config" "`lora_alpha` is not 0." => "With alpha 0 the adapter does nothing.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("K{:03}", index + 1));
        }
    }
}
