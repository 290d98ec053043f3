//! Replacements of whole tensors: their weighted mean, with the base where the weights do not add up to 1.

use super::change::{Change, Start};
use super::{Context, Done, Fault};
use crate::base::Held;
use crate::numbers::common;
use fitment_core::identity::{hex, sha256};
use fitment_core::model::{Bits, Digest, Edit, Origin, Set, SetDtype, Target};
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::bits;
use fitment_math::round::{narrow, narrowed, widened};

/// How far the sum of weights may be from 1: decimal fractions add up to that.
const NEAR: f64 = 1e-12;

/// Whether weights add up to 1.
pub(super) fn is_one(weights: impl Iterator<Item = f64>) -> bool {
    (weights.sum::<f64>() - 1.0).abs() <= NEAR
}

/// One adapter's replacement.
struct Part<'a> {
    weight: f64,
    value: Tensor<'a>,
    dtype: SetDtype,
    create: bool,
    reshape: bool,
    /// It says what is there, and adds nothing to it: two that say the same are one.
    is_set: bool,
}

impl<'a> Part<'a> {
    /// Of a tensor that the base has, in its shape.
    fn of_base(weight: f64, value: Tensor<'a>, dtype: SetDtype, is_set: bool) -> Self {
        Self { weight, value, dtype, create: false, reshape: false, is_set }
    }
}

/// What the replacements of all adapters make of a tensor: `W + Σ wᵢ·(Vᵢ − W)` over those that replace it.
pub(super) fn merge<'a>(
    context: &Context<'_, 'a>,
    changes: &[Change<'a>],
    is_added_to: bool,
) -> Result<Done<'a>, Fault> {
    let mut target = None;
    let mut held: Option<Held> = None;
    let mut parts: Vec<Part<'a>> = Vec::new();
    for change in changes {
        let weight = change.weight;
        let part = match &change.start {
            Start::Whole(set) => {
                target.get_or_insert(&set.target);
                let (value, dtype) = (set.value.clone(), set.dtype);
                Part { weight, value, dtype, create: set.create, reshape: set.reshape, is_set: true }
            }
            Start::Bits(edit) => {
                target.get_or_insert(&edit.target);
                let base = base_of(context, &edit.target, &mut held, BITS)?;
                Part::of_base(
                    weight,
                    of_bytes(base, restored((base.dtype, &base.bytes, base.digest), edit)?)?,
                    SetDtype::Stored,
                    false,
                )
            }
            Start::Corrected(add) => {
                target.get_or_insert(&add.target);
                let reason = "differences with exceptions of several adapters, or one with a weight, depend on the base";
                let base = base_of(context, &add.target, &mut held, reason)?;
                Part::of_base(weight, corrected(base, add)?, SetDtype::Stored, false)
            }
            Start::Elements(edit) => {
                target.get_or_insert(&edit.target);
                let base = base_of(context, &edit.target, &mut held, BESIDE)?;
                Part::of_base(weight, placed(base, &edit.index, &edit.value, 1)?, SetDtype::Stored, true)
            }
            Start::Rows(set) => {
                target.get_or_insert(&set.target);
                let base = base_of(context, &set.target, &mut held, BESIDE)?;
                let width = base.dims.iter().skip(1).product::<u64>();
                let rows = set.rows.as_ref().ok_or_else(|| Fault::exact("rows without numbers"))?;
                if set.value.dims().get(1..) != base.dims.get(1..) {
                    return Err(Fault::BaseAtHand(set.value.shape().to_string(), format!("{:?}", base.dims)));
                }
                Part::of_base(weight, placed(base, rows, &set.value, width)?, set.dtype, true)
            }
            _ => continue,
        };
        parts.push(part);
    }
    let Some(target) = target else { return Ok((Vec::new(), false)) };
    // To keep the base's dtype, and to have it, is one thing.
    if parts.windows(2).any(|pair| pair[0].dtype != pair[1].dtype) {
        let base = context.base.dtype(target);
        let is_kept = |part: &&mut Part<'_>| !part.create && Some(part.value.dtype()) == base;
        parts.iter_mut().filter(is_kept).for_each(|part| part.dtype = SetDtype::Base);
    }
    let Some(first) = parts.first() else { return Ok((Vec::new(), false)) };
    if parts.iter().any(|part| part.create != first.create || part.dtype != first.dtype) {
        return Err(Fault::exact("one adapter replaces the tensor, another creates it or gives it a dtype"));
    }
    if parts.iter().any(|part| part.value.dims() != first.value.dims()) {
        let shapes: Vec<String> = parts.iter().map(|part| part.value.shape().to_string()).collect();
        return Err(Fault::NotExact(format!("the replacements have other shapes: {}", shapes.join(", "))));
    }
    let (create, reshape) = (first.create, parts.iter().any(|part| part.reshape));
    // What is added to afterwards is not rounded before: the base's own dtype needs no saying.
    let base = context.base.dtype(target).filter(|_| is_added_to && !create);
    if base.is_some() && parts.iter().all(|part| Some(part.value.dtype()) == base) {
        parts.iter_mut().for_each(|part| part.dtype = SetDtype::Base);
    }
    let dtype = parts[0].dtype;
    let value = match unanimous(&parts) {
        Some(value) => value,
        None => mean(context, target, &parts, &mut held, is_added_to)?,
    };
    let (target, origin) = (target.clone(), Origin::default());
    let edit = Set { target, dtype, create, reshape, value, rows: None, origin };
    Ok((vec![Edit::Set(edit)], false))
}

