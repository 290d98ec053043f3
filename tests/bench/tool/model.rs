//! The model of the benchmark: TinyLlama's shape, 1.1 billion parameters.

/// Layers.
pub(crate) const LAYERS: usize = 22;
const WIDTH: u64 = 2048;
const FEED_FORWARD: u64 = 5632;
const KEYS: u64 = 4 * 64;
const VOCABULARY: u64 = 32000;

/// Rank and scale of the adapter: alpha 32.
pub(crate) const RANK: u64 = 16;
pub(crate) const ALPHA: f64 = 32.0;

/// A shard is closed before it grows beyond this.
pub(crate) const SHARD_BYTES: u64 = 1_000_000_000;

/// The linear modules of one layer: path inside the layer, rows, columns.
pub(crate) const LINEAR: &[(&str, u64, u64)] = &[
    ("self_attn.q_proj", WIDTH, WIDTH),
    ("self_attn.k_proj", KEYS, WIDTH),
    ("self_attn.v_proj", KEYS, WIDTH),
    ("self_attn.o_proj", WIDTH, WIDTH),
    ("mlp.gate_proj", FEED_FORWARD, WIDTH),
    ("mlp.up_proj", FEED_FORWARD, WIDTH),
    ("mlp.down_proj", WIDTH, FEED_FORWARD),
];

/// Every tensor of the base, in the order of its modules.
pub(crate) fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, WIDTH])];
    for layer in 0..LAYERS {
        let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
        tensors.extend(LINEAR.iter().map(|(module, rows, columns)| (name(module), vec![*rows, *columns])));
        tensors.push((name("input_layernorm"), vec![WIDTH]));
        tensors.push((name("post_attention_layernorm"), vec![WIDTH]));
    }
    tensors.push(("model.norm.weight".to_owned(), vec![WIDTH]));
    tensors.push(("lm_head.weight".to_owned(), vec![VOCABULARY, WIDTH]));
    tensors
}

/// `config.json`, so that transformers opens the folder.
pub(crate) fn config() -> String {
    format!(
        r#"{{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "hidden_act": "silu",
  "hidden_size": {WIDTH},
  "intermediate_size": {FEED_FORWARD},
  "max_position_embeddings": 2048,
  "model_type": "llama",
  "num_attention_heads": 32,
  "num_hidden_layers": {LAYERS},
  "num_key_value_heads": 4,
  "rms_norm_eps": 1e-05,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "vocab_size": {VOCABULARY}
}}
"#
    )
}

/// `adapter_config.json`.
pub(crate) fn adapter_config(rank: u64) -> String {
    let modules: Vec<String> =
        LINEAR.iter().map(|(module, ..)| format!("    {:?}", module.rsplit('.').next())).collect();
    let modules = modules.join(",\n").replace("Some(", "").replace(')', "");
    format!(
        r#"{{
  "base_model_name_or_path": "base",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "lora_alpha": {ALPHA},
  "lora_dropout": 0.0,
  "peft_type": "LORA",
  "r": {rank},
  "target_modules": [
{modules}
  ],
  "task_type": "CAUSAL_LM"
}}
"#
    )
}
