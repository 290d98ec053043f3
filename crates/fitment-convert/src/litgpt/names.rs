//! litgpt's modules by the names of transformers' classes, family by family.

use crate::model_config::Heads;
use crate::pass::rows::in_turns;
use fitment_core::model::IndexRange;

/// How transformers has a model. litgpt decides so, by the model's name and its feed-forward class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Llama's names, also for Gemma, Qwen, OLMo, StableLM; experts by Mixtral's.
    Llama,
    /// The same, experts by Qwen 3's.
    Qwen3,
    Phi,
    Phi3,
    Neox,
    Falcon,
}

use Family::{Falcon, Llama, Neox, Phi, Phi3, Qwen3};

/// A module of transformers, or some of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) module: String,
    /// Empty for all.
    pub(super) rows: Vec<IndexRange>,
    /// How many the module has in all.
    pub(super) all: u64,
}

/// Which rows of the fused projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Query,
    Key,
    Value,
}

impl Part {
    pub(super) const ALL: [Part; 3] = [Part::Query, Part::Key, Part::Value];

    /// How many rows it has.
    pub(super) fn len(self, heads: &Heads) -> u64 {
        heads.rows(if self == Part::Query { heads.queries } else { heads.keys })
    }
}

/// What is under a layer, or the head.
pub(super) const FUSED: &str = "attn.qkv";

impl Family {
    /// By litgpt's own tests. `None` for a feed-forward class that it does not have.
    pub(super) fn of(name: &str, mlp_class: &str) -> Option<Self> {
        let lower = name.to_lowercase();
        let begins = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
        Some(match mlp_class {
            _ if name.contains("falcon") => Falcon,
            _ if begins(&["phi-3", "phi-4"]) => Phi3,
            _ if begins(&["phi"]) => Phi,
            "LLaMAMoE" if begins(&["qwen3"]) => Qwen3,
            "LLaMAMLP" | "GemmaMLP" | "LLaMAMoE" => Llama,
            "GptNeoxMLP" => Neox,
            _ => return None,
        })
    }

    /// The place of any module but the fused projection, by litgpt's path; `out` are its rows.
    pub(super) fn place(self, path: &str, out: u64) -> Option<Place> {
        let whole = |module: String| Place { module, rows: Vec::new(), all: out };
        if path == "lm_head" {
            return Some(whole(if self == Neox { "embed_out" } else { "lm_head" }.to_owned()));
        }
        let (layer, rest) = layer(path)?;
        if let Some(half) = ["mlp.fc_1", "mlp.fc_2"].iter().position(|name| self == Phi3 && *name == rest) {
            let start = out.saturating_mul(half as u64);
            let rows = vec![IndexRange { start, end: start.saturating_add(out), step: 1 }];
            let module = self.below(layer, "mlp.gate_up_proj");
            return Some(Place { module, rows, all: out.saturating_mul(2) });
        }
        let name = match rest.split('.').collect::<Vec<_>>()[..] {
            ["mlp", "experts", expert, part] if number(expert).is_some() => {
                let (list, names) = match self {
                    Llama => ("block_sparse_moe", ["w1", "w3", "w2"]),
                    Qwen3 => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
                    _ => return None,
                };
                let at = ["fc_1", "fc_2", "proj"].iter().position(|name| *name == part)?;
                format!("{list}.experts.{expert}.{}", names[at])
            }
            _ => self.plain(rest)?.to_owned(),
        };
        Some(whole(self.below(layer, &name)))
    }