/// Why parts of a tensor need the base beside a whole one.
const BESIDE: &str = "new rows and new elements beside other replacements depend on the base";

/// The base with some of its places replaced, each of so many elements; of the values' dtype where that is another.
fn placed(base: &Held, index: &Tensor<'_>, value: &Tensor<'_>, width: u64) -> Result<Tensor<'static>, Fault> {
    let beyond = || Fault::exact("new rows, or elements, lie beyond the base's tensor");
    let new = widened(value).ok_or_else(|| Fault::exact("its elements are no weights to compute with"))?;
    let width = usize::try_from(width).map_err(|_| beyond())?;
    let mut values = base.values.clone();
    for (place, new) in super::elements::positions(index).into_iter().zip(new.chunks_exact(width.max(1))) {
        let at = usize::try_from(place).ok().and_then(|place| place.checked_mul(width)).ok_or_else(beyond)?;
        let end = at.checked_add(width).ok_or_else(beyond)?;
        values.get_mut(at..end).ok_or_else(beyond)?.copy_from_slice(new);
    }
    let dtype = common([base.dtype, value.dtype()].into_iter());
    narrowed(dtype, &base.dims, &values).ok_or_else(beyond)
}

/// The value that all set to the same bits: with weights that add up to 1, or 1 each (spec section 10).
fn unanimous<'a>(parts: &[Part<'a>]) -> Option<Tensor<'a>> {
    let first = parts.first()?;
    let same = |part: &Part<'a>| {
        part.value.dtype() == first.value.dtype() && part.value.bytes() == first.value.bytes()
    };
    let is_whole = parts.iter().all(|part| part.weight == 1.0 && part.is_set)
        || is_one(parts.iter().map(|part| part.weight));
    (is_whole && parts.iter().all(same)).then(|| first.value.clone())
}

