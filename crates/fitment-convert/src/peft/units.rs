//! What an adapter changes, tensor by tensor, before anything is known of the base.

use super::checks::saves;
use super::config::Config;
use super::contents::{Contents, Copies, Entry, Module};
use super::inspect::Inspection;
use super::keys::Whole;
use super::scale::Scale;
use super::tokens;
use crate::names::{Creates, Fit, Want};
use crate::tying::is_vocabulary_module;
use fitment_core::model::{KeptTensor, Origin};
use fitment_core::tensor::Tensor;
use std::collections::BTreeMap;

/// One change of one tensor of the model's class.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    /// The tensor, by its name in the class.
    pub(super) name: String,
    pub(super) module: String,
    pub(super) change: Change<'a>,
    pub(super) reach: Reach,
    pub(super) origin: Origin,
}

/// How a tensor changes.
#[derive(Clone, Debug)]
pub(super) enum Change<'a> {
    Lora {
        kind: LoraKind,
        up: Tensor<'a>,
        down: Tensor<'a>,
        magnitude: Option<Tensor<'a>>,
        scale: f64,
    },
    Add {
        value: Tensor<'a>,
        scale: f64,
    },
    /// `is_saved`: trained as a module of its own, by `modules_to_save`.
    Whole {
        value: Tensor<'a>,
        is_saved: bool,
    },
    Rows {
        value: Tensor<'a>,
        rows: Tensor<'a>,
        indices: Vec<u64>,
    },
}

impl Change<'_> {
    /// Whether it is a sum with zeros.
    pub(super) fn adds_nothing(&self) -> bool {
        matches!(self, Change::Add { value, .. } if value.bytes().iter().all(|byte| *byte == 0))
    }

    /// Changes of one tensor apply in this order.
    pub(super) fn order(&self) -> u8 {
        match self {
            Change::Whole { .. } => 0,
            Change::Rows { .. } => 1,
            Change::Lora { .. } => 2,
            Change::Add { .. } => 3,
        }
    }
}

/// Which module a LoRA is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoraKind {
    Linear,
    Conv,
    Embedding,
}

/// Which uses of a tied tensor a change reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The use by this module only.
    ThisUse,
    /// All of them: PEFT writes into the shared parameter.
    AllUses,
}

/// The changes of an adapter, and the tensors that change nothing.
pub(super) fn of<'a>(inspection: &Inspection<'a>, config: &Config) -> (Vec<Unit<'a>>, Vec<KeptTensor<'a>>) {
    let contents = &inspection.contents;
    let mut units = Vec::new();
    let mut kept: Vec<KeptTensor<'a>> = contents.beside.iter().map(kept_tensor).collect();
    for ((module, param), copies) in &contents.whole {
        let is_saved = saves(config, module);
        units.extend(whole((module, param), copies, is_saved, &mut kept));
    }
    for (path, module) in &contents.modules {
        units.extend(rows(config, path, module));
        if let Some(scale) = inspection.scales.get(path).filter(|_| !module.is_parameter) {
            units.extend(lora(config, (path, module), scale, contents));
        }
    }
    (units, kept)
}

/// The one value of a whole parameter; copies under other wrappers change nothing.
fn whole<'a>(
    (module, param): (&str, &str),
    copies: &Copies<'a>,
    is_saved: bool,
    kept: &mut Vec<KeptTensor<'a>>,
) -> Option<Unit<'a>> {
    let primary = primary(copies);
    let others = copies.iter().filter(|(kind, _)| Some(**kind) != primary);
    kept.extend(others.map(|(_, entry)| kept_tensor(entry)));
    let kind = primary?;
    let entry = copies.get(&kind)?;
    // What a wrapper of modules_to_save holds is a module of its own; all else is written into the base's parameter.
    let is_saved = is_saved && matches!(kind, Whole::Plain | Whole::Saved);
    Some(Unit {
        name: if module.is_empty() { param.to_owned() } else { format!("{module}.{param}") },
        module: module.to_owned(),
        change: Change::Whole { value: entry.tensor.clone(), is_saved },
        reach: if is_saved { Reach::ThisUse } else { Reach::AllUses },
        origin: origin([("value", entry)]),
    })
}

/// Under which wrapper the value stands that PEFT computes with.
pub(super) fn primary(copies: &Copies<'_>) -> Option<Whole> {
    [Whole::Plain, Whole::BaseLayer, Whole::TokenBase, Whole::Saved]
        .into_iter()
        .find(|kind| copies.contains_key(kind))
}

/// An entry that is carried without effect.
pub(super) fn kept_tensor<'a>(entry: &Entry<'a>) -> KeptTensor<'a> {
    KeptTensor { key: entry.key.clone(), value: entry.tensor.clone() }
}

