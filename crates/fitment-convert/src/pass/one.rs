//! Edits of parts of a tensor, and several of one tensor, as one edit of all of it: for formats that adapt a module once, and whole.

use super::permute::reshaped;
use super::sum::{Product, alike, rescaled, sum};
use super::whole::whole;
use crate::loss::Loss;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Add, Edit, Lora, LoraForm, Magnitude, Origin, Set, SetDtype, Target};
use fitment_core::tensor::{Shape, Tensor};
use std::collections::BTreeMap;

/// The edits of an adapter, those of one tensor as one where that is the same: low-rank updates by stacked factors, dense ones and replaced
/// values by their rows. Others stay as they are. What a scale in common rounds is listed.
pub(crate) fn one_each<'a>(
    adapter: &Adapter<'a>,
    base: Option<&dyn Checkpoint>,
    losses: &mut Vec<Loss>,
) -> Vec<Edit<'a>> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, edit) in adapter.edits.iter().enumerate() {
        if let Some(target) = edit.target() {
            groups.entry(target.label()).or_default().push(at);
        }
    }
    let mut joined: BTreeMap<usize, Option<Edit<'a>>> = BTreeMap::new();
    for places in groups.values() {
        let edits: Vec<&Edit<'a>> = places.iter().filter_map(|at| adapter.edits.get(*at)).collect();
        let Some((edit, loss)) = one(&edits, adapter, base) else { continue };
        losses.extend(loss);
        joined.extend(places.iter().map(|at| (*at, None)));
        joined.extend(places.first().map(|at| (*at, Some(edit))));
    }
    let kept = |(at, edit): (usize, &Edit<'a>)| match joined.remove(&at) {
        Some(joined) => joined,
        None => Some(edit.clone()),
    };
    adapter.edits.iter().enumerate().filter_map(kept).collect()
}

/// All edits of one tensor as one; `None` where there is but one of all of it, or where they do not go together.
fn one<'a>(
    edits: &[&Edit<'a>],
    adapter: &Adapter<'a>,
    base: Option<&dyn Checkpoint>,
) -> Option<(Edit<'a>, Option<Loss>)> {
    let first = edits.first()?.target()?;
    let unsliced = |target: &Target| Target { slice: Vec::new(), ..target.clone() };
    let plain = unsliced(first);
    let is_one = |edit: &&Edit<'_>| edit.target().map(&unsliced).as_ref() == Some(&plain);
    let is_whole = edits.len() == 1 && first.slice.is_empty();
    if is_whole || first.experts.is_some() || !edits.iter().all(is_one) {
        return None;
    }
    let at_hand = base.filter(|_| first.component.is_none());
    let at_hand = at_hand.and_then(|base| base.tensors().get(first.name.as_str())).map(|info| &info.shape);
    let recorded = || adapter.base.find(first.component.as_ref(), first.name.as_str())?.0.shape.as_ref();
    let dims = at_hand.or_else(recorded).map(|shape| shape.dims().to_vec());
    match edits.first()? {
        Edit::Lora(_) => lora(edits, plain, dims.as_deref()),
        Edit::Add(_) => Some((add(edits, plain, &dims?)?, None)),
        Edit::Set(_) => Some((set(edits, plain, &dims?)?, None)),
        _ => None,
    }
}

fn lora<'a>(edits: &[&Edit<'a>], target: Target, dims: Option<&[u64]>) -> Option<(Edit<'a>, Option<Loss>)> {
    let as_lora = |edit: &&Edit<'a>| if let Edit::Lora(lora) = edit { Some(lora.clone()) } else { None };
    let loras: Vec<Lora<'a>> = edits.iter().map(as_lora).collect::<Option<_>>()?;
    let first = loras.first()?;
    let is_plain = |lora: &Lora<'_>| {
        lora.form == LoraForm::Matrix && lora.mid.is_none() && lora.transposed == first.transposed
    };
    if !loras.iter().all(is_plain) {
        return None;
    }
    let mut products = Vec::with_capacity(loras.len());
    for lora in &loras {
        let (up, down) = whole(lora, dims.unwrap_or_default())?;
        products.push(Product { up, down, scale: lora.scale });
    }
    let magnitude = match loras.iter().all(|lora| lora.magnitude.is_none()) {
        true => None,
        false => Some(magnitude(&loras, dims?)?),
    };
    let (product, elements) = sum(&products)?;
    let to = product.up.dtype();
    let loss = (elements > 0).then(|| Loss::Rounded { target: target.label(), to, elements });
    let Product { up, down, scale } = product;
    let (form, transposed, origin) = (LoraForm::Matrix, first.transposed, Origin::default());
    let lora = Lora { target, form, transposed, scale, up, down, mid: None, magnitude, origin };
    Some((Edit::Lora(lora), loss))
}

