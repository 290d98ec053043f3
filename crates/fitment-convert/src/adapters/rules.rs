//! What an adapter of AdapterHub's library must keep, as coded rules. The library takes what fits and passes over the rest.

fitment_core::rule_table! {
    H_CONFIG_MISSING = "H001" Error "adapters: files" "`adapter_config.json` lies beside the weights." => "Positions and activation stand only there: get the whole adapter folder.";
    H_CONFIG = "H002" Error "adapters: config" "The config is one JSON object without duplicate keys, and every known key of `config` has the type and one of the values that the library writes." => "Correct the key, or save the adapter again.";
    H_WEIGHTS_MISSING = "H003" Error "adapters: files" "`adapter.safetensors` or `pytorch_adapter.bin` lies beside the config." => "Get the whole adapter folder.";
    H_WEIGHTS_FILE = "H004" Error "adapters: files" "The weight file is sound safetensors, or a flat dict in a torch file." => "The file is cut short, damaged, or a git-lfs pointer: fetch it again.";
    H_UNSUPPORTED = "H005" Error "adapters: methods" "The adapter is ReFT, LoRA, or a bottleneck adapter that acts on states of a known place." => "Load it with the library that made it.";
    H_KEY = "H006" Error "adapters: keys" "Every tensor is part of the method that the config names, all of one adapter." => "The library ignores tensors that it does not know, in silence: find out what wrote this one.";
    H_UNIT = "H007" Error "adapters: tensors" "Every unit has all its tensors: a ReFT its source, bias and projection, an orthogonal one `original` and `base`; a bottleneck adapter both projections and biases; LoRA `lora_A` and `lora_B`." => "The library would leave what is missing as it drew it at random. Newer transformers lose `base`: save the adapter again where it was trained.";
    H_SHAPE = "H008" Error "adapters: tensors" "The tensors of a unit fit each other, of LoRA also `r`, by which its scale is divided; all units have the width of the model." => "The file is damaged, or of several models.";
    H_DTYPE = "H009" Error "adapters: tensors" "Weights are F64, F32, F16 or BF16." => "Save the adapter again with a floating-point dtype.";
    H_POSITIONS = "H010" Error "adapters: config" "There is a position at which the adapter acts." => "With `prefix_positions` and `suffix_positions` 0 it does nothing.";
    H_RANK = "H011" Warning "adapters: config" "`r` is the rank of the tensors." => "The tensors count. Correct `r`, or the library refuses them.";
    H_ORTHOGONALITY = "H012" Warning "adapters: config" "`orthogonality` is set exactly when projections are parametrised." => "The tensors count. Correct `orthogonality`, or the library leaves projections as it drew them at random.";
    H_TIED = "H013" Warning "adapters: config" "`tied_weights` is set exactly when layers have one unit." => "The tensors count. Correct `tied_weights`, or the library leaves a unit as it drew it at random.";
    H_LAYERS = "H014" Warning "adapters: config" "`layers`, or all but `leave_out`, are those of the tensors." => "The tensors count. Correct the list: the library ignores tensors of others, and draws those that are missing at random.";
    H_WIDTH = "H015" Warning "adapters: config" "`hidden_size` is the width of the tensors." => "The tensors count. Is the config that of another model?";
    H_NAME = "H016" Warning "adapters: config" "`name` is the adapter's name in the keys." => "The library renames by `name`: it finds no tensor. Correct it.";
    H_UNUSED = "H017" Note "adapters: tensors" "Every unit has positions at which it acts." => "Nothing to do: the library saves the second unit also where `suffix_positions` is 0.";
    H_PLACES = "H018" Warning "adapters: config" "`mh_adapter` and `output_adapter` say where there are tensors." => "The tensors count. Correct the flag: the library ignores tensors of other places, and draws those that are missing at random.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("H{:03}", index + 1));
        }
    }
}
