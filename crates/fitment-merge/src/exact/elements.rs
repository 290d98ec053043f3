//! New rows and new single elements of several adapters: each place by itself.

use super::change::{Change, Start};
use super::whole::is_one;
use super::{Context, Done, Fault};
use crate::base::Held;
use crate::numbers::common;
use fitment_core::model::{Edit, Origin, Set, SetDtype, SparseAdd, SparseSet, Target};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::round::{narrow, wide};
use std::collections::BTreeMap;

/// Positions of an index tensor, U32 or I64.
pub(crate) fn positions(index: &Tensor<'_>) -> Vec<u64> {
    let bytes = index.bytes();
    match index.dtype() {
        Dtype::U32 => {
            bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk).into()).collect()
        }
        _ => bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect(),
    }
}

/// Who sets a place: the weight, and the bytes with their dtype.
type Setters<'t> = Vec<(f64, Dtype, &'t [u8])>;

/// Places that adapters set: for each, who sets it with which weight to which bytes.
struct Places<'t> {
    /// Elements of a place.
    width: usize,
    set: BTreeMap<u64, Setters<'t>>,
}

impl<'t> Places<'t> {
    fn new(width: usize) -> Self {
        Self { width, set: BTreeMap::new() }
    }

    fn add(&mut self, weight: f64, index: &Tensor<'_>, value: &'t Tensor<'_>) {
        let len = value.bytes().len() / usize::try_from(index.elements()).unwrap_or(1).max(1);
        for (place, bytes) in positions(index).into_iter().zip(value.bytes().chunks_exact(len.max(1))) {
            self.set.entry(place).or_default().push((weight, value.dtype(), bytes));
        }
    }

    fn dtypes(&self) -> Dtype {
        common(self.set.values().flatten().map(|(_, dtype, _)| *dtype))
    }

    /// Whether every place keeps the bits that its setters agree on.
    fn is_unanimous(&self) -> bool {
        self.set.values().all(|setters| agreed(setters).is_some())
    }

    /// The bytes of all places, in their order.
    fn settle(&self, dtype: Dtype, base: Option<&Held>) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::new();
        for (place, setters) in &self.set {
            match agreed(setters).filter(|_| setters[0].1 == dtype) {
                Some(bytes) => all.extend_from_slice(bytes),
                None => all.extend(self.computed(*place, setters, dtype, base)?),
            }
        }
        Ok(all)
    }

    /// What all places add to the base.
    fn differences(&self, dtype: Dtype, base: &Held) -> Result<Vec<u8>, Fault> {
        let no_weight = || Fault::exact("its elements are no weights to compute with");
        let mut all = Vec::new();
        for (place, setters) in &self.set {
            let new = self.computed(*place, setters, Dtype::F64, Some(base))?;
            let new = wide(Dtype::F64, &new).ok_or_else(no_weight)?;
            let from = usize::try_from(*place).ok().and_then(|place| place.checked_mul(self.width));
            let held = from.and_then(|from| base.values.get(from..from + self.width));
            let held =
                held.ok_or_else(|| Fault::NotExact(format!("the base has no place {place} to add to")))?;
            let added: Vec<f64> = new.iter().zip(held).map(|(new, held)| new - held).collect();
            all.extend(narrow(dtype, &added).ok_or_else(no_weight)?);
        }
        Ok(all)
    }

    fn computed(
        &self,
        place: u64,
        setters: &[(f64, Dtype, &[u8])],
        dtype: Dtype,
        base: Option<&Held>,
    ) -> Result<Vec<u8>, Fault> {
        let no_weight = || Fault::exact("its elements are no weights to compute with");
        let mut sum = vec![0.0; self.width];
        let is_one = agreed(setters).is_some() || is_one(setters.iter().map(|(weight, ..)| *weight));
        let from = usize::try_from(place).ok().and_then(|place| place.checked_mul(self.width));
        if !is_one {
            let reason = format!("the weights of place {place} do not add up to 1");
            let base = base.ok_or(Fault::NeedsBase(reason))?;
            let held = from.and_then(|from| base.values.get(from..from + self.width));
            let missing =
                || Fault::NotExact(format!("the base has no place {place} that a weight could meet"));
            sum.copy_from_slice(held.ok_or_else(missing)?);
        }
        let held = sum.clone();
        let setters = if agreed(setters).is_some() { &setters[..1] } else { setters };
        for (weight, dtype, bytes) in setters {
            let weight = if setters.len() == 1 && is_one { 1.0 } else { *weight };
            for ((sum, value), held) in
                sum.iter_mut().zip(wide(*dtype, bytes).ok_or_else(no_weight)?).zip(&held)
            {
                *sum += weight * (value - held);
            }
        }
        narrow(dtype, &sum).ok_or_else(no_weight)
    }
}

/// The bits that all setters agree on, with weights that add up to 1 or are 1 each.
fn agreed<'t>(setters: &[(f64, Dtype, &'t [u8])]) -> Option<&'t [u8]> {
    let (_, dtype, bytes) = *setters.first()?;
    let same = setters.iter().all(|other| other.1 == dtype && other.2 == bytes);
    let is_whole = setters.iter().all(|(weight, ..)| *weight == 1.0) || is_one(setters.iter().map(|s| s.0));
    (same && is_whole).then_some(bytes)
}