/// The magnitude of the whole, when each row has one.
fn magnitude<'a>(loras: &[Lora<'a>], dims: &[u64]) -> Option<Magnitude<'a>> {
    let first = loras.first()?.magnitude.as_ref()?;
    let axis = usize::from(loras.first()?.transposed);
    let mut parts = Vec::with_capacity(loras.len());
    for lora in loras {
        let magnitude = lora.magnitude.as_ref()?;
        let is_alike = magnitude.norm_of == first.norm_of && magnitude.eps.to_bits() == first.eps.to_bits();
        if magnitude.axis != 0 || !is_alike {
            return None;
        }
        let value = reshaped(&magnitude.value, &[magnitude.value.elements()])?;
        parts.push((rows(&lora.target, axis, dims)?, value));
    }
    let (value, is_complete) = placed(parts, *dims.get(axis)?)?;
    is_complete.then(|| Magnitude { value, ..first.clone() })
}

fn add<'a>(edits: &[&Edit<'a>], target: Target, dims: &[u64]) -> Option<Edit<'a>> {
    let as_add = |edit: &&Edit<'a>| if let Edit::Add(add) = edit { Some(add.clone()) } else { None };
    let adds: Vec<Add<'a>> = edits.iter().map(as_add).collect::<Option<_>>()?;
    let scale = adds.first()?.scale;
    let mut parts = Vec::with_capacity(adds.len());
    for add in &adds {
        let (value, elements) = rescaled(&add.value, add.scale, scale)?;
        if add.exceptions.is_some() || elements > 0 {
            return None;
        }
        parts.push((rows(&add.target, 0, dims)?, value));
    }
    let (value, _) = placed(parts, *dims.first()?)?;
    Some(Edit::Add(Add { target, scale, value, exceptions: None, origin: Origin::default() }))
}

/// The whole value, when each row has one.
fn set<'a>(edits: &[&Edit<'a>], target: Target, dims: &[u64]) -> Option<Edit<'a>> {
    let mut parts = Vec::with_capacity(edits.len());
    for edit in edits {
        let Edit::Set(set) = edit else { return None };
        if set.rows.is_some() || set.create || set.reshape || set.dtype != SetDtype::Base {
            return None;
        }
        parts.push((rows(&set.target, 0, dims)?, set.value.clone()));
    }
    let (value, is_complete) = placed(parts, *dims.first()?)?;
    let (dtype, rows, origin) = (SetDtype::Base, None, Origin::default());
    let set = Set { target, dtype, create: false, reshape: false, value, rows, origin };
    is_complete.then_some(Edit::Set(set))
}

/// The indices of a target along one axis of its tensor; `None` where it is a slice of another.
fn rows(target: &Target, axis: usize, dims: &[u64]) -> Option<Vec<u64>> {
    match &target.slice[..] {
        [] => Some((0..*dims.get(axis)?).collect()),
        [slice] if slice.axis == axis as u64 => {
            Some(slice.ranges.iter().flat_map(|range| range.indices()).collect())
        }
        _ => None,
    }
}

