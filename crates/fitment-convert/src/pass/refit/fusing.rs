//! Which linear layers some models keep as one, and in which order the rows of the parts stand there.

use crate::model_config;
use crate::pass::rows::in_turns;
use fitment_core::model::IndexRange;
use serde_json::{Map, Value};
use std::str::FromStr;

/// A linear layer that some models have as one and others in parts, by the last word of its path.
#[derive(Debug)]
pub(super) struct Fusing {
    /// What it is called as one.
    pub(super) wholes: &'static [&'static str],
    /// What its parts are called, in the order in which a whole has them; each line is one family of models.
    pub(super) parts: &'static [&'static [&'static str]],
    /// How the rows of a whole are laid out.
    pub(super) rows: Rows,
}

/// How a whole is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Part behind part, of equally many rows.
    Equal,
    /// Queries, keys and values, as [`QkvRows`] says.
    Qkv,
}

/// Every layer that is known in both forms.
pub(super) const FUSINGS: &[Fusing] = &[
    Fusing { wholes: &["gate_up_proj"], parts: &[&["gate_proj", "up_proj"]], rows: Rows::Equal },
    Fusing {
        wholes: &["qkv_proj", "query_key_value", "c_attn", "W_pack", "Wqkv", "linear_qkv", "qkv", "to_qkv"],
        parts: &[
            &["q_proj", "k_proj", "v_proj"],
            &["query", "key", "value"],
            &["to_q", "to_k", "to_v"],
            &["wq", "wk", "wv"],
        ],
        rows: Rows::Qkv,
    },
];

/// In which order a fused projection has the rows of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvRows {
    /// All queries, all keys, all values (Phi-3, GPT-2, MPT, Baichuan).
    Together,
    /// For each head of keys in turn its queries, its keys, its values (GPT-NeoX, BLOOM, Falcon, Megatron).
    Grouped,
    /// Four blocks of equally many heads, each with its queries, its values, its keys (CodeGen).
    Blocks,
}

impl QkvRows {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Together, Self::Grouped, Self::Blocks];

    /// The value of `--qkv-rows`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Grouped => "grouped",
            Self::Blocks => "blocks",
        }
    }

    /// Where queries, keys and values stand in a whole, which have so many rows.
    pub(super) fn places(self, sizes: &[u64], heads: Option<Heads>) -> Option<Vec<Vec<IndexRange>>> {
        match (self, sizes) {
            (Self::Together, sizes) => in_turns(sizes, 1),
            (Self::Grouped, sizes) => in_turns(sizes, heads?.keys),
            (Self::Blocks, &[queries, keys, values]) => {
                // Heads are not cut in two.
                heads.filter(|heads| heads.queries.is_multiple_of(BLOCKS) && heads.keys == heads.queries)?;
                let [queries, values, keys] =
                    <[Vec<IndexRange>; 3]>::try_from(in_turns(&[queries, values, keys], BLOCKS)?).ok()?;
                Some(vec![queries, keys, values])
            }
            (Self::Blocks, _) => None,
        }
    }
}

/// CodeGen's `mp_num`, which is no matter of its config (`modeling_codegen.py` of transformers 5.23).
const BLOCKS: u64 = 4;

/// No such value of `--qkv-rows`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--qkv-rows is `together`, `grouped` or `blocks`, not {0:?}")]
pub struct NoSuchRows(String);

impl FromStr for QkvRows {
    type Err = NoSuchRows;

    fn from_str(text: &str) -> Result<Self, NoSuchRows> {
        Self::ALL.into_iter().find(|rows| rows.name() == text).ok_or_else(|| NoSuchRows(text.to_owned()))
    }
}

/// Model types by the order of their fused projection: what attention does with its output in transformers 5.23.
const TOGETHER: &[&str] = &["phi3", "phi4_multimodal", "gpt2", "imagegpt", "mpt", "dbrx"];
const GROUPED: &[&str] = &["gpt_neox", "gpt_neox_japanese", "bloom", "falcon", "persimmon"];