    fn plain(self, rest: &str) -> Option<&'static str> {
        Some(match (self, rest) {
            (Llama | Qwen3 | Phi3, "attn.proj") => "self_attn.o_proj",
            (Phi, "attn.proj") => "self_attn.dense",
            (Neox, "attn.proj") => "attention.dense",
            (Falcon, "attn.proj") => "self_attention.dense",
            (Llama | Qwen3, "mlp.fc_1") => "mlp.gate_proj",
            (Llama | Qwen3, "mlp.fc_2") => "mlp.up_proj",
            (Llama | Qwen3 | Phi3, "mlp.proj") => "mlp.down_proj",
            (Phi, "mlp.fc") => "mlp.fc1",
            (Phi, "mlp.proj") => "mlp.fc2",
            (Neox | Falcon, "mlp.fc") => "mlp.dense_h_to_4h",
            (Neox | Falcon, "mlp.proj") => "mlp.dense_4h_to_h",
            (Llama, "mlp.gate") => "block_sparse_moe.gate",
            (Qwen3, "mlp.gate") => "mlp.gate",
            _ => return None,
        })
    }

    /// The place of a part of the fused projection, by litgpt's path of it.
    pub(super) fn part(self, path: &str, part: Part, heads: &Heads) -> Option<Place> {
        let (layer, _) = layer(path).filter(|(_, rest)| *rest == FUSED)?;
        let (queries, keys) = (Part::Query.len(heads), Part::Key.len(heads));
        let all = queries.saturating_add(keys.saturating_mul(2));
        let (at, start, len, name) = match part {
            Part::Query => (0, 0, queries, "q_proj"),
            Part::Key => (1, queries, keys, "k_proj"),
            Part::Value => (2, queries.saturating_add(keys), keys, "v_proj"),
        };
        let range = |start: u64, len: u64| IndexRange { start, end: start.saturating_add(len), step: 1 };
        Some(match self {
            Llama | Qwen3 | Phi => {
                Place { module: self.below(layer, &format!("self_attn.{name}")), rows: Vec::new(), all: len }
            }
            Phi3 => {
                Place { module: self.below(layer, "self_attn.qkv_proj"), rows: vec![range(start, len)], all }
            }
            Neox | Falcon => {
                let name =
                    if self == Neox { "attention.query_key_value" } else { "self_attention.query_key_value" };
                // Every group has its queries, then one key, then one value.
                let rows = in_turns(&[queries, keys, keys], heads.keys)?.into_iter().nth(at)?;
                Place { module: self.below(layer, name), rows, all }
            }
        })
    }

    fn below(self, layer: u64, name: &str) -> String {
        let list = match self {
            Llama | Qwen3 | Phi | Phi3 => "model.layers",
            Neox => "gpt_neox.layers",
            Falcon => "transformer.h",
        };
        format!("{list}.{layer}.{name}")
    }
}

/// The layer of a module, and its path there.
pub(super) fn layer(path: &str) -> Option<(u64, &str)> {
    let (layer, rest) = path.strip_prefix("transformer.h.")?.split_once('.')?;
    Some((number(layer)?, rest))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::{Family, Part};
    use crate::model_config::Heads;

    #[test]
    fn families_are_told_as_litgpt_tells_them() {
        let of = |name: &str, mlp: &str| Family::of(name, mlp);
        assert_eq!(of("Falcon3-1B-Base", "LLaMAMLP"), Some(Family::Llama));
        assert_eq!(of("tiiuae-falcon-7b", "GptNeoxMLP"), Some(Family::Falcon));
        assert_eq!(of("phi-2", "GptNeoxMLP"), Some(Family::Phi));
        assert_eq!(of("Phi-4-mini-instruct", "LLaMAMLP"), Some(Family::Phi3));
        assert_eq!(of("Qwen3-30B-A3B", "LLaMAMoE"), Some(Family::Qwen3));
        assert_eq!(of("x", "Other"), None);
    }

    #[test]
    fn rows_of_groups_stand_together() {
        let heads = Heads { queries: 4, keys: 2, width: 3 };
        let rows = |part: Part| {
            let place = Family::Falcon.part("transformer.h.7.attn.qkv", part, &heads).unwrap();
            assert_eq!((&*place.module, place.all), ("transformer.h.7.self_attention.query_key_value", 24));
            place.rows.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(rows(Part::Query), [(0, 6), (12, 18)]);
        assert_eq!(rows(Part::Key), [(6, 9), (18, 21)]);
        assert_eq!(rows(Part::Value), [(9, 12), (21, 24)]);
    }

    #[test]
    fn what_litgpt_does_not_have_has_no_place() {
        for path in [
            "transformer.h.0.mlp.fc",
            "transformer.h.00.mlp.fc_1",
            "transformer.wte",
            "transformer.h.0.attn.attn",
        ] {
            assert_eq!(Family::Llama.place(path, 8), None, "{path}");
        }
        let expert = Family::Llama.place("transformer.h.1.mlp.experts.3.fc_2", 8).unwrap();
        assert_eq!(expert.module, "model.layers.1.block_sparse_moe.experts.3.w3");
        assert_eq!(Family::Neox.place("lm_head", 8).unwrap().module, "embed_out");
    }
}
