//! Sums: factors side by side, everything else listed.

use super::change::same_part;
use super::{Done, Fault};
use crate::gather::Touch;
use crate::numbers::{common, is_exact, joined};
use fitment_core::model::{Edit, Lora, LoraForm, Origin};
use fitment_core::tensor::{Dtype, Tensor};

/// The sum of edits that only add. Low-rank updates of one part and form become one, at the place of the first of them.
pub(super) fn merge<'a>(touches: &[Touch<'a>]) -> Result<Done<'a>, Fault> {
    enum Slot<'a> {
        Group(Touch<'a>, Vec<(f64, &'a Lora<'a>)>),
        Edit(Box<Edit<'a>>),
    }
    let mut slots: Vec<Slot<'a>> = Vec::new();
    for touch in touches {
        let Edit::Lora(lora) = touch.edit else {
            slots.push(Slot::Edit(Box::new(scaled(touch))));
            continue;
        };
        if lora.mid.is_some() {
            slots.push(Slot::Edit(Box::new(scaled(touch))));
            continue;
        }
        let like = slots.iter_mut().find_map(|slot| match slot {
            Slot::Group(first, group) if is_like(first, touch) => Some(group),
            Slot::Group(..) | Slot::Edit(_) => None,
        });
        match like {
            Some(group) => group.push((touch.weight, lora)),
            None => slots.push(Slot::Group(*touch, vec![(touch.weight, lora)])),
        }
    }
    let mut rounded = false;
    let edit = |slot| match slot {
        Slot::Edit(edit) => Ok(*edit),
        Slot::Group(_, group) => {
            let (lora, was_rounded) = side_by_side(&group)
                .ok_or_else(|| {
                Fault::exact("the factors do not stand side by side: their shapes differ, or a multiplier is too large")
            })?;
            rounded |= was_rounded;
            Ok(Edit::Lora(lora))
        }
    };
    let edits = slots.into_iter().map(edit).collect::<Result<Vec<_>, Fault>>()?;
    if edits.iter().any(|edit| !multiplier(edit).is_finite()) {
        return Err(Fault::Overflow("its multiplier times the weight overflows".to_owned()));
    }
    Ok((edits, rounded))
}

/// Whether two updates can be one.
fn is_like(a: &Touch<'_>, b: &Touch<'_>) -> bool {
    let (Edit::Lora(first), Edit::Lora(second)) = (a.edit, b.edit) else { return false };
    first.form == second.form && first.transposed == second.transposed && same_part(a, b)
}

fn multiplier(edit: &Edit<'_>) -> f64 {
    match edit {
        Edit::Lora(lora) => lora.scale,
        Edit::Add(add) => add.scale,
        Edit::SparseAdd(add) => add.scale,
        Edit::Set(_)
        | Edit::Remove(_)
        | Edit::SparseSet(_)
        | Edit::Bits(_)
        | Edit::Config(_)
        | Edit::Intervention(_) => 1.0,
    }
}

/// The edit with its weight in its multiplier.
fn scaled<'a>(touch: &Touch<'a>) -> Edit<'a> {
    let mut edit = touch.edit.clone();
    match &mut edit {
        Edit::Lora(lora) => lora.scale *= touch.weight,
        Edit::Add(add) => add.scale *= touch.weight,
        Edit::SparseAdd(add) => add.scale *= touch.weight,
        Edit::Set(_)
        | Edit::Remove(_)
        | Edit::SparseSet(_)
        | Edit::Bits(_)
        | Edit::Config(_)
        | Edit::Intervention(_) => {}
    }
    edit
}

/// `Σ wᵢ·sᵢ·upᵢ·downᵢ` as one product of rank `Σ rᵢ`, and whether the multipliers were rounded into `up`.
fn side_by_side<'a>(group: &[(f64, &Lora<'a>)]) -> Option<(Lora<'a>, bool)> {
    let (weight, first) = *group.first()?;
    if group.len() == 1 {
        let mut lora = first.clone();
        lora.scale *= weight;
        return Some((lora, false));
    }
    let lead = usize::from(first.has_expert_axis());
    let multipliers: Vec<f64> = group.iter().map(|(weight, lora)| weight * lora.scale).collect();
    let ups: Vec<&Tensor<'a>> = group.iter().map(|(_, lora)| &lora.up).collect();
    let (scale, up, rounded) = with_multipliers(&ups, &multipliers, lead + 1)?;
    let downs: Vec<&Tensor<'a>> = group.iter().map(|(_, lora)| &lora.down).collect();
    let dtype = common(downs.iter().map(|tensor| tensor.dtype()));
    let downs: Vec<(&Tensor<'a>, f64)> = downs.into_iter().map(|down| (down, 1.0)).collect();
    let down = joined(dtype, lead, &downs)?;
    let (form, transposed) = (first.form, first.transposed);
    let target = first.target.clone();
    let (mid, magnitude, origin) = (None, None, Origin::default());
    debug_assert!(form != LoraForm::Stacked || lead == 1);
    Some((Lora { target, form, transposed, scale, up, down, mid, magnitude, origin }, rounded))
}

/// Columns side by side with one multiplier for all: bits unchanged where all have the same, or where the others differ
/// from it by powers of two that no element notices; else F32, or F64 where there is F64.
fn with_multipliers<'a>(
    ups: &[&Tensor<'a>],
    multipliers: &[f64],
    axis: usize,
) -> Option<(f64, Tensor<'a>, bool)> {
    let dtype = common(ups.iter().map(|tensor| tensor.dtype()));
    let first = *multipliers.first()?;
    let ratios: Vec<f64> = multipliers.iter().map(|multiplier| multiplier / first).collect();
    let with = |factors: &[f64]| ups.iter().copied().zip(factors.iter().copied()).collect::<Vec<_>>();
    let is_free = |(ratio, multiplier): (&f64, &f64)| is_power_of_two(*ratio) && ratio * first == *multiplier;
    if ratios.iter().zip(multipliers).all(is_free)
        && ups.iter().zip(&ratios).all(|(up, ratio)| is_exact(up, *ratio, dtype))
    {
        return Some((first, joined(dtype, axis, &with(&ratios))?, false));
    }
    let dtype = if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
    Some((1.0, joined(dtype, axis, &with(multipliers))?, true))
}

fn is_power_of_two(value: f64) -> bool {
    value.is_normal() && value.to_bits() & ((1 << 52) - 1) == 0
}