/// Names that have but one order in all models that are known here, for adapters on a base that has the parts.
const TOGETHER_NAMES: &[&str] = &["qkv_proj", "W_pack", "to_qkv"];
const GROUPED_NAMES: &[&str] = &["linear_qkv"];

const BLOCKED: &[&str] = &["codegen"];

/// Those, and models that may have their layers in parts.
const BLOCKED_KIN: &[&str] = &["codegen", "gptj"];

/// The order that a base which has the whole says by its config.
pub(super) fn rows_of_model(config: &Map<String, Value>) -> Option<QkvRows> {
    let model_type = crate::tying::model_type(config)?;
    // With one head of keys for all queries; else each head has its own three.
    let bigcode = model_type == "gpt_bigcode";
    let one_key = || config.get("multi_query").and_then(Value::as_bool) != Some(false);
    if BLOCKED.contains(&model_type) {
        Some(QkvRows::Blocks)
    } else if GROUPED.contains(&model_type) || (bigcode && !one_key()) {
        Some(QkvRows::Grouped)
    } else if TOGETHER.contains(&model_type) || bigcode {
        Some(QkvRows::Together)
    } else {
        None
    }
}

/// The order in a whole of that name. `config` is that of the base, `is_whole` whether the base has the whole. `None` when nothing tells.
pub(super) fn qkv_rows(
    name: &str,
    is_whole: bool,
    config: Option<&Map<String, Value>>,
    said: Option<QkvRows>,
) -> Option<QkvRows> {
    // GPT-J has in parts what CodeGen has as one.
    let is_kin = config.and_then(crate::tying::model_type).is_some_and(|known| BLOCKED_KIN.contains(&known));
    let by_name = || match name {
        _ if is_kin => None,
        name if GROUPED_NAMES.contains(&name) => Some(QkvRows::Grouped),
        name if TOGETHER_NAMES.contains(&name) => Some(QkvRows::Together),
        _ => None,
    };
    let by_model = config.filter(|_| is_whole).and_then(rows_of_model);
    said.or(by_model).or_else(by_name)
}

/// The heads of a model's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) queries: u64,
    pub(super) keys: u64,
    /// Rows of one head, where the config says it.
    pub(super) width: Option<u64>,
}

/// The heads that a model's config tells of.
pub(super) fn heads(config: &Map<String, Value>) -> Option<Heads> {
    let count = |keys: &[&str]| {
        keys.iter().find_map(|key| model_config::count(config, key)).filter(|count| *count > 0)
    };
    let flag = |key: &str| model_config::find(config, key).and_then(Value::as_bool);
    let queries = count(&["num_attention_heads", "n_head", "n_heads"])?;
    let model_type = crate::tying::model_type(config).unwrap_or_default();
    let keys = match model_type {
        "falcon" if flag("new_decoder_architecture") == Some(true) => count(&["num_kv_heads"]),
        // Both flags as FalconConfig and GPTBigCodeConfig have them where a config lacks them.
        "falcon" | "gpt_bigcode" => Some(1).filter(|_| flag("multi_query") != Some(false)),
        "mpt" | "dbrx" => {
            let attention = model_config::find(config, "attn_config").and_then(Value::as_object);
            attention.and_then(|attention| attention.get("kv_n_heads")?.as_u64())
        }
        _ => count(&["num_key_value_heads"]),
    };
    let by_hidden = || count(&["hidden_size", "n_embd", "d_model"])?.checked_div(queries);
    Some(Heads { queries, keys: keys.unwrap_or(queries), width: count(&["head_dim"]).or_else(by_hidden) })
}

