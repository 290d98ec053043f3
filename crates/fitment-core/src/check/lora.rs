//! Low-rank edits (spec section 5.1).

use super::Checker;
use super::edits::{check_not_empty, check_roles, check_weight_dtype};
use super::state::State;
use super::target::slice_shape;
use crate::finding::rules;
use crate::manifest::v1::{LoraEdit, LoraForm};

pub(super) fn check(checker: &mut Checker<'_, '_>, edit: &LoraEdit, state: &State, place: &str) {
    let optional: &[&str] = if edit.form == LoraForm::Conv { &["mid", "magnitude"] } else { &["magnitude"] };
    if !check_roles(checker, &edit.tensors, (&["up", "down"], optional), place) {
        return;
    }
    let roles = ["up", "down", "mid", "magnitude"];
    let present = roles.iter().filter(|role| edit.tensors.contains_key(**role));
    let mut sound = true;
    for role in present {
        sound &= check_weight_dtype(checker, &edit.tensors, role, place);
        sound &= check_not_empty(checker, &edit.tensors, role, place);
    }
    if edit.magnitude.is_some() != edit.tensors.contains_key("magnitude") {
        checker.report(&rules::E_ROLE, place, "field and role `magnitude` come together");
        return;
    }
    if !sound {
        return;
    }
    let shape = state.shape.as_deref();
    let Ok(slice) = slice_shape(checker, &edit.target.slice, shape, place) else { return };
    let Some(factors) = Factors::of(checker, edit) else { return };
    let experts = edit.target.experts.map(|[start, end]| end.saturating_sub(start));
    match factors.delta(edit, experts) {
        Err(Clash::Rank(message)) => checker.report(&rules::E_RANK, place, message),
        Err(Clash::Shape(message)) => checker.report(&rules::E_SHAPE, place, message),
        Err(Clash::Bundle(message)) => checker.report(&rules::E_BUNDLE, place, message),
        Ok(delta) => {
            check_against_base(checker, edit, &delta, slice.as_deref(), place);
            check_magnitude(checker, edit, &delta, place);
        }
    }
}

struct Factors {
    up: Vec<u64>,
    down: Vec<u64>,
    mid: Option<Vec<u64>>,
}

enum Clash {
    Rank(String),
    Shape(String),
    Bundle(String),
}

impl Factors {
    fn of(checker: &Checker<'_, '_>, edit: &LoraEdit) -> Option<Self> {
        let dims = |role| checker.tensor(&edit.tensors, role).map(|tensor| tensor.shape.dims().to_vec());
        let mid = if edit.tensors.contains_key("mid") { Some(dims("mid")?) } else { None };
        Some(Self { up: dims("up")?, down: dims("down")?, mid })
    }

    /// The shape of `s·Δ`, for one expert of a bundle.
    fn delta(&self, edit: &LoraEdit, experts: Option<u64>) -> Result<Vec<u64>, Clash> {
        match edit.form {
            LoraForm::Conv => self.conv(edit, experts),
            LoraForm::Matrix => match experts {
                None => matrix(&self.up, &self.down),
                Some(count) => {
                    let delta = self.stacked()?;
                    if delta[0] != count {
                        let message = format!("the factors hold {} experts, the range has {count}", delta[0]);
                        return Err(Clash::Bundle(message));
                    }
                    Ok(delta[1..].to_vec())
                }
            },
            LoraForm::Stacked if experts.is_some() => {
                Err(Clash::Shape("the stacked form has its expert axis in the tensor: no `{e}`".to_owned()))
            }
            LoraForm::Stacked => self.stacked(),
        }
    }

    fn stacked(&self) -> Result<Vec<u64>, Clash> {
        let (&[up_experts, ..], &[down_experts, ..]) = (&self.up[..], &self.down[..]) else {
            return Err(Clash::Shape("factors of experts have three axes".to_owned()));
        };
        if up_experts != down_experts {
            let message = format!("up holds {up_experts} experts, down {down_experts}");
            return Err(Clash::Shape(message));
        }
        let delta = matrix(&self.up[1..], &self.down[1..])?;
        Ok(vec![up_experts, delta[0], delta[1]])
    }

