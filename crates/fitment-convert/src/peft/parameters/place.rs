//! From factors on parameters to edits.

use super::layout::{Class, Said};
use super::spot::{Form, Spot};
use super::stored::{experts_of_a, experts_of_b};
use super::{Parameter, rules};
use crate::error::{Clash, Error};
use crate::loss::Loss;
use crate::names::Names;
use crate::pass::gather::gathered;
use crate::pass::permute::turned;
use crate::tying::is_embedding_or_head;
use fitment_core::Finding;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::model::{ExpertRange, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::Tensor;

/// What the parameters became.
#[derive(Debug, Default)]
pub(in crate::peft) struct Placed<'a> {
    /// Each with the shape that its tensors must have, and the key of its `lora_A`.
    pub(in crate::peft) edits: Vec<(Lora<'a>, Vec<u64>)>,
    pub(in crate::peft) losses: Vec<Loss>,
    pub(in crate::peft) findings: Vec<Finding>,
}

/// Edits on a base.
///
/// # Errors
/// [`Error::Ambiguous`] where nothing tells which axis `A` is over; [`Error::Mismatch`] where extents contradict each other or an
/// option; [`Error::Unsupported`] for what PEFT cannot compute.
pub(in crate::peft) fn edits<'a>(
    parameters: &[Parameter<'a>],
    said: &Said,
    (names, form): (&Names, Form),
    base: &dyn Checkpoint,
) -> Result<Placed<'a>, Error> {
    let class = Class::of(base.config());
    let mut spots = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        check(parameter)?;
        spots.push((parameter, Spot::of(parameter, form, (names, class), base)?));
    }
    let mut placed = Placed::default();
    let shown = placed.shown(&spots, said, class)?;
    for (parameter, spot) in &spots {
        let axis = match (spot, shown) {
            (Spot::Matrix { .. }, _) => 2,
            (_, Some(axis)) => axis,
            (_, None) => {
                let axis = said.axis(class).ok_or_else(|| said.unknown(&parameter.name, class))?;
                placed.assume(said, class);
                axis
            }
        };
        placed.put(parameter, spot, axis, said)?;
    }
    Ok(placed)
}

/// Edits without a base: stacks by the names of the class, as far as a wrong axis would be noticed.
///
/// # Errors
/// As [`edits`].
pub(in crate::peft) fn unbound<'a>(parameters: &[Parameter<'a>], said: &Said) -> Result<Placed<'a>, Error> {
    let mut placed = Placed::default();
    for parameter in parameters {
        check(parameter)?;
        let (a, b) = parameter.sides();
        let disk = parameter.name.clone();
        // Classes that say `is_transposed` differ; of those the extents do, where they are not equal.
        let (unflagged, flagged) = (said.axis(Class::of_flag(false)), said.axis(Class::of_flag(true)));
        let axis = match unflagged {
            Some(axis) if a != b || unflagged == flagged => axis,
            Some(_) => return Err(needs_base(parameter)),
            None => return Err(said.unknown(&parameter.name, Class::of_flag(false))),
        };
        placed.assume(said, Class::of_flag(false));
        let spot = if parameter.experts == 1 {
            Spot::Matrix { disk }
        } else {
            let (rows, columns) = if axis == 2 { (b, a) } else { (a, b) };
            Spot::Stack { disk, rows, columns, transposed: false, turned: false }
        };
        placed.put(parameter, &spot, axis, said)?;
    }
    Ok(placed)
}

fn needs_base(parameter: &Parameter<'_>) -> Error {
    Error::Ambiguous {
        what: parameter.name.clone(),
        reason: match parameter.experts {
            1 => "it is a square matrix, and whether PEFT took it as [out, in] or the other way depends on the model",
            _ => "the matrices of its experts are square, and gpt-oss stores them the other way than other models",
        }
        .to_owned(),
        hint: "name the base with --base".to_owned(),
    }
}

fn check(parameter: &Parameter<'_>) -> Result<(), Error> {
    let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
    let unsupported = |reason: String| {
        let hint = "merge it with PEFT (merge_and_unload)".to_owned();
        Err(Error::Unsupported { what: parameter.name.clone(), reason, hint })
    };
    if is_embedding_or_head(module) {
        return unsupported("it is a parameter of an embedding or a head, which may be tied".to_owned());
    }
    if parameter.experts > MAX_EXPERTS {
        return unsupported(format!("{} experts, {MAX_EXPERTS} are read", parameter.experts));
    }
    Ok(())
}

impl Spot {
    /// The axis of the class's stack that `A` is over, where the extents show it: `None` where they are equal.
    fn axis(&self, parameter: &Parameter<'_>) -> Result<Option<u64>, Clash> {
        let (target, rows, columns, turned) = match self {
            Spot::Matrix { .. } => return Ok(None),
            Spot::Stack { disk, rows, columns, turned, .. } => (disk.clone(), *rows, *columns, *turned),
            Spot::Each { bundles, columns } => {
                let rows = bundles.iter().fold(0u64, |sum, (_, rows)| sum.saturating_add(*rows));
                let names: Vec<&str> = bundles.iter().map(|(name, _)| name.as_str()).collect();
                (names.join(" and "), rows, *columns, false)
            }
        };
        let (a, b) = parameter.sides();
        match ((a, b) == (columns, rows), (a, b) == (rows, columns)) {
            (true, true) => Ok(None),
            (true, false) => Ok(Some(if turned { 1 } else { 2 })),
            (false, true) => Ok(Some(if turned { 2 } else { 1 })),
            (false, false) => {
                Err(Clash { target, expected: format!("{b} by {a}"), found: format!("{rows} by {columns}") })
            }
        }
    }
}