/// How many rows each of the parts has of a whole of so many; `None` when they do not come out even.
pub(super) fn sizes(rows: u64, parts: usize, layout: Rows, heads: Option<Heads>) -> Option<Vec<u64>> {
    let divided = |by: u64| rows.checked_div(by).filter(|part| *part > 0 && part * by == rows);
    match layout {
        Rows::Equal => Some(vec![divided(parts as u64)?; parts]),
        Rows::Qkv => {
            let Heads { queries, keys, width: said } = heads?;
            let width = divided(keys.checked_mul(2)?.checked_add(queries)?)?;
            // Else it is no projection of all three, such as GPT-2's of cross-attention.
            let is_all = said.is_none_or(|said| said == width);
            is_all.then(|| vec![width * queries, width * keys, width * keys])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Heads, QkvRows, Rows, heads, qkv_rows, sizes};
    use fitment_core::model::IndexRange;
    use serde_json::{Map, Value, json};

    fn config(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_order_is_of_the_model_or_of_the_name() {
        let neox = config(json!({"model_type": "gpt_neox"}));
        let order = |name: &str, is_whole, config: Option<&Map<String, Value>>| {
            qkv_rows(name, is_whole, config, None)
        };
        assert_eq!(order("query_key_value", true, Some(&neox)), Some(QkvRows::Grouped));
        // A base with the parts says nothing about the model that the adapter was made on.
        assert_eq!(order("query_key_value", false, Some(&neox)), None);
        assert_eq!(order("qkv_proj", false, None), Some(QkvRows::Together));
        let codegen = config(json!({"model_type": "codegen"}));
        assert_eq!(order("qkv_proj", true, Some(&codegen)), Some(QkvRows::Blocks));
        assert_eq!(order("qkv_proj", false, Some(&codegen)), None);
        let starcoder = |one| config(json!({"model_type": "gpt_bigcode", "multi_query": one}));
        assert_eq!(order("c_attn", true, Some(&starcoder(true))), Some(QkvRows::Together));
        assert_eq!(order("c_attn", true, Some(&starcoder(false))), Some(QkvRows::Grouped));
    }

    #[test]
    fn blocks_hold_queries_values_and_keys() {
        let heads = |queries| Some(Heads { queries, keys: queries, width: None });
        let starts = |ranges: &Vec<Vec<IndexRange>>| -> Vec<Vec<u64>> {
            ranges.iter().map(|ranges| ranges.iter().map(|range| range.start).collect()).collect()
        };
        let places = QkvRows::Blocks.places(&[8, 8, 8], heads(4)).unwrap();
        assert_eq!(starts(&places), [[0, 6, 12, 18], [4, 10, 16, 22], [2, 8, 14, 20]]);
        assert!(QkvRows::Blocks.places(&[8, 8, 8], heads(2)).is_none());
        assert!(QkvRows::Blocks.places(&[8, 8], heads(4)).is_none());
    }

    #[test]
    fn heads_have_many_names() {
        let of = |value| heads(&config(value)).map(|heads| (heads.queries, heads.keys, heads.width));
        assert_eq!(of(json!({"num_attention_heads": 4, "num_key_value_heads": 2})), Some((4, 2, None)));
        assert_eq!(of(json!({"n_head": 4, "n_embd": 32})), Some((4, 4, Some(8))));
        assert_eq!(of(json!({"model_type": "falcon", "num_attention_heads": 4})), Some((4, 1, None)));
        assert_eq!(of(json!({"num_attention_heads": 0})), None);
    }

    #[test]
    fn parts_have_their_rows() {
        let heads = |queries, keys, width| Some(Heads { queries, keys, width });
        assert_eq!(sizes(16, 3, Rows::Qkv, heads(4, 2, None)).unwrap(), [8, 4, 4]);
        assert_eq!(sizes(16, 3, Rows::Qkv, heads(4, 2, Some(4))), None);
        assert_eq!(sizes(16, 3, Rows::Qkv, heads(4, 3, None)), None);
        assert_eq!(sizes(6, 2, Rows::Equal, None).unwrap(), [3, 3]);
    }
}
