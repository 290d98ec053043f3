//! What an adapter of MLX-LM must keep, as coded rules. mlx-lm itself checks names and shapes against the model, and older ones nothing.

fitment_core::rule_table! {
    X_CONFIG_MISSING = "X001" Error "mlx: files" "`adapter_config.json` lies beside the weights." => "The scale stands only there: get the whole adapter folder.";
    X_CONFIG = "X002" Error "mlx: config" "The config is one JSON object without duplicate keys: `fine_tune_type` `lora`, `dora` or `full`, and but for `full` `lora_parameters` with a number `scale` and a `rank` of 1 or more." => "Correct the key, or train again with a current mlx-lm.";
    X_WEIGHTS_MISSING = "X003" Error "mlx: files" "`adapters.safetensors` lies beside the config." => "Get the whole adapter folder; a checkpoint `NNNNNNN_adapters.safetensors` is renamed to that.";
    X_WEIGHTS_FILE = "X004" Error "mlx: files" "The weight file is sound safetensors." => "The file is cut short, damaged, or a git-lfs pointer: fetch it again.";
    X_UNSUPPORTED = "X005" Error "mlx: methods" "LoRA is of linear layers, embeddings and experts (`switch_mlp`), DoRA of linear layers, by a `scale` alone." => "Fuse it with `mlx_lm.fuse --dequantize`, and take `fitment diff BASE FUSED`.";
    X_KEY = "X006" Error "mlx: keys" "Every tensor is `lora_a`, `lora_b` or `m` of a module, or of `full` a weight." => "Newer mlx-lm refuses such a file, older ones ignored the tensor in silence: find out what wrote it.";
    X_UNIT = "X007" Error "mlx: tensors" "Every module has `lora_a` and `lora_b`, and of DoRA `m`." => "mlx-lm would leave what is missing as it drew it at random: train or save the adapter again.";
    X_SHAPE = "X008" Error "mlx: tensors" "`lora_a` is `[in, r]`, `lora_b` `[r, out]`, `m` `[out]`; of experts `[E, r, in]` and `[E, out, r]`." => "The file is damaged, or was put together from two.";
    X_VALUE = "X009" Error "mlx: tensors" "Weights are F32, F16 or BF16, and finite." => "The training diverged: go back to a checkpoint before it.";
    X_RANK = "X010" Warning "mlx: config" "`rank` is the rank of the tensors." => "The tensors count. Correct `rank`: mlx-lm refuses the file.";
    X_OLD_EXPERTS = "X011" Warning "mlx: tensors" "`lora_a` of experts is `[E, r, in]`." => "mlx-lm of October 2025 and later refuses the file; `fitment convert --to mlx` writes it as they have it.";
    X_SCALE_ZERO = "X012" Warning "mlx: config" "`scale` is not 0." => "With scale 0 the adapter does nothing.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("X{:03}", index + 1));
        }
    }
}