fn mean<'a>(
    context: &Context<'_, 'a>,
    target: &Target,
    parts: &[Part<'a>],
    held: &mut Option<Held>,
    is_added_to: bool,
) -> Result<Tensor<'a>, Fault> {
    let first = &parts[0];
    let values: Option<Vec<Vec<f64>>> = parts.iter().map(|part| widened(&part.value)).collect();
    let no_weight = || Fault::NotExact(format!("{} has no mean", first.value.dtype()));
    let values = values.ok_or_else(no_weight)?;
    let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
    let mut sum = vec![0.0; values[0].len()];
    if !is_one(weights.iter().copied()) {
        if first.create {
            return Err(Fault::exact("the base has no such tensor, and the weights do not add up to 1"));
        }
        let reason = format!("the weights of its replacements add up to {}", weights.iter().sum::<f64>());
        let base = base_of(context, target, held, &reason)?;
        if base.dims != first.value.dims() {
            return Err(Fault::BaseAtHand(first.value.shape().to_string(), format!("{:?}", base.dims)));
        }
        // W + Σ wᵢ·(Vᵢ − W), in the order of spec section 10.
        sum.clone_from(&base.values);
        for (weight, values) in weights.iter().zip(&values) {
            for ((sum, value), base) in sum.iter_mut().zip(values).zip(&base.values) {
                *sum += weight * (value - base);
            }
        }
    } else {
        for (weight, values) in weights.iter().zip(&values) {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += weight * value;
            }
        }
    }
    let known = match first.dtype {
        SetDtype::Stored => Some(first.value.dtype()),
        SetDtype::Base => context.base.dtype(target),
    };
    // What is added to afterwards, or whose dtype nobody knows, is not rounded to sixteen bits before.
    let wide =
        if parts.iter().any(|part| part.value.dtype() == Dtype::F64) { Dtype::F64 } else { Dtype::F32 };
    let is_free = first.dtype == SetDtype::Base;
    let dtype = match known {
        Some(known) if !(is_free && is_added_to) => known,
        _ => wide,
    };
    narrowed(dtype, first.value.dims(), &sum).ok_or_else(no_weight)
}

fn base_of<'h>(
    context: &Context<'_, '_>,
    target: &Target,
    held: &'h mut Option<Held>,
    reason: &str,
) -> Result<&'h Held, Fault> {
    if held.is_none() {
        *held = Some(context.base.read(target, reason)?);
    }
    held.as_ref().ok_or_else(|| Fault::NeedsBase(reason.to_owned()))
}

/// Why a base is asked for.
const BITS: &str = "bit-exact changes of several adapters, or one with a weight, depend on the base";

/// What a bit-exact change makes of the base's bytes, which are given with their dtype, and their SHA-256 where that is known.
///
/// # Errors
/// For any other base: it has no override (spec section 10).
pub(crate) fn restored(
    (dtype, bytes, digest): (Dtype, &[u8], Option<Digest>),
    edit: &Bits<'_>,
) -> Result<Vec<u8>, Fault> {
    let found = digest.unwrap_or_else(|| sha256(bytes));
    if found != edit.base {
        let [asked, found] = [edit.base, found].map(|digest| format!("SHA-256 {}", hex(&digest)));
        return Err(Fault::BaseAtHand(asked, found));
    }
    let mut restored = bytes.to_vec();
    bits::decode(edit.z.bytes(), dtype, &mut restored).map_err(|error| Fault::NotExact(error.to_string()))?;
    Ok(restored)
}

/// What a difference and its exceptions make of the base: the sum rounded once, then the exceptions.
pub(crate) fn corrected(base: &Held, add: &fitment_core::model::Add<'_>) -> Result<Tensor<'static>, Fault> {
    let damaged = || Fault::exact("the difference does not fit the base");
    let difference = widened(&add.value).filter(|values| values.len() == base.values.len());
    let difference = difference.ok_or_else(damaged)?;
    let sum: Vec<f64> =
        base.values.iter().zip(&difference).map(|(base, delta)| base + add.scale * delta).collect();
    let mut bytes = narrow(base.dtype, &sum).ok_or_else(damaged)?;
    if let Some(exceptions) = &add.exceptions {
        let size = base.dtype.bytes().ok_or_else(damaged)?;
        let positions = super::elements::positions(&exceptions.index);
        for (position, value) in positions.into_iter().zip(exceptions.value.bytes().chunks_exact(size)) {
            let at =
                usize::try_from(position).ok().and_then(|at| at.checked_mul(size)).ok_or_else(damaged)?;
            bytes.get_mut(at..at + size).ok_or_else(damaged)?.copy_from_slice(value);
        }
    }
    of_bytes(base, bytes)
}

fn of_bytes(base: &Held, bytes: Vec<u8>) -> Result<Tensor<'static>, Fault> {
    let shape =
        fitment_core::tensor::Shape::new(&base.dims).map_err(|fault| Fault::NotExact(fault.to_string()))?;
    Tensor::owned(base.dtype, shape, bytes).map_err(|fault| Fault::NotExact(fault.to_string()))
}