    fn conv(&self, edit: &LoraEdit, experts: Option<u64>) -> Result<Vec<u64>, Clash> {
        let (up, down) = (&self.up, &self.down);
        if experts.is_some() || edit.transposed {
            return Err(Clash::Shape("a conv edit is neither a bundle nor transposed".to_owned()));
        }
        let ones = |dims: &[u64]| dims.iter().all(|dim| *dim == 1);
        let axes = up.len();
        if !(3..=5).contains(&axes) || down.len() != axes || !ones(&up[2..]) {
            return Err(Clash::Shape(format!(
                "conv factors have 3 to 5 axes each and up ends in ones; up is {up:?}, down {down:?}"
            )));
        }
        let (outer, inner, kernel) = match &self.mid {
            None => (down[0], down[0], &down[2..]),
            Some(mid) if mid.len() == axes && ones(&down[2..]) => (mid[0], mid[1], &mid[2..]),
            Some(mid) => {
                let message =
                    format!("with mid {mid:?}, down {down:?} must end in ones and have as many axes");
                return Err(Clash::Shape(message));
            }
        };
        if up[1] != outer || down[0] != inner {
            let message = format!("up {up:?}, mid {:?} and down {down:?} disagree on the rank", self.mid);
            return Err(Clash::Rank(message));
        }
        Ok([&[up[0], down[1]], kernel].concat())
    }
}

fn matrix(up: &[u64], down: &[u64]) -> Result<Vec<u64>, Clash> {
    match (up, down) {
        (&[out, rank], &[other, input]) if rank == other => Ok(vec![out, input]),
        (&[_, rank], &[other, _]) => {
            Err(Clash::Rank(format!("up {up:?} has rank {rank}, down {down:?} has rank {other}")))
        }
        _ => Err(Clash::Shape(format!("up {up:?} and down {down:?} are not matrices of one edit"))),
    }
}

/// `base` is the recorded shape of the slice before any transposition.
fn check_against_base(
    checker: &mut Checker<'_, '_>,
    edit: &LoraEdit,
    delta: &[u64],
    base: Option<&[u64]>,
    place: &str,
) {
    let Some(base) = base else { return };
    let expected: Option<Vec<u64>> = match (edit.form, base) {
        (LoraForm::Matrix, [rows, rest @ ..]) => {
            let columns = rest.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
            columns.map(|columns| if edit.transposed { vec![columns, *rows] } else { vec![*rows, columns] })
        }
        (LoraForm::Stacked, &[experts, rows, columns]) => {
            let (rows, columns) = if edit.transposed { (columns, rows) } else { (rows, columns) };
            Some(vec![experts, rows, columns])
        }
        (LoraForm::Conv, dims) => Some(dims.to_vec()),
        _ => None,
    };
    if expected.as_deref() != Some(delta) {
        let message = format!("the update has the shape {delta:?}, the base tensor {base:?}");
        checker.report(&rules::E_SHAPE, place, message);
    }
}

fn check_magnitude(checker: &mut Checker<'_, '_>, edit: &LoraEdit, delta: &[u64], place: &str) {
    let Some(magnitude) = &edit.magnitude else { return };
    let Some(value) = checker.tensor(&edit.tensors, "magnitude") else { return };
    let kept = usize::try_from(magnitude.axis).ok().filter(|axis| *axis < 2).map(|axis| delta[axis]);
    let message = match kept {
        _ if edit.form == LoraForm::Stacked || edit.target.experts.is_some() => {
            "experts have no magnitude".to_owned()
        }
        None => format!("magnitude.axis is {}, expected 0 or 1", magnitude.axis),
        Some(extent) if value.shape.elements() != extent => format!(
            "the magnitude has the shape {}, axis {} of the update has {extent} indices",
            value.shape, magnitude.axis
        ),
        Some(_) => return,
    };
    checker.report(&rules::E_MAGNITUDE, place, message);
}
