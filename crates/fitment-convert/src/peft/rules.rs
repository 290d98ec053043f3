//! What PEFT asks of an adapter folder, as coded rules: each breach is one that PEFT refuses, or worse, passes over.

use fitment_core::Severity;
use fitment_core::finding::{Code, Rule};

macro_rules! rules {
    ($($name:ident = $code:literal $severity:ident $section:literal $meaning:literal => $remedy:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: Rule = Rule {
                code: Code($code),
                severity: Severity::$severity,
                meaning: $meaning,
                section: $section,
                remedy: $remedy,
            };
        )*
        /// Every rule about PEFT adapters, in order of its code.
        pub const ALL: &[Rule] = &[$($name,)*];
    };
}

rules! {
    P_CONFIG_MISSING = "P001" Error "PEFT: files" "`adapter_config.json` lies beside the weights." => "Alpha, patterns and variants stand only there: get the whole adapter folder.";
    P_CONFIG_JSON = "P002" Error "PEFT: config" "The config is one JSON object without duplicate keys." => "The config is damaged: fetch or export the adapter again.";
    P_CONFIG_FIELD = "P003" Error "PEFT: config" "Every known key of the config has the type and one of the values that PEFT writes." => "Correct the key, or export the adapter again.";
    P_CONFIG_KEY = "P004" Warning "PEFT: config" "The config holds only keys that PEFT 0.21 knows." => "PEFT ignores such a key with a warning. If it changes what the adapter does, this tool does not know it.";
    P_UNSUPPORTED = "P005" Error "PEFT: methods" "The adapter is LoRA of a kind that can be put into weights." => "See the message: what to do depends on the method.";
    P_ALPHA_MISSING = "P006" Error "PEFT: config" "The config says `lora_alpha`." => "PEFT would take 8 in silence. Write the alpha that the adapter was trained with into adapter_config.json.";
    P_ALPHA_ZERO = "P007" Warning "PEFT: config" "No module has alpha 0." => "With alpha 0 the module does nothing.";
    P_PATTERN = "P008" Error "PEFT: selection" "Every pattern of the config is a regular expression that can be matched in bounded time." => "Rewrite the pattern in adapter_config.json so that it selects the same modules.";
    P_PATTERN_UNUSED = "P009" Warning "PEFT: selection" "Every key of `rank_pattern` and `alpha_pattern` decides for some module of the file." => "A pattern that never wins is often a typing error, or its place in the (sorted) config differs from training.";
    P_VERSION = "P010" Error "PEFT: selection" "It is known which version's pattern rule holds, where the rules differ." => "Write the version that trained the adapter into adapter_config.json as `peft_version`.";
    P_WEIGHTS_MISSING = "P011" Error "PEFT: files" "`adapter_model.safetensors` lies beside the config, or an index and its shards, or `adapter_model.bin`." => "Get the whole adapter folder.";
    P_WEIGHTS_FILE = "P012" Error "PEFT: files" "The weight file is sound safetensors, in all its shards, or a flat dict in a torch file; each tensor once." => "The file is cut short, damaged, or a git-lfs pointer: fetch it again.";
    P_KEY_PREFIX = "P013" Warning "PEFT: keys" "Keys begin with `base_model.model.`." => "PEFT ignores keys without the prefix; a round trip through `fitment convert` keeps them as they are.";
    P_KEY_ADAPTER_NAME = "P014" Warning "PEFT: keys" "Keys do not hold the adapter's name." => "PEFT ignores such keys unless the adapter is loaded under this very name.";
    P_KEY_UNKNOWN = "P015" Error "PEFT: keys" "Every tensor is part of a LoRA module, a saved module, a bias or token rows." => "PEFT ignores tensors that it does not know, in silence: find out what wrote this one.";
    P_KEY_TWICE = "P016" Error "PEFT: keys" "No two keys mean the same tensor." => "Two spellings of one key contradict each other: export the adapter again.";
    P_PAIR = "P017" Error "PEFT: tensors" "Every module has both its factors." => "PEFT loads such a module as untrained, with a warning at most: fetch or export the adapter again.";
    P_SHAPE = "P018" Error "PEFT: tensors" "Factors, magnitude and bias of a module fit each other and have no zero extent." => "DeepSpeed ZeRO-3 saves empty tensors when parameters are not gathered; otherwise the file is damaged.";
    P_DTYPE = "P019" Error "PEFT: tensors" "Weights are F64, F32, F16 or BF16." => "Export the adapter again with a floating-point dtype.";
    P_RANK = "P020" Error "PEFT: tensors" "The rank of the factors is the one that `r` and `rank_pattern` say." => "Config and weights are of different adapters, or the pattern order changed: PEFT refuses such a folder.";
    P_TARGET_UNLISTED = "P021" Error "PEFT: selection" "`target_modules` (with `exclude_modules`, `layers_to_transform`, `modules_to_save`) selects every module of the file." => "PEFT drops the tensors of modules that it does not select, in silence: correct `target_modules`.";
    P_TARGET_UNUSED = "P022" Warning "PEFT: selection" "Every name in `target_modules` and `target_parameters` selects something of the file." => "PEFT gives such modules an untrained LoRA, which does nothing.";
    P_SAVED_UNLISTED = "P023" Warning "PEFT: selection" "A whole tensor is a bias, an embedding, or named in `modules_to_save`." => "PEFT writes it over the base's tensor all the same; add its module to `modules_to_save`.";
    P_SAVED_MISSING = "P024" Warning "PEFT: selection" "Every name in `modules_to_save` has its tensors in the file, but for the names that PEFT adds by itself." => "A saved module without tensors loads as the base has it.";
    P_DORA = "P025" Error "PEFT: tensors" "`use_dora` is set exactly when modules have a magnitude." => "PEFT ignores magnitudes without the flag, and loads an untrained one where it is missing.";
    P_LORA_BIAS = "P026" Error "PEFT: tensors" "`lora_bias` is set exactly when factors have a bias." => "PEFT drops `lora_B.bias` without the flag (mergekit writes such files): set `lora_bias` to true.";
    P_BIAS = "P027" Warning "PEFT: tensors" "With `bias` `lora_only` the file holds the biases." => "PEFT up to 0.20 lost them on saving: the trained biases are gone.";
    P_TOKENS = "P028" Error "PEFT: tensors" "Token rows and `trainable_token_indices` go together: as many distinct indices as rows." => "Without its index a row cannot be placed: export the adapter again.";
    P_TIED_COPIES = "P029" Error "PEFT: tensors" "With `ensure_weight_tying`, what is stored for the tied modules is equal." => "The two copies of one delta differ: the file was edited or damaged.";
    P_EMPTY = "P030" Error "PEFT: tensors" "The file holds at least one tensor that changes the model." => "The adapter was saved before it had weights: export it again.";
    P_MODULE_MISSING = "P031" Warning "PEFT: selection" "The file holds every module of the base that `target_modules` selects." => "PEFT gives such a module an untrained LoRA, which does nothing: was the file cut or filtered?";
    P_MHA = "P032" Note "PEFT: methods" "The output projection of nn.MultiheadAttention is counted twice by PEFT up to 0.21." => "Nothing to do: the scale of that edit is twice alpha/r, as the adapter was trained.";
    P_FLAG_IGNORED = "P033" Warning "PEFT: config" "`fan_in_fan_out` is true only where a matrix is stored transposed, as GPT-2's Conv1D stores it." => "PEFT takes it back with a warning on linear layers. Nothing to do, if the base is the right one; write false into adapter_config.json to be rid of it.";
    P_MOE_LAYOUT = "P034" Warning "PEFT: selection" "Factors of experts are laid out as the PEFT of `peft_version` does." => "Shapes count, or --moe-layout where they tell nothing. The version was changed, or another tool wrote the factors: `fitment convert --to peft` writes them as PEFT has them today.";
    P_MOE_B_LAYOUT = "P035" Warning "PEFT: tensors" "The columns of an expert's `lora_B` stand as PEFT has them, the rank before the expert." => "Unsloth trained with them the other way before September 2026, and nothing in the files tells: say --moe-b-layout rank-major or expert-major.";
    P_BIAS_UNSAID = "P036" Warning "PEFT: tensors" "Where factors have a bias, the config says `lora_bias`." => "They count here: mergekit-extract-lora writes them as differences of the base's biases. PEFT drops them without a word; `fitment convert --to peft` writes a config that says `lora_bias`.";
    P_TORCHTUNE = "P037" Error "PEFT: tensors" "Rows and magnitudes of q and k are in transformers' order." => "Read what torchtune made it of, `adapter_model.pt` beside it, with `--from torchtune`. Where another tool wrote the folder, say its `peft_version` in adapter_config.json.";
    P_KEY_WRAPPED = "P038" Warning "PEFT: keys" "Keys do not hold wrappers of FSDP or of activation checkpointing." => "PEFT ignores such keys; `fitment apply` and `convert` look through the wrapper.";
    P_VALUE_HEAD = "P039" Note "PEFT: keys" "The file holds no value head of TRL." => "It is no part of the language model. Nothing to do, unless training goes on: keep the original.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("P{:03}", index + 1));
        }
    }
}
