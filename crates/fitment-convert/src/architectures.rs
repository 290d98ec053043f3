//! Where the sites of interventions lie in the models of transformers (5.23): which module's weight makes or reads them.
//!
//! A new architecture is one line of [`ARCHITECTURES`]. Names are those below a layer; the names in front of it are found in the checkpoint, which
//! has or lacks the prefix of its class.
//!
//! | site | weight |
//! |---|---|
//! | `query_output`, `key_output`, `value_output` | output of `query`, `key`, `value` |
//! | `attention_input` | input of these three |
//! | `attention_value_output` | input of `attention_out` |
//! | `attention_output` | output of `attention_out` |
//! | `mlp_input` | input of all `mlp_in` |
//! | `mlp_activation` | input of `mlp_out`, where nothing is `gated` |
//! | `mlp_output` | output of `mlp_out` |
//! | `block_output`, constants only | output of `constant` |

use fitment_core::model::SiteComponent;

/// How a family of models names its linear layers, and what lies between them.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// The list of layers: `layers` stands for `layers.0`, `layers.1`, ….
    pub layers: &'static str,
    /// The attention module; its input must reach nothing but query, key and value.
    pub attention: Option<&'static str>,
    /// Projections to queries.
    pub query: Projection,
    /// Projections to keys.
    pub key: Projection,
    /// Projections to values.
    pub value: Projection,
    /// Projection behind the heads.
    pub attention_out: &'static str,
    /// Whether the attention module's output is that projection's.
    pub attention_out_is_output: bool,
    /// The feed-forward module, where it is one.
    pub mlp: Option<&'static str>,
    /// The linear layers that read its input.
    pub mlp_in: &'static [&'static str],
    /// The linear layer whose output is its output.
    pub mlp_out: Option<&'static str>,
    /// What the activation function gives is multiplied by another projection before `mlp_out` reads it.
    pub gated: bool,
    /// Weights are stored `[in, out]` (GPT-2's Conv1D).
    pub conv1d: bool,
    /// A constant at `block_output` is the same as one behind this module's bias.
    pub constant: Constant,
    /// `config.json` has the key `attention_bias`, which gives query, key, value and output a bias.
    pub attention_bias: bool,
    /// `config.json` has the key `mlp_bias`, for all linear layers of the feed-forward module.
    pub mlp_bias: bool,
}

/// Output of a linear layer, or part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// The module.
    pub module: &'static str,
    /// Its rows.
    pub rows: Rows,
}

/// Which outputs of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// One of three equal parts, from 0.
    Third(u64),
    /// The same, head by head: each head's query, key and value stand together.
    ThirdOfHead(u64),
    /// Queries, then keys, then values, of the config's numbers of heads.
    Grouped(u64),
}

