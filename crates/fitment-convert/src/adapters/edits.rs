//! Units as interventions.

use super::config::Config;
use super::inspect::{Projection, Unit};
use super::keys::{self, Part};
use crate::orthogonal;
use fitment_core::model::{
    FirstLast, Group, Intervention, ModuleSite, Origin, Overlap, Phase, Positions, Rounding, Select,
    ShortPrompt, Site, SiteComponent,
};
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// Largest departure of `UᵀU` from the identity with which `U` is called orthonormal (spec section 5.6), with some room.
const ORTHONORMAL: f64 = 5e-5;

/// Whether the projection is subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formula {
    /// `h + Pᵀ(W h + b − P h)`: LoReFT, NoReFT.
    Subtracted,
    /// `h + Pᵀ(W h + b)`: DiReFT.
    Direct,
}

/// The unit acts on no token.
pub(super) fn is_idle(unit: &Unit<'_>, config: &Config) -> bool {
    match (unit.is_tied, unit.unit) {
        (true, _) => config.prefix_positions == 0 && config.suffix_positions == 0,
        (false, 0) => config.prefix_positions == 0,
        (false, _) => config.suffix_positions == 0,
    }
}

/// The tensors that stand in the file and not in the edits.
pub(super) fn unused<'a>(
    unit: &Unit<'a>,
    config: &Config,
    keep_parametrisation: bool,
) -> Vec<(Part, Tensor<'a>)> {
    let mut parts = Vec::new();
    let idle = is_idle(unit, config);
    if idle {
        parts.extend([(Part::Weight, unit.weight.clone()), (Part::Bias, unit.bias.clone())]);
    }
    match &unit.projection {
        Projection::Plain(plain) if idle => parts.push((Part::Projection, plain.clone())),
        Projection::Orthogonal { original, base } if keep_parametrisation => {
            parts.extend([(Part::Original, original.clone()), (Part::Base, base.clone())]);
        }
        Projection::Plain(_) | Projection::Orthogonal { .. } => {}
    }
    parts
}

/// The interventions of units that act, in the file's order of layers. `None` when one has shapes that do not fit.
pub(super) fn interventions<'a>(
    units: &[Unit<'a>],
    config: &Config,
    formula: Formula,
) -> Option<Vec<Intervention<'a>>> {
    let stacks: BTreeSet<&str> =
        units.iter().filter_map(|unit| Some(unit.block.rsplit_once('.')?.0)).collect();
    let acting = units.iter().filter(|unit| !is_idle(unit, config));
    acting.map(|unit| intervention(unit, config, (formula, stacks.len() > 1))).collect()
}

fn intervention<'a>(
    unit: &Unit<'a>,
    config: &Config,
    (formula, several_stacks): (Formula, bool),
) -> Option<Intervention<'a>> {
    let (projection, is_plain) = match &unit.projection {
        Projection::Plain(plain) => (plain.clone(), true),
        Projection::Orthogonal { original, base } => (orthogonal::weight(original, Some(base))?, false),
    };
    let up = projection.transposed()?;
    // Encoder and decoder number their layers alike.
    let site = if several_stacks {
        Site::Module(ModuleSite::new(format!("{}.output", unit.block)).ok()?)
    } else {
        Site::Layer { layer: unit.layer, component: SiteComponent::BlockOutput }
    };
    let dtype = unit.weight.dtype();
    let one_dtype = unit.bias.dtype() == dtype && up.dtype() == dtype;
    let is_half = matches!(dtype, Dtype::F16 | Dtype::BF16);
    let key = |part: Part| keys::name(&unit.block, &unit.adapter, unit.unit, part);
    let mut keys: BTreeMap<String, String> = [("source.weight", Part::Weight), ("source.bias", Part::Bias)]
        .map(|(role, part)| (role.to_owned(), key(part)))
        .into();
    if is_plain {
        keys.insert("up".to_owned(), key(Part::Projection));
    }
    Some(Intervention {
        activation: config.activation,
        subtract: formula == Formula::Subtracted,
        orthonormal: !is_plain && orthogonal::departure(&up).is_some_and(|far| far <= ORTHONORMAL),
        // The library computes in the dtype of its tensors, step by step, as pyreft's NoReFT does.
        rounding: if one_dtype && is_half { Rounding::Noreft } else { Rounding::F32 },
        up: Some(up),
        source_weight: Some(unit.weight.clone()),
        source_bias: Some(unit.bias.clone()),
        overlap: Overlap::LastWins,
        origin: Origin { keys, ..Origin::default() },
        ..Intervention::at(site, positions(unit, config))
    })
}

fn positions(unit: &Unit<'_>, config: &Config) -> Positions {
    let group = match (unit.is_tied, unit.unit) {
        (true, _) => Group::Both,
        (false, 0) => Group::Prefix,
        (false, _) => Group::Suffix,
    };
    let rule = FirstLast {
        first: config.prefix_positions,
        last: config.suffix_positions,
        end_offset: 0,
        short: ShortPrompt::Overlap,
        group,
    };
    Positions { phase: Phase::EveryForward, select: Select::FirstLast(rule) }
}