fn rows<'a>(config: &Config, path: &str, module: &Module<'a>) -> Option<Unit<'a>> {
    let entry = module.tokens.as_ref()?;
    let indices = tokens::indices_of(config, path)?;
    let (value, rows) = tokens::ascending(indices, &entry.tensor)?;
    Some(Unit {
        name: format!("{path}.weight"),
        module: path.to_owned(),
        change: Change::Rows { value, rows, indices: indices.to_vec() },
        reach: Reach::AllUses,
        origin: origin([("value", entry)]),
    })
}

fn lora<'a>(
    config: &Config,
    (path, module): (&str, &Module<'a>),
    scale: &Scale,
    contents: &Contents<'_>,
) -> Vec<Unit<'a>> {
    let Some((kind, up, down, mut origin)) = factors(module) else { return Vec::new() };
    origin.alpha = Some(scale.alpha);
    origin.rank = Some(scale.rank);
    origin.rslora = config.use_rslora;
    let magnitude = module.magnitude.as_ref().map(|entry| {
        origin.keys.insert("magnitude".to_owned(), entry.key.clone());
        entry.tensor.clone()
    });
    let param = if contents.is_attention(path) { "in_proj_weight" } else { "weight" };
    let unit = |name: String, change: Change<'a>, origin: Origin| Unit {
        name,
        module: path.to_owned(),
        change,
        reach: Reach::ThisUse,
        origin,
    };
    let change = Change::Lora { kind, up, down, magnitude, scale: scale.scale };
    let mut units = vec![unit(format!("{path}.{param}"), change, origin.clone())];
    if let Some(bias) = &module.bias {
        let keys = self::origin([("value", bias)]).keys;
        let change = Change::Add { value: bias.tensor.clone(), scale: scale.scale };
        units.push(unit(format!("{path}.bias"), change, Origin { keys, ..origin }));
    }
    units
}

/// The factors in the model's orientation. An embedding's are stored transposed.
fn factors<'a>(module: &Module<'a>) -> Option<(LoraKind, Tensor<'a>, Tensor<'a>, Origin)> {
    if let Some((a, b)) = module.embedding_factors() {
        let (up, down) = (a.tensor.transposed()?, b.tensor.transposed()?);
        return Some((LoraKind::Embedding, up, down, origin([("up", a), ("down", b)])));
    }
    let (a, b) = module.factors()?;
    let kind = if a.tensor.dims().len() > 2 { LoraKind::Conv } else { LoraKind::Linear };
    Some((kind, b.tensor.clone(), a.tensor.clone(), origin([("up", b), ("down", a)])))
}

fn origin<'e, 'a: 'e>(keys: impl IntoIterator<Item = (&'static str, &'e Entry<'a>)>) -> Origin {
    let keys = keys.into_iter().map(|(role, entry)| (role.to_owned(), entry.key.clone())).collect();
    Origin { keys, ..Origin::default() }
}

/// What the base must have for these units, by name.
pub(super) fn wants(units: &[Unit<'_>]) -> Vec<Want> {
    let replaced: BTreeMap<&str, &Tensor<'_>> = units
        .iter()
        .filter_map(|unit| match &unit.change {
            Change::Whole { value, .. } => Some((unit.name.as_str(), value)),
            Change::Lora { .. } | Change::Add { .. } | Change::Rows { .. } => None,
        })
        .collect();
    let want = |unit: &Unit<'_>| Want {
        name: unit.name.clone(),
        fit: fit(unit, replaced.get(unit.name.as_str()).copied()),
        creates: match &unit.change {
            change if change.adds_nothing() => Creates::Anything,
            Change::Whole { is_saved: true, .. } => Creates::Heads,
            _ => Creates::Nothing,
        },
        is_vocabulary: is_vocabulary_module(&unit.module),
    };
    units.iter().map(want).collect()
}

/// The fit of a unit; behind a whole value, rows are those of the value.
fn fit(unit: &Unit<'_>, replaced: Option<&Tensor<'_>>) -> Fit {
    match &unit.change {
        // Only a vocabulary grows.
        Change::Whole { value, .. } if is_vocabulary_module(&unit.module) => Fit::Rows(value.dims().to_vec()),
        Change::Whole { value, .. } => Fit::Exact(value.dims().to_vec()),
        Change::Rows { value, .. } => Fit::Rows(value.dims().to_vec()),
        Change::Add { value, .. } => Fit::Exact(value.dims().to_vec()),
        Change::Lora { kind, up, down, .. } => {
            let (up, down) = (up.dims(), down.dims());
            let (out, input) = (up.first().copied().unwrap_or(0), down.get(1).copied().unwrap_or(0));
            match kind {
                _ if replaced.is_some() => {
                    Fit::Rows([&[out, input], down.get(2..).unwrap_or_default()].concat())
                }
                LoraKind::Linear => Fit::Linear { out, input },
                LoraKind::Embedding => Fit::Exact(vec![out, input]),
                LoraKind::Conv => Fit::Conv([&[out, input], down.get(2..).unwrap_or_default()].concat()),
            }
        }
    }
}