/// Where a constant at `block_output` can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// Into the bias of this module, which is the last thing that is added to the residual stream, or a layer norm that ends the layer.
    Bias(&'static str),
    /// The same, unless the config has this flag as false.
    BiasIf(&'static str, &'static str),
    /// Nowhere, for this reason.
    Nowhere(&'static str),
}

const fn all(module: &'static str) -> Projection {
    Projection { module, rows: Rows::All }
}

/// Llama's names; others say where they differ.
const LLAMA: Architecture = Architecture {
    model_types: &["llama"],
    layers: "layers",
    attention: Some("self_attn"),
    query: all("self_attn.q_proj"),
    key: all("self_attn.k_proj"),
    value: all("self_attn.v_proj"),
    attention_out: "self_attn.o_proj",
    attention_out_is_output: true,
    mlp: Some("mlp"),
    mlp_in: &["mlp.gate_proj", "mlp.up_proj"],
    mlp_out: Some("mlp.down_proj"),
    gated: true,
    conv1d: false,
    constant: Constant::Bias("mlp.down_proj"),
    attention_bias: true,
    mlp_bias: true,
};

const NORM_BEHIND: Constant =
    Constant::Nowhere("the feed-forward output passes a norm before it joins the residual stream");

/// Every architecture whose sites are known.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture { model_types: &["mistral", "qwen2"], attention_bias: false, mlp_bias: false, ..LLAMA },
    Architecture { model_types: &["qwen3", "gemma", "olmo"], mlp_bias: false, ..LLAMA },
    Architecture {
        model_types: &["gemma2", "gemma3", "gemma3_text", "olmo2"],
        mlp_bias: false,
        constant: NORM_BEHIND,
        ..LLAMA
    },
    Architecture {
        model_types: &["granite"],
        constant: Constant::Nowhere(
            "the feed-forward output is multiplied before it joins the residual stream",
        ),
        ..LLAMA
    },
    Architecture {
        model_types: &["phi3"],
        query: Projection { module: "self_attn.qkv_proj", rows: Rows::Grouped(0) },
        key: Projection { module: "self_attn.qkv_proj", rows: Rows::Grouped(1) },
        value: Projection { module: "self_attn.qkv_proj", rows: Rows::Grouped(2) },
        mlp_in: &["mlp.gate_up_proj"],
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Architecture {
        model_types: &["phi"],
        attention_out: "self_attn.dense",
        mlp_in: &["mlp.fc1"],
        mlp_out: Some("mlp.fc2"),
        gated: false,
        constant: Constant::Bias("mlp.fc2"),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Architecture {
        model_types: &["opt"],
        attention_out: "self_attn.out_proj",
        mlp: None,
        mlp_in: &["fc1"],
        mlp_out: Some("fc2"),
        gated: false,
        constant: Constant::BiasIf("fc2", "do_layer_norm_before"),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Architecture {
        model_types: &["gpt2"],
        layers: "h",
        attention: Some("attn"),
        query: Projection { module: "attn.c_attn", rows: Rows::Third(0) },
        key: Projection { module: "attn.c_attn", rows: Rows::Third(1) },
        value: Projection { module: "attn.c_attn", rows: Rows::Third(2) },
        attention_out: "attn.c_proj",
        mlp_in: &["mlp.c_fc"],
        mlp_out: Some("mlp.c_proj"),
        gated: false,
        conv1d: true,
        constant: Constant::Bias("mlp.c_proj"),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    Architecture {
        model_types: &["gpt_neox"],
        attention: Some("attention"),
        query: Projection { module: "attention.query_key_value", rows: Rows::ThirdOfHead(0) },
        key: Projection { module: "attention.query_key_value", rows: Rows::ThirdOfHead(1) },
        value: Projection { module: "attention.query_key_value", rows: Rows::ThirdOfHead(2) },
        attention_out: "attention.dense",
        mlp_in: &["mlp.dense_h_to_4h"],
        mlp_out: Some("mlp.dense_4h_to_h"),
        gated: false,
        constant: Constant::Bias("mlp.dense_4h_to_h"),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
    // Norms end both halves of a layer, and the attention's input is added behind it too.
    Architecture {
        model_types: &["bert", "roberta", "xlm-roberta", "camembert"],
        layers: "layer",
        attention: None,
        query: all("attention.self.query"),
        key: all("attention.self.key"),
        value: all("attention.self.value"),
        attention_out: "attention.output.dense",
        attention_out_is_output: false,
        mlp: None,
        mlp_in: &["intermediate.dense"],
        mlp_out: None,
        constant: Constant::Bias("output.LayerNorm"),
        attention_bias: false,
        mlp_bias: false,
        ..LLAMA
    },
];

impl Architecture {
    /// The line of a `model_type`.
    pub fn of(model_type: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.model_types.contains(&model_type))
    }

    /// What comes before the list of layers in a module's path, the layer's number, and the rest.
    pub fn inside(&self, module: &str) -> Option<(String, u64, String)> {
        let parts: Vec<&str> = module.split('.').collect();
        let list: Vec<&str> = self.layers.split('.').collect();
        let at = parts.windows(list.len()).position(|window| window == list)?;
        let (layer, rest) = parts[at + list.len()..].split_first()?;
        Some((parts[..at].join("."), layer.parse().ok()?, rest.join(".")))
    }

    /// The word of pyvene for the output or the input of a layer's module (its name there; empty for the layer itself), where it has one.
    pub fn component(&self, rest: &str, is_output: bool) -> Option<SiteComponent> {
        match (rest, is_output) {
            ("", true) => Some(SiteComponent::BlockOutput),
            ("", false) => Some(SiteComponent::BlockInput),
            (rest, true) if Some(rest) == self.attention => Some(SiteComponent::AttentionOutput),
            (rest, false) if Some(rest) == self.attention => Some(SiteComponent::AttentionInput),
            (rest, true) if Some(rest) == self.mlp => Some(SiteComponent::MlpOutput),
            (rest, false) if Some(rest) == self.mlp => Some(SiteComponent::MlpInput),
            _ => None,
        }
    }

    /// Query, key and value.
    pub fn projections(&self) -> [Projection; 3] {
        [self.query, self.key, self.value]
    }

    /// Every linear layer of a layer, each once.
    pub fn linears(&self) -> Vec<&'static str> {
        let mut linears: Vec<&str> = self.projections().iter().map(|projection| projection.module).collect();
        linears.push(self.attention_out);
        linears.extend(self.mlp_in);
        linears.extend(self.mlp_out);
        linears.dedup();
        linears
    }
}

#[cfg(test)]
mod tests {
    use super::{ARCHITECTURES, Architecture};
    use std::collections::BTreeSet;

    #[test]
    fn a_model_type_has_one_line() {
        let types: Vec<&str> = ARCHITECTURES.iter().flat_map(|line| line.model_types).copied().collect();
        assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len());
        assert!(Architecture::of("gpt2").is_some_and(|gpt2| gpt2.conv1d && gpt2.linears().len() == 4));
        assert!(Architecture::of("gpt").is_none());
    }
}
