//! LoRA on parameters (`target_parameters`): the experts of a layer in one tensor.
//!
//! PEFT wraps the module that owns a parameter, and the key does not name the parameter; of several on one module, the first in
//! the module's own order is the innermost:
//!
//! | keys | parameter |
//! |---|---|
//! | `experts.base_layer.lora_A/B.weight` | the first, `gate_up_proj` |
//! | `experts.lora_A/B.weight` | the last, or the only one |
//!
//! | tensor | shape | read as |
//! |---|---|---|
//! | `lora_A` | `[E·r, a]` | `[E, r, a]` |
//! | `lora_B` | `[b, r·E]` | `[b, r, E]`; with Unsloth's older kernels `[b, E, r]` |
//!
//! Of a parameter of two axes `E` is 1, and the product is `B·A`. Of three, `Δ[e]` is `B[e]·A[e]` or its transpose, by the axis that
//! `A` is over (`tuners/lora/layer.py`, class `ParamWrapper`, by its releases):
//!
//! | release | axis of `A` | where the class says `is_transposed` (gpt-oss) |
//! |---|---|---|
//! | 0.17.0 to 0.18.x | 1 | 1 |
//! | 0.19.0 | 1 | 2 |
//! | from 0.19.1 | 2 | 1 |
//!
//! Extents that differ show the axis. Where they are equal, the release that wrote the file tells.

mod assign;
mod layout;
mod place;
mod spot;
mod stored;
mod today;

pub(super) use assign::{assign, place_in_class};
pub(super) use layout::{Said, reads_inputs};
pub(super) use place::{Placed, edits, unbound};
pub(super) use spot::find;
pub(super) use stored::flat;
pub(super) use today::{Today, reads_as_stored};

use super::contents::Entry;
use super::inspect::Inspection;
use super::rules;
use super::scale::Scale;
use fitment_core::tensor::Tensor;

/// In which order the columns of `lora_B` stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Columns {
    /// `k·E + e`: PEFT's own.
    #[default]
    RankMajor,
    /// `e·r + k`: Unsloth's kernels before September 2026.
    ExpertMajor,
}

/// LoRA on one parameter.
#[derive(Clone, Debug)]
pub(super) struct Parameter<'a> {
    /// Its name in the model's class.
    pub(super) name: String,
    pub(super) a: Entry<'a>,
    pub(super) b: Entry<'a>,
    pub(super) experts: u64,
    pub(super) scale: Scale,
}

impl Parameter<'_> {
    /// The other axis of both factors: of `A`, of `B`.
    fn sides(&self) -> (u64, u64) {
        let side = |tensor: &Tensor<'_>, axis: usize| tensor.dims().get(axis).copied().unwrap_or(0);
        (side(&self.a.tensor, 1), side(&self.b.tensor, 0))
    }

    /// The last word of its name.
    fn word(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

/// Every parameter with a LoRA.
pub(super) fn of<'a>(inspection: &Inspection<'a>) -> Vec<Parameter<'a>> {
    let modules = inspection.contents.modules.iter().filter(|(_, module)| module.is_parameter);
    let parameter = |(path, module): (&String, &super::contents::Module<'a>)| {
        let (scale, (a, b)) = (*inspection.scales.get(path)?, module.factors()?);
        let experts = a.tensor.dims().first()?.checked_div(scale.rank)?;
        Some(Parameter { name: path.clone(), a: a.clone(), b: b.clone(), experts, scale })
    };
    modules.filter_map(parameter).collect()
}
