//! LoRA on the experts of a layer, which MLX-LM holds as one stack for each of gate, up and down.

use super::folder::Unit;
use super::rules;
use crate::error::Error;
use crate::pass::experts::{Part, WORDS, Words};
use crate::pass::permute::reshaped;
use crate::pass::spots::Spot;
use crate::pass::stacks::text_model;
use fitment_core::tensor::Tensor;
use serde_json::{Map, Value};

/// What MLX-LM calls a block's experts; the second in models of [`OWN_NAME`].
const MODULES: [&str; 2] = ["switch_mlp", "experts"];

/// Models whose experts keep the name that they have in transformers.
const OWN_NAME: &[&str] = &["gpt_oss", "llama4", "llama4_text"];

/// Matrices of experts by MLX-LM's words.
const PARTS: [(&str, Part); 3] =
    [("gate_proj", Part::Gate), ("up_proj", Part::Up), ("down_proj", Part::Down)];

/// Where a module of experts is, by its path; `None` for what is no module of experts.
pub(super) fn spot(module: &str) -> Option<Spot> {
    let (experts, word) = module.rsplit_once('.')?;
    let (block, name) = experts.rsplit_once('.')?;
    let (_, part) = PARTS.iter().find(|(known, _)| *known == word).filter(|_| MODULES.contains(&name))?;
    Some(Spot::new(block, *part))
}

/// Experts, outputs and inputs of a unit on experts.
pub(super) fn extents(unit: &Unit<'_>) -> Option<[u64; 3]> {
    let &[experts, out, _] = unit.b.as_ref()?.dims() else { return None };
    Some([experts, out, *unit.a.as_ref()?.dims().last()?])
}

/// Where a weight of `full` is that holds a matrix of all experts, with how many there are, outputs and inputs.
pub(super) fn whole(name: &str, value: &Tensor<'_>) -> Option<(Spot, [u64; 3])> {
    let &[experts, out, input] = value.dims() else { return None };
    Some((spot(name.strip_suffix(".weight")?)?, [experts, out, input]))
}

/// Whether a unit is on experts, by its shapes.
pub(super) fn is_of_experts(unit: &Unit<'_>) -> bool {
    [&unit.a, &unit.b].into_iter().flatten().any(|tensor| tensor.dims().len() == 3)
}

/// `lora_a` as `[E, r, in]`: before October 2025 it was `[r·E, in]`.
pub(super) fn stacked_a<'a>(a: &Tensor<'a>, b: &Tensor<'a>) -> Option<Tensor<'a>> {
    let &[experts, _, rank] = b.dims() else { return None };
    match *a.dims() {
        [same, other, _] => (same == experts && other == rank).then(|| a.clone()),
        [rows, input] if Some(rows) == experts.checked_mul(rank) => reshaped(a, &[experts, rank, input]),
        _ => None,
    }
}

/// MLX-LM's module for a bundle, and the rule that is broken where there is none.
pub(super) fn module(bundle: &str, config: &Map<String, Value>) -> Option<String> {
    let (block, rest) = bundle.rsplit_once(".experts.{e}.")?;
    let word = rest.strip_suffix(".weight")?;
    let is = |words: &&Words| PARTS.iter().find(|(_, part)| words.of(*part) == word);
    let (own, _) = WORDS.iter().find_map(|words| is(&words))?;
    let kept = text_model(config).is_some_and(|model| OWN_NAME.contains(&model));
    Some(format!("{block}.{}.{own}", MODULES[usize::from(kept)]))
}

/// The refusal of a module of experts that is not known.
pub(super) fn unknown(module: &str) -> Error {
    Error::Unsupported {
        what: module.to_owned(),
        reason: "is LoRA on stacked experts that are not called switch_mlp".to_owned(),
        hint: rules::X_UNSUPPORTED.remedy.to_owned(),
    }
}