/// Rows at their places in a tensor of so many, zeros elsewhere, and whether each has one. `None` when two have the same place.
fn placed<'a>(parts: Vec<(Vec<u64>, Tensor<'a>)>, count: u64) -> Option<(Tensor<'a>, bool)> {
    let (places, tensors): (Vec<Vec<u64>>, Vec<Tensor<'a>>) = parts.into_iter().unzip();
    let tensors = alike(tensors)?;
    let first = tensors.first()?;
    let shape = Shape::new(&[&[count][..], first.dims().get(1..)?].concat()).ok()?;
    let mut bytes = vec![0; usize::try_from(shape.byte_len(first.dtype()).ok()?).ok()?];
    let rows = usize::try_from(count).ok()?;
    let width = bytes.len().checked_div(rows).filter(|width| *width > 0)?;
    let mut taken = vec![false; rows];
    for (places, tensor) in places.iter().zip(&tensors) {
        if tensor.bytes().len() != places.len().checked_mul(width)? {
            return None;
        }
        for (place, row) in places.iter().zip(tensor.bytes().chunks_exact(width)) {
            let place = usize::try_from(*place).ok()?;
            let is_taken = taken.get_mut(place)?;
            if std::mem::replace(is_taken, true) {
                return None;
            }
            bytes.get_mut(place * width..)?.get_mut(..width)?.copy_from_slice(row);
        }
    }
    let is_complete = taken.iter().all(|taken| *taken);
    Some((Tensor::owned(first.dtype(), shape, bytes).ok()?, is_complete))
}

#[cfg(test)]
mod tests {
    use super::one_each;
    use fitment_core::Adapter;
    use fitment_core::model::{
        Add, AxisSlice, BaseTensor, Edit, IndexRange, Lora, LoraForm, Magnitude, NormOf, Origin, Target,
        TensorName,
    };
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    use fitment_math::round::{narrowed, widened};

    fn tensor(dims: &[u64], numbers: &[f64]) -> Tensor<'static> {
        narrowed(Dtype::F32, dims, numbers).unwrap()
    }

    fn part(name: &str, ranges: &[(u64, u64)]) -> Target {
        let range = |(start, end): &(u64, u64)| IndexRange { start: *start, end: *end, step: 1 };
        let slice = vec![AxisSlice { axis: 0, ranges: ranges.iter().map(range).collect() }];
        Target { slice, ..Target::whole(TensorName::new(name).unwrap()) }
    }

    fn lora(ranges: &[(u64, u64)], up: &[f64], down: &[f64], magnitude: Option<&[f64]>) -> Edit<'static> {
        let magnitude = magnitude.map(|value| Magnitude {
            value: tensor(&[value.len() as u64], value),
            axis: 0,
            norm_of: NormOf::Merged,
            eps: 0.0,
        });
        let target = part("w", ranges);
        let (up, down) = (tensor(&[up.len() as u64, 1], up), tensor(&[1, 2], down));
        let (form, origin) = (LoraForm::Matrix, Origin::default());
        Edit::Lora(Lora {
            target,
            form,
            transposed: false,
            scale: 2.0,
            up,
            down,
            mid: None,
            magnitude,
            origin,
        })
    }

    fn adapter(edits: Vec<Edit<'static>>, dims: &[u64]) -> Adapter<'static> {
        let name = edits[0].target().unwrap().name.clone();
        let tensor = BaseTensor {
            component: None,
            name,
            experts: None,
            dtype: None,
            shape: Some(Shape::new(dims).unwrap()),
            digests: Vec::new(),
            unchanged: false,
            extra: serde_json::Map::new(),
        };
        let mut adapter = Adapter { edits, ..Adapter::default() };
        adapter.base.tensors = vec![tensor];
        adapter
    }

    #[test]
    fn parts_that_take_turns_become_a_block_diagonal() {
        let edits = vec![
            lora(&[(0, 1), (2, 3)], &[1.0, 2.0], &[5.0, 6.0], Some(&[10.0, 30.0])),
            lora(&[(1, 2), (3, 4)], &[3.0, 4.0], &[7.0, 8.0], Some(&[20.0, 40.0])),
        ];
        let mut losses = Vec::new();
        let one = one_each(&adapter(edits, &[4, 2]), None, &mut losses);
        let [Edit::Lora(lora)] = &one[..] else { panic!("{one:?}") };
        assert!(losses.is_empty() && lora.target.slice.is_empty());
        assert_eq!(widened(&lora.up).unwrap(), [1.0, 0.0, 0.0, 3.0, 2.0, 0.0, 0.0, 4.0]);
        assert_eq!(widened(&lora.down).unwrap(), [5.0, 6.0, 7.0, 8.0]);
        let magnitude = lora.magnitude.as_ref().unwrap();
        assert_eq!(widened(&magnitude.value).unwrap(), [10.0, 20.0, 30.0, 40.0]);
    }

    #[test]
    fn rows_without_a_magnitude_have_no_common_one() {
        let some = vec![lora(&[(0, 2)], &[1.0, 2.0], &[5.0, 6.0], Some(&[10.0, 30.0]))];
        let kept = one_each(&adapter(some, &[4, 2]), None, &mut Vec::new());
        assert!(!kept[0].target().unwrap().slice.is_empty());
        let mixed = vec![
            lora(&[(0, 2)], &[1.0, 2.0], &[5.0, 6.0], Some(&[10.0, 30.0])),
            lora(&[(2, 4)], &[1.0, 2.0], &[5.0, 6.0], None),
        ];
        assert_eq!(one_each(&adapter(mixed, &[4, 2]), None, &mut Vec::new()).len(), 2);
    }

    #[test]
    fn dense_updates_of_parts_are_put_side_by_side() {
        let add = |ranges: &[(u64, u64)], value: &[f64], scale| {
            let (target, value) = (part("b", ranges), tensor(&[value.len() as u64], value));
            Edit::Add(Add { target, scale, value, exceptions: None, origin: Origin::default() })
        };
        let edits = vec![add(&[(3, 4)], &[1.0], 2.0), add(&[(0, 2)], &[2.0, 3.0], 4.0)];
        let one = one_each(&adapter(edits, &[4]), None, &mut Vec::new());
        let [Edit::Add(whole)] = &one[..] else { panic!("{one:?}") };
        assert_eq!(widened(&whole.value).unwrap(), [4.0, 6.0, 0.0, 1.0]);
        let twice = vec![add(&[(0, 2)], &[1.0, 1.0], 2.0), add(&[(1, 2)], &[2.0], 2.0)];
        assert_eq!(one_each(&adapter(twice, &[4]), None, &mut Vec::new()).len(), 2);
    }
}