impl<'a> Placed<'a> {
    /// The axis that the extents of the parameters show; all of a file were written by one release, for one class.
    fn shown(
        &mut self,
        spots: &[(&Parameter<'a>, Spot)],
        said: &Said,
        class: Class,
    ) -> Result<Option<u64>, Error> {
        let mut shown: Option<(&str, u64)> = None;
        for (parameter, spot) in spots {
            let axis = spot.axis(parameter).map_err(|clash| Error::Mismatch { culprits: vec![clash] })?;
            let Some(axis) = axis else { continue };
            match shown {
                None => shown = Some((&parameter.name, axis)),
                Some((_, first)) if first == axis => {}
                Some((first, _)) => {
                    return Err(Error::Mismatch {
                        culprits: vec![Clash {
                            target: parameter.name.clone(),
                            expected: format!("factors the same way round as those of {first}"),
                            found: "shapes that fit them only the other way round".to_owned(),
                        }],
                    });
                }
            }
        }
        let Some((name, axis)) = shown else { return Ok(None) };
        if said.axis(class).is_some_and(|stated| stated != axis) {
            let message = format!(
                "{} says that A is over the other axis of {name} than its shape shows; the shape counts",
                said.source()
            );
            if said.is_by_option() {
                return Err(Error::Option {
                    option: said.source(),
                    reason: format!("contradicts the shape of {name}, which shows the other axis"),
                    hint: "leave it out".to_owned(),
                });
            }
            self.findings.push(Finding::new(&rules::P_MOE_LAYOUT, "peft_version", message));
        }
        Ok(Some(axis))
    }

    /// Notes that no extents decided, but what is said.
    fn assume(&mut self, said: &Said, class: Class) {
        if let Some(message) = said.contradiction(class).filter(|_| self.findings.is_empty()) {
            self.findings.push(Finding::new(&rules::P_MOE_LAYOUT, "peft_version", message));
        }
        let Some(rule) = said.assumed().filter(|_| self.losses.is_empty()) else { return };
        self.losses.push(Loss::AssumedLayout { rule: rule.to_owned() });
    }

    /// The edits of one parameter, `A` being over this axis of the class's stack.
    fn put(&mut self, parameter: &Parameter<'a>, spot: &Spot, axis: u64, said: &Said) -> Result<(), Error> {
        let unfit = || Error::Unsupported {
            what: parameter.name.clone(),
            reason: "its factors are no matrices of whole bytes".to_owned(),
            hint: rules::P_SHAPE.remedy.to_owned(),
        };
        let a = experts_of_a(parameter).ok_or_else(unfit)?;
        let b = experts_of_b(parameter, said.columns).ok_or_else(unfit)?;
        // Whether `A` reads the inputs.
        let reads = match spot {
            Spot::Matrix { .. } => true,
            Spot::Stack { transposed, turned, .. } => (axis == 2) == (transposed == turned),
            Spot::Each { .. } => axis == 2,
        };
        if axis == 1 && parameter.experts == 1 && !matches!(spot, Spot::Matrix { .. }) {
            return Err(Error::Unsupported {
                what: parameter.name.clone(),
                reason: "of a stack of one expert, PEFT adds the product without turning it, which does not fit here".to_owned(),
                hint: "merge it with the PEFT that trained it".to_owned(),
            });
        }
        let keys =
            if reads { [&parameter.b.key, &parameter.a.key] } else { [&parameter.a.key, &parameter.b.key] };
        let (up, down) = match reads {
            true => (b, a),
            false => (turned(&a).ok_or_else(unfit)?, turned(&b).ok_or_else(unfit)?),
        };
        let keys = ["up", "down"].into_iter().zip(keys).map(|(role, key)| (role.to_owned(), key.clone()));
        let origin = Origin {
            alpha: Some(parameter.scale.alpha),
            rank: Some(parameter.scale.rank),
            rslora: parameter.scale.is_rslora,
            keys: keys.collect(),
            ..Origin::default()
        };
        let lora = |target: Target, form: LoraForm, up: Tensor<'a>, down: Tensor<'a>| Lora {
            target,
            form,
            transposed: false,
            scale: parameter.scale.scale,
            up,
            down,
            mid: None,
            magnitude: None,
            origin: origin.clone(),
        };
        match spot {
            Spot::Matrix { disk } => {
                let (up, down) = (parameter.b.tensor.clone(), parameter.a.tensor.clone());
                let (a, b) = parameter.sides();
                let target = Target::whole(TensorName::new(disk)?);
                self.edits.push((lora(target, LoraForm::Matrix, up, down), vec![b, a]));
            }
            Spot::Stack { disk, rows, columns, transposed, .. } => {
                let target = Target::whole(TensorName::new(disk)?);
                let edit = Lora { transposed: *transposed, ..lora(target, LoraForm::Stacked, up, down) };
                self.edits.push((edit, vec![parameter.experts, *rows, *columns]));
            }
            Spot::Each { bundles, columns } => {
                let mut first = 0u64;
                for (name, rows) in bundles {
                    let end = first.saturating_add(*rows);
                    let sources: Option<Vec<_>> =
                        (first..end).map(|row| usize::try_from(row).ok().map(Some)).collect();
                    let own = match bundles.len() {
                        1 => up.clone(),
                        _ => gathered(&up, 1, &sources.ok_or_else(unfit)?).ok_or_else(unfit)?,
                    };
                    first = end;
                    let experts = Some(ExpertRange { start: 0, end: parameter.experts });
                    let target = Target { experts, ..Target::whole(TensorName::new(name)?) };
                    let edit = lora(target, LoraForm::Matrix, own, down.clone());
                    self.edits.push((edit, vec![*rows, *columns]));
                }
            }
        }
        Ok(())
    }
}
