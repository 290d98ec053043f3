//! Units without a base: expected names and shapes, as far as a wrong one would be noticed when the adapter is applied.
//!
//! | what is not known | noticed at apply | so |
//! |---|---|---|
//! | names on disk | a missing target | the class's names, listed |
//! | Linear or Conv1D, not square | another shape | by `fan_in_fan_out`, listed |
//! | Linear or Conv1D, square | no | Linear, listed; refused where flag or name speak for Conv1D |
//! | a saved head: new or there | a target that is missing, or there | new for PEFT's own heads, else there; listed |
//! | tied embedding and head; saved embedding: copy or trained | no | refused |

use super::config::Config;
use super::orientation::may_be_conv1d;
use super::placed::{Place, Placed};
use super::units::{Change, LoraKind, Reach, Unit};
use crate::error::Error;
use crate::loss::Loss;
use crate::tying::{UNTIED_EMBEDDINGS, is_head_module, is_vocabulary_module};
use fitment_core::tensor::Shape;
use std::collections::BTreeMap;

/// Heads that PEFT adds to `modules_to_save` because the base's checkpoint rarely has them.
const NEW_HEADS: &[&str] = &["classifier", "score", "qa_outputs"];

/// Units at their expected places.
#[derive(Debug, Default)]
pub(super) struct Expected<'a> {
    pub(super) placed: Placed<'a>,
    /// Whether each low-rank unit, in order, is taken for transposed.
    pub(super) transposed: BTreeMap<String, bool>,
    /// Expected shapes by name.
    pub(super) shapes: BTreeMap<String, Option<Shape>>,
    pub(super) losses: Vec<Loss>,
    /// What only a base can tell is listed, not refused.
    to_look_at: bool,
}

/// Places units by their own names.
///
/// # Errors
/// [`Error::Ambiguous`] where a wrong guess would not be noticed, unless the adapter is only looked at; the hint names `--base`.
pub(super) fn expect<'a>(
    units: Vec<Unit<'a>>,
    config: &Config,
    to_look_at: bool,
) -> Result<Expected<'a>, Error> {
    let mut expected = Expected { to_look_at, ..Expected::default() };
    let mut square = Vec::new();
    for unit in units {
        if let Err(error) = refuse_unknowable(&unit) {
            expected.losses.push(error.shown(to_look_at)?);
        }
        let create = matches!(unit.change, Change::Whole { is_saved: true, .. }) && is_new_head(&unit.module);
        if create {
            expected.losses.push(Loss::AssumedNew { target: unit.name.clone() });
        } else {
            let shape = expected.shape(&unit, config, &mut square)?;
            let known = expected.shapes.entry(unit.name.clone()).or_default();
            *known = shape.or(known.take());
        }
        let place = Place { disk: unit.name.clone(), uses: Vec::new(), create };
        expected.placed.units.push((unit, vec![place]));
    }
    if let Some(first) = square.first() {
        expected.losses.push(Loss::AssumedLinear { target: first.clone(), targets: square.len() });
    }
    Ok(expected)
}

/// Whether a module is a head that the base rarely has.
pub(super) fn is_new_head(module: &str) -> bool {
    module.split('.').any(|part| NEW_HEADS.contains(&part))
}

fn refuse_unknowable(unit: &Unit<'_>) -> Result<(), Error> {
    let needs_base = |reason: &str| {
        let hint = "name the base with --base".to_owned();
        Err(Error::Ambiguous { what: unit.name.clone(), reason: reason.to_owned(), hint })
    };
    let last = unit.module.rsplit('.').next().unwrap_or_default();
    let vocabulary = is_vocabulary_module(&unit.module);
    match &unit.change {
        Change::Lora { kind: LoraKind::Embedding, .. } if !UNTIED_EMBEDDINGS.contains(&last) => {
            needs_base("an embedding may be tied to the head, and then only one of its uses changes")
        }
        Change::Lora { .. } if vocabulary => {
            needs_base("a head may be tied to the embedding, and then only one of its uses changes")
        }
        Change::Whole { is_saved: false, .. } if vocabulary => {
            needs_base("a saved embedding may be a copy of the base or a trained one")
        }
        Change::Whole { .. } if vocabulary => {
            needs_base("embedding and head may be tied, and then only one of the uses changes")
        }
        // Rows of the embedding change all uses, tied or not; those of a head change the head alone.
        Change::Rows { .. } if unit.reach == Reach::ThisUse || is_head_module(&unit.module) => {
            needs_base("a head may be tied to the embedding, and then only one of its uses changes")
        }
        Change::Lora { .. } | Change::Whole { .. } | Change::Rows { .. } | Change::Add { .. } => Ok(()),
    }
}

impl Expected<'_> {
    fn shape(
        &mut self,
        unit: &Unit<'_>,
        config: &Config,
        square: &mut Vec<String>,
    ) -> Result<Option<Shape>, Error> {
        let shape = |dims: &[u64]| Shape::new(dims).ok();
        match &unit.change {
            Change::Rows { .. } => Ok(None),
            Change::Whole { value, .. } | Change::Add { value, .. } => Ok(shape(value.dims())),
            Change::Lora { kind, up, down, .. } => {
                let (out, input) =
                    (up.dims().first().copied().unwrap_or(0), down.dims().get(1).copied().unwrap_or(0));
                let kernel = down.dims().get(2..).unwrap_or_default();
                if *kind != LoraKind::Linear {
                    return Ok(shape(&[&[out, input], kernel].concat()));
                }
                let transposed = self.orientation(unit, config, (out, input), square)?;
                Ok(if transposed { shape(&[input, out]) } else { shape(&[out, input]) })
            }
        }
    }

    fn orientation(
        &mut self,
        unit: &Unit<'_>,
        config: &Config,
        (out, input): (u64, u64),
        square: &mut Vec<String>,
    ) -> Result<bool, Error> {
        let transposed = config.fan_in_fan_out;
        if out == input {
            if config.fan_in_fan_out || may_be_conv1d(&unit.module) {
                let error = Error::Ambiguous {
                    what: unit.name.clone(),
                    reason: "a square matrix of what may be GPT-2's Conv1D: nothing shows whether it is stored transposed".to_owned(),
                    hint: "name the base with --base".to_owned(),
                };
                self.losses.push(error.shown(self.to_look_at)?);
            } else {
                square.push(unit.name.clone());
            }
        }
        self.transposed.insert(unit.name.clone(), transposed);
        Ok(transposed)
    }
}
