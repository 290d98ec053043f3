//! Tinker's modules by the names of transformers' classes.

use crate::pass::experts::{Part, WORDS, Words};

/// Where a product goes in transformers' class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Module {
    /// A linear layer, by its path.
    Linear(String),
    /// One of queries, keys and values, which the class may have as one; the path of their parent.
    Split(String, Split),
    /// A part of the experts, by their path.
    Experts(String, Part),
}

/// A part of a fused linear attention, in the order of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Split {
    Query,
    Key,
    Value,
}

impl Split {
    pub(super) const ALL: [Split; 3] = [Split::Query, Split::Key, Split::Value];

    /// The last part of its path.
    pub(super) fn name(self) -> &'static str {
        match self {
            Split::Query => "in_proj_q",
            Split::Key => "in_proj_k",
            Split::Value => "in_proj_v",
        }
    }
}

/// Tinker's names of the matrices of an expert are Mixtral's.
const OF_EXPERTS: &Words = &WORDS[1];

/// The place of Tinker's module, its path without PEFT's prefix. `None` for parts of experts, and for modules, that are not known.
pub(super) fn module(path: &str) -> Option<Module> {
    if matches!(path, "model.unembed_tokens" | "model.lm_head" | "lm_head") {
        return Some(Module::Linear("lm_head".to_owned()));
    }
    if let Some((experts, part)) = path.rsplit_once('.').filter(|(experts, _)| experts.ends_with(".experts"))
    {
        return Some(Module::Experts(experts.to_owned(), OF_EXPERTS.part(part)?));
    }
    // Of a mixer of Nemotron, which transformers has as one with more rows behind.
    if path.ends_with(".mixer.gate_proj") || path.ends_with(".mixer.x_proj") {
        return None;
    }
    let (parent, last) = path.rsplit_once('.')?;
    if let Some(split) = Split::ALL.into_iter().find(|split| split.name() == last) {
        return Some(Module::Split(parent.to_owned(), split));
    }
    Some(Module::Linear(path.replacen(".attn.", ".self_attn.", 1)))
}

/// Whether a key shows that the file is not PEFT's own.
pub(super) fn is_own(key: &str) -> bool {
    let Some((module, _)) = key.rsplit_once(".lora_A.") else { return false };
    let of_experts =
        || Part::ALL.iter().any(|part| module.ends_with(&format!(".experts.{}", OF_EXPERTS.of(*part))));
    let split = || Split::ALL.iter().any(|split| module.ends_with(&format!(".{}", split.name())));
    let attention = || {
        let parts: Vec<&str> = module.rsplit('.').collect();
        matches!(parts[..], ["q_proj" | "k_proj" | "v_proj" | "o_proj", "attn", number, "layers", ..] if number.parse::<u64>().is_ok())
    };
    module.ends_with("model.unembed_tokens") || of_experts() || split() || attention()
}

#[cfg(test)]
mod tests {
    use super::{Module, Part, Split, is_own, module};

    #[test]
    fn own_names_are_those_of_transformers_again() {
        let linear = |path: &str| Some(Module::Linear(path.to_owned()));
        assert_eq!(module("model.unembed_tokens"), linear("lm_head"));
        assert_eq!(module("model.layers.3.attn.q_proj"), linear("model.layers.3.self_attn.q_proj"));
        let experts = Module::Experts("model.layers.3.mlp.experts".to_owned(), Part::Up);
        assert_eq!(module("model.layers.3.mlp.experts.w3"), Some(experts));
        assert_eq!(module("model.layers.3.mlp.experts.w4"), None);
        assert_eq!(module("model.layers.3.mixer.x_proj"), None);
        let split = Module::Split("model.layers.3.linear_attn".to_owned(), Split::Value);
        assert_eq!(module("model.layers.3.linear_attn.in_proj_v"), Some(split));
    }

    #[test]
    fn what_peft_writes_too_is_no_sign() {
        for own in ["model.unembed_tokens", "model.layers.0.mlp.experts.w2", "model.layers.0.attn.k_proj"] {
            assert!(is_own(&format!("base_model.model.{own}.lora_A.weight")), "{own}");
        }
        for other in [
            "model.layers.0.self_attn.q_proj",
            "transformer.h.0.attn.q_proj",
            "model.layers.0.block_sparse_moe.experts.1.w2",
        ] {
            assert!(!is_own(&format!("base_model.model.{other}.lora_A.weight")), "{other}");
        }
    }
}