fn list(dtype: Dtype, dims: &[u64], bytes: Vec<u8>) -> Result<Tensor<'static>, Fault> {
    let broken = |fault: fitment_core::tensor::ShapeFault| Fault::NotExact(fault.to_string());
    Tensor::owned(dtype, Shape::new(dims).map_err(broken)?, bytes).map_err(broken)
}

fn base_where_needed(
    context: &Context<'_, '_>,
    places: &Places<'_>,
    target: &Target,
) -> Result<Option<Held>, Fault> {
    let is_settled = |setters: &Setters<'_>| {
        agreed(setters).is_some() || is_one(setters.iter().map(|(weight, ..)| *weight))
    };
    match places.set.values().all(is_settled) {
        true => Ok(None),
        false => context.base.read(target, "the weights of its new values do not add up to 1").map(Some),
    }
}

/// Rows that several adapters set.
pub(super) fn rows<'a>(
    context: &Context<'_, 'a>,
    changes: &[Change<'a>],
    is_added_to: bool,
) -> Result<Done<'a>, Fault> {
    let sets: Vec<(f64, &Set<'a>)> = changes
        .iter()
        .filter_map(|change| match change.start {
            Start::Rows(set) => Some((change.weight, set)),
            _ => None,
        })
        .collect();
    let Some((_, first)) = sets.first() else { return Ok((Vec::new(), false)) };
    let row = first.value.dims().get(1..).unwrap_or_default().to_vec();
    if sets.iter().any(|(_, set)| set.value.dims().get(1..) != Some(&row[..]) || set.dtype != first.dtype) {
        return Err(Fault::exact("the rows have other shapes, or another dtype is asked for"));
    }
    if first.target.experts.is_some() {
        return Err(Fault::exact("the rows are of a bundle of experts"));
    }
    let mut places = Places::new(usize::try_from(row.iter().product::<u64>()).unwrap_or(usize::MAX));
    for (weight, set) in &sets {
        if let Some(rows) = &set.rows {
            places.add(*weight, rows, &set.value);
        }
    }
    let base = base_where_needed(context, &places, &first.target)?;
    let dtype = match places.is_unanimous() {
        true => places.dtypes(),
        false => computed_dtype(context, first, &places, is_added_to),
    };
    let count = places.set.len() as u64;
    let value = list(dtype, &[&[count], &row[..]].concat(), places.settle(dtype, base.as_ref())?)?;
    let numbers = places.set.keys().flat_map(|row| row.to_le_bytes()).collect();
    let rows = Some(list(Dtype::I64, &[count], numbers)?);
    let (target, create) = (first.target.clone(), false);
    Ok((
        vec![Edit::Set(Set {
            target,
            dtype: first.dtype,
            create,
            reshape: false,
            value,
            rows,
            origin: Origin::default(),
        })],
        false,
    ))
}

fn computed_dtype(
    context: &Context<'_, '_>,
    first: &Set<'_>,
    places: &Places<'_>,
    is_added_to: bool,
) -> Dtype {
    let known = match first.dtype {
        SetDtype::Stored => Some(first.value.dtype()),
        SetDtype::Base => context.base.dtype(&first.target).filter(|_| !is_added_to),
    };
    let wide = if places.dtypes() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
    known.unwrap_or(wide)
}

/// Single elements that several adapters set. What is added to afterwards is not rounded before where the base is at hand:
/// there it is a difference.
pub(super) fn single<'a>(
    context: &Context<'_, 'a>,
    changes: &[Change<'a>],
    is_added_to: bool,
) -> Result<Done<'a>, Fault> {
    let sets: Vec<(f64, &SparseSet<'a>)> = changes
        .iter()
        .filter_map(|change| match change.start {
            Start::Elements(edit) => Some((change.weight, edit)),
            _ => None,
        })
        .collect();
    let Some((_, first)) = sets.first() else { return Ok((Vec::new(), false)) };
    let dtype = first.value.dtype();
    if sets.iter().any(|(_, edit)| edit.value.dtype() != dtype) {
        return Err(Fault::exact("the new elements have other dtypes"));
    }
    let mut places = Places::new(1);
    for (weight, edit) in &sets {
        places.add(*weight, &edit.index, &edit.value);
    }
    let base = base_where_needed(context, &places, &first.target)?;
    let base = match base {
        None if is_added_to && !places.is_unanimous() => context.base.read(&first.target, "").ok(),
        base => base,
    };
    let differences = base.as_ref().filter(|_| is_added_to && !places.is_unanimous());
    let count = places.set.len() as u64;
    let wide = if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
    let value = match differences {
        Some(base) => list(wide, &[count], places.differences(wide, base)?)?,
        None => list(dtype, &[count], places.settle(dtype, base.as_ref())?)?,
    };
    let last = places.set.last_key_value().map_or(0, |(place, _)| *place);
    let (of_index, index) = match u32::try_from(last) {
        Ok(_) => (Dtype::U32, places.set.keys().flat_map(|place| (*place as u32).to_le_bytes()).collect()),
        Err(_) => (Dtype::I64, places.set.keys().flat_map(|place| place.to_le_bytes()).collect()),
    };
    let index = list(of_index, &[count], index)?;
    if differences.is_some() {
        let (target, origin) = (first.target.clone(), Origin::default());
        return Ok((vec![Edit::SparseAdd(SparseAdd { target, scale: 1.0, index, value, origin })], false));
    }
    Ok((
        vec![Edit::SparseSet(SparseSet {
            target: first.target.clone(),
            index,
            value,
            origin: Origin::default(),
        })],
        false,
    ))
}
