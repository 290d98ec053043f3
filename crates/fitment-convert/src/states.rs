//! The shapes that a base's tensors take on while edits apply.

use crate::bind::{Key, describe, key};
use crate::error::Clash;
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::model::{AxisSlice, Edit, Lora, LoraForm};
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// Every edit that does not fit the state which the edits of its target before it have made of the base tensor.
pub(crate) fn misfits(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Vec<Clash> {
    // Each use of a tied tensor has a state of its own; the tensor itself stands for all uses that no edit names.
    let mut uses: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    for target in adapter.edits.iter().filter_map(Edit::target) {
        let names = [&target.name].into_iter().chain(&target.uses).map(ToString::to_string);
        uses.entry(key(target)).or_default().extend(names);
    }
    let mut states: BTreeMap<(Key, String), Vec<u64>> = BTreeMap::new();
    let mut clashes = Vec::new();
    for edit in &adapter.edits {
        let Some(target) = edit.target() else { continue };
        let info = target.base_names().next().and_then(|name| base.tensors().get(&name));
        let (Some(info), Some(all)) = (info, uses.get(&key(target))) else { continue };
        let named =
            |name: &&String| target.uses.is_empty() || target.uses.iter().any(|u| u.as_str() == **name);
        let faults: BTreeSet<String> = all
            .iter()
            .filter(named)
            .filter_map(|name| {
                let state =
                    states.entry((key(target), name.clone())).or_insert_with(|| info.shape.dims().to_vec());
                fits_dtype(edit, info).and_then(|()| advance(edit, state)).err()
            })
            .collect();
        let found = || describe(info);
        clashes.extend(faults.into_iter().map(|expected| Clash {
            target: target.label(),
            expected,
            found: found(),
        }));
    }
    clashes
}

/// Takes a target's shape through an edit; gives what the edit asks for when it does not fit.
fn advance(edit: &Edit<'_>, state: &mut Vec<u64>) -> Result<(), String> {
    let Some(target) = edit.target() else { return Ok(()) };
    let own = |dims: &[u64]| dims.get(usize::from(target.experts.is_some())..).unwrap_or_default().to_vec();
    let sliced = sliced(state, &target.slice);
    match edit {
        Edit::SparseSet(edit) => fits_positions(&edit.index, state),
        Edit::SparseAdd(edit) => fits_positions(&edit.index, state),
        Edit::Lora(lora) => {
            let delta = delta(lora);
            let wanted = viewed(lora, &sliced);
            if delta == wanted {
                Ok(())
            } else {
                Err(format!("{delta:?}{}", if lora.transposed { " transposed" } else { "" }))
            }
        }
        Edit::Add(add) => {
            let dims = own(add.value.dims());
            if dims == sliced { Ok(()) } else { Err(format!("{dims:?}")) }
        }
        Edit::Set(set) => {
            let dims = own(set.value.dims());
            let fits = dims.len() == sliced.len() && dims.get(1..) == sliced.get(1..);
            let whole = target.slice.is_empty() && target.experts.is_none();
            if !set.reshape && (!fits || (!whole && dims != sliced)) {
                return Err(format!("{dims:?}"));
            }
            if let (None, true) = (&set.rows, whole) {
                *state = dims;
            }
            Ok(())
        }
        Edit::Bits(_) | Edit::Remove(_) | Edit::Config(_) | Edit::Intervention(_) => Ok(()),
    }
}

/// Positions ascend: the last of them must lie inside the tensor.
fn fits_positions(index: &Tensor<'_>, state: &[u64]) -> Result<(), String> {
    let bytes = index.bytes();
    let last = match index.dtype() {
        Dtype::U32 => bytes.last_chunk::<4>().map(|chunk| u64::from(u32::from_le_bytes(*chunk))),
        _ => bytes.last_chunk::<8>().map(|chunk| u64::from_le_bytes(*chunk)),
    };
    let elements = state.iter().fold(1u64, |product, dim| product.saturating_mul(*dim));
    match last {
        Some(last) if last >= elements => Err(format!("more than {last} elements")),
        _ => Ok(()),
    }
}

/// Elements that are copied are of the target's dtype.
fn fits_dtype(edit: &Edit<'_>, info: &TensorInfo) -> Result<(), String> {
    match edit {
        Edit::SparseSet(edit) if edit.value.dtype() != info.dtype => {
            Err(format!("elements of {}", edit.value.dtype()))
        }
        _ => Ok(()),
    }
}

fn sliced(dims: &[u64], slice: &[AxisSlice]) -> Vec<u64> {
    let mut dims = dims.to_vec();
    for part in slice {
        if let Some(extent) = usize::try_from(part.axis).ok().and_then(|axis| dims.get_mut(axis)) {
            *extent = part.len();
        }
    }
    dims
}

/// The shape of a low-rank update, as its form reads `W`.
fn delta(lora: &Lora<'_>) -> Vec<u64> {
    let skip = usize::from(lora.target.experts.is_some());
    let up = lora.up.dims().get(skip..).unwrap_or_default();
    let down = lora.down.dims().get(skip..).unwrap_or_default();
    let kernel = lora.mid.as_ref().map_or(down, |mid| mid.dims());
    match (lora.form, up, down) {
        (LoraForm::Matrix, [out, _], [_, input]) => vec![*out, *input],
        (LoraForm::Stacked, [experts, out, _], [_, _, input]) => vec![*experts, *out, *input],
        (LoraForm::Conv, [out, ..], [_, input, ..]) => {
            [&[*out, *input], kernel.get(2..).unwrap_or_default()].concat()
        }
        _ => Vec::new(),
    }
}

/// The shape of `W`, as a low-rank edit reads the addressed slice.
fn viewed(lora: &Lora<'_>, dims: &[u64]) -> Vec<u64> {
    match (lora.form, dims) {
        (LoraForm::Matrix, [rows, rest @ ..]) => {
            let columns = rest.iter().fold(1u64, |product, dim| product.saturating_mul(*dim));
            if lora.transposed { vec![columns, *rows] } else { vec![*rows, columns] }
        }
        (LoraForm::Stacked, &[experts, rows, columns]) if lora.transposed => vec![experts, columns, rows],
        _ => dims.to_vec(),
    }
}
