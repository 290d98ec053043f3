//! torchtune's modules by the names of transformers' classes, family by family.

use crate::model_config::Heads;
use crate::pass::rows::RowOrder;
use fitment_core::model::IndexRange;

/// A module of torchtune's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Down,
    Up,
    Head,
}

use Part::{Down, Gate, Head, Key, Output, Query, Up, Value};

/// torchtune's name, and transformers', below a layer.
const PARTS: &[(Part, &str, &str)] = &[
    (Query, "attn.q_proj", "self_attn.q_proj"),
    (Key, "attn.k_proj", "self_attn.k_proj"),
    (Value, "attn.v_proj", "self_attn.v_proj"),
    (Output, "attn.output_proj", "self_attn.o_proj"),
    (Gate, "mlp.w1", "mlp.gate_proj"),
    (Down, "mlp.w2", "mlp.down_proj"),
    (Up, "mlp.w3", "mlp.up_proj"),
];

/// A module in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// `None` for the head.
    layer: Option<u64>,
    pub(super) part: Part,
}

impl Place {
    /// By torchtune's path of the module.
    pub(super) fn of(module: &str) -> Option<Self> {
        if module == "output" {
            return Some(Self { layer: None, part: Head });
        }
        let (layer, rest) = module.strip_prefix("layers.")?.split_once('.')?;
        let (part, ..) = PARTS.iter().find(|(_, name, _)| *name == rest)?;
        let number = layer.parse().ok().filter(|number: &u64| number.to_string() == layer)?;
        Some(Self { layer: Some(number), part: *part })
    }
}

/// How torchtune and transformers differ in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Rows of queries and keys are in Meta's order.
    Turned,
    /// All rows are in transformers' order.
    Straight,
    /// The same, and transformers has queries, keys and values as one, gate and up as one.
    Fused,
}

/// `model_type` of transformers, for each that torchtune has a LoRA recipe for.
const FAMILIES: &[(Family, &[&str])] = &[
    (Family::Turned, &["llama", "mistral", "gemma", "gemma2"]),
    (Family::Straight, &["qwen2"]),
    (Family::Fused, &["phi3"]),
];

impl Family {
    pub(super) fn of(model_type: &str) -> Option<Self> {
        let line = FAMILIES.iter().find(|(_, types)| types.contains(&model_type))?;
        Some(line.0)
    }

    /// Every `model_type` that is known.
    pub(super) fn known() -> String {
        FAMILIES.iter().flat_map(|(_, types)| *types).copied().collect::<Vec<_>>().join(", ")
    }

    /// The order of a module's rows, where it is not transformers'.
    pub(super) fn order(self, part: Part, heads: &Heads) -> Option<RowOrder> {
        match (self, part) {
            (Family::Turned, Query) => Some(RowOrder::HalvesInTurn { heads: heads.queries }),
            (Family::Turned, Key) => Some(RowOrder::HalvesInTurn { heads: heads.keys }),
            _ => None,
        }
    }

    /// The module in transformers; of one that is fused there also its rows by the numbers of heads, and how many there are
    /// in all. `out` are the module's own.
    pub(super) fn module(self, place: Place, out: u64, heads: &Heads) -> (String, Option<(IndexRange, u64)>) {
        let Some(layer) = place.layer else { return ("lm_head".to_owned(), None) };
        let below = |name: &str| format!("model.layers.{layer}.{name}");
        let part = |start: u64, len: u64, all: u64| {
            Some((IndexRange { start, end: start.saturating_add(len), step: 1 }, all))
        };
        let (queries, keys) = (heads.rows(heads.queries), heads.rows(heads.keys));
        let values = queries.saturating_add(keys);
        let all = values.saturating_add(keys);
        match (self, place.part) {
            (Family::Fused, Query) => (below("self_attn.qkv_proj"), part(0, queries, all)),
            (Family::Fused, Key) => (below("self_attn.qkv_proj"), part(queries, keys, all)),
            (Family::Fused, Value) => (below("self_attn.qkv_proj"), part(values, keys, all)),
            (Family::Fused, Gate) => (below("mlp.gate_up_proj"), part(0, out, out.saturating_mul(2))),
            (Family::Fused, Up) => (below("mlp.gate_up_proj"), part(out, out, out.saturating_mul(2))),
            (_, part) => {
                let name = PARTS.iter().find(|line| line.0 == part).map_or("", |line| line.2);
                (below(name), None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, Part, Place};
    use crate::model_config::Heads;

    const HEADS: Heads = Heads { queries: 4, keys: 2, width: 8 };

    #[test]
    fn modules_are_named_as_transformers_has_them() {
        let place = Place::of("layers.11.mlp.w3").unwrap();
        assert_eq!(
            Family::Turned.module(place, 24, &HEADS),
            ("model.layers.11.mlp.up_proj".to_owned(), None)
        );
        let head = Place::of("output").unwrap();
        assert_eq!(Family::Fused.module(head, 40, &HEADS).0, "lm_head");
        for odd in ["layers.01.mlp.w1", "layers.1.mlp.w4", "decoder.layers.1.mlp.w1", "layers.-1.mlp.w1", ""]
        {
            assert_eq!(Place::of(odd), None, "{odd}");
        }
    }

    #[test]
    fn fused_modules_follow_each_other() {
        let rows = |name: &str, out: u64| {
            let (_, rows) = Family::Fused.module(Place::of(name).unwrap(), out, &HEADS);
            rows.map(|(range, all)| (range.start, range.end, all)).unwrap()
        };
        assert_eq!(rows("layers.0.attn.q_proj", 32), (0, 32, 64));
        assert_eq!(rows("layers.0.attn.k_proj", 16), (32, 48, 64));
        assert_eq!(rows("layers.0.attn.v_proj", 16), (48, 64, 64));
        assert_eq!(rows("layers.0.mlp.w3", 24), (24, 48, 48));
    }

    #[test]
    fn only_queries_and_keys_of_some_are_turned() {
        assert!(Family::Turned.order(Part::Key, &HEADS).is_some_and(|order| order.heads() == 2));
        assert!(Family::Turned.order(Part::Value, &HEADS).is_none());
        assert!(Family::Straight.order(Part::Query, &HEADS).is_none());
    }
}
