//! Whole matrices of experts, which `set` replaces: of a stack as bundles, of each expert as a bundle.

use super::experts::{Part, parts, stack};
use super::gather::gathered;
use super::permute::turned;
use super::stacks::Stacks;
use super::sum::alike;
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::model::{AxisSlice, Edit, ExpertRange, Origin, Set, Target, TensorName};
use fitment_core::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// A `set` of a bundle as one of each expert's own tensor; `None` for another.
pub(crate) fn of_each_expert<'a>(set: &Set<'a>) -> Option<Vec<Set<'a>>> {
    let range = set.target.experts?;
    let one = |(index, name): (u64, String)| {
        let target = Target { experts: None, name: TensorName::new(name).ok()?, ..set.target.clone() };
        Some(Set { target, value: set.value.at(index)?, ..set.clone() })
    };
    (0..range.count()).zip(set.target.base_names()).map(one).collect()
}

/// A `set` of a stack of these extents, of some experts or rows of it too, as one of a bundle for each part that it holds, or of single
/// experts where it has not all. `None` for what is no such stack, and for slices of other rows.
pub(super) fn bundles<'a>(set: &Set<'a>, stacks: &Stacks, dims: &[u64]) -> Option<Vec<Edit<'a>>> {
    let Target { component, name, experts, slice, uses, when } = &set.target;
    let is_plain = component.is_none() && experts.is_none() && uses.is_empty() && when.is_none();
    let is_value = set.rows.is_none() && !set.create && !set.reshape;
    let parts = parts(name.as_str().rsplit('.').next()?);
    let &[count, first, second] = dims else { return None };
    if !is_plain || !is_value || parts.is_empty() || count > MAX_EXPERTS {
        return None;
    }
    let transposed = stacks.is_stored_transposed(parts == [Part::Down], first, second);
    let (axis, all) = if transposed { (2, second) } else { (1, first) };
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut own = None;
    for AxisSlice { axis: of, ranges } in slice {
        match (*of, &ranges[..]) {
            (0, _) => numbers = ranges.iter().flat_map(|range| range.indices()).collect(),
            (of, [range]) if of == axis => own = Some(stacks.part_at(range, parts, all)?),
            _ => return None,
        }
    }
    let value = if transposed { turned(&set.value)? } else { set.value.clone() };
    let mut edits = Vec::new();
    for (at, part) in parts.iter().enumerate().filter(|(_, part)| own.is_none_or(|own| own == **part)) {
        let value = match own.is_some() || parts.len() == 1 {
            true => value.clone(),
            false => {
                let (start, end, step) = stacks.outputs(at as u64, parts.len() as u64, all)?;
                let step = usize::try_from(step).ok()?;
                let rows = (start..end).step_by(step).map(|row| usize::try_from(row).ok().map(Some));
                gathered(&value, 1, &rows.collect::<Option<Vec<_>>>()?)?
            }
        };
        let bundle = stacks.bundle(name.as_str(), *part)?;
        edits.extend(edits_of(set, &bundle, (&numbers, count), &value)?);
    }
    Some(edits)
}

/// The edit of a bundle where there is a matrix for each expert, else of each that has one.
fn edits_of<'a>(
    set: &Set<'a>,
    bundle: &str,
    (numbers, count): (&[u64], u64),
    value: &Tensor<'a>,
) -> Option<Vec<Edit<'a>>> {
    let whole = |name: &str, experts| {
        Some(Target { experts, slice: Vec::new(), ..Target::whole(TensorName::new(name).ok()?) })
    };
    let edit = |target, value| Edit::Set(Set { target, value, origin: Origin::default(), ..set.clone() });
    if numbers.len() as u64 == count {
        let target = whole(bundle, Some(ExpertRange { start: 0, end: count }))?;
        return Some(vec![edit(target, value.clone())]);
    }
    let one = |(at, number): (usize, &u64)| {
        let target = whole(&bundle.replacen("{e}", &number.to_string(), 1), None)?;
        Some(edit(target, value.at(at as u64)?))
    };
    numbers.iter().enumerate().map(one).collect()
}

/// Edits with the `set`s of every expert's matrix as one of the bundle, where `count` says how many experts there are and none is
/// missing. Others stay as they are.
pub(super) fn bundled<'a>(edits: Vec<Edit<'a>>, count: impl Fn(&str) -> Option<u64>) -> Vec<Edit<'a>> {
    let mut pieces = BTreeMap::<String, BTreeMap<u64, usize>>::new();
    for (at, edit) in edits.iter().enumerate() {
        let single = single(edit);
        if let Some((bundle, number)) = single {
            pieces.entry(bundle).or_default().insert(number, at);
        }
    }
    let (mut joined, mut gone) = (BTreeMap::new(), BTreeSet::new());
    for (bundle, places) in pieces {
        let Some(count) = count(&bundle).filter(|count| places.keys().copied().eq(0..*count)) else {
            continue;
        };
        let own = || places.values().filter_map(|at| edits.get(*at));
        let sets: Vec<&Set<'a>> =
            own().filter_map(|edit| if let Edit::Set(set) = edit { Some(set) } else { None }).collect();
        let Some(set) = together(&bundle, &sets, count) else { continue };
        gone.extend(places.values().copied());
        joined.extend(places.values().next().map(|at| (*at, Edit::Set(set))));
    }
    let kept = |(at, edit)| match joined.remove(&at) {
        Some(set) => Some(set),
        None => Some(edit).filter(|_| !gone.contains(&at)),
    };
    edits.into_iter().enumerate().filter_map(kept).collect()
}

/// The bundle and the number of the expert whose matrix an edit replaces.
fn single(edit: &Edit<'_>) -> Option<(String, u64)> {
    let Edit::Set(set) = edit else { return None };
    let is_whole = set.target == Target::whole(set.target.name.clone());
    if !is_whole || set.rows.is_some() || set.create || set.reshape {
        return None;
    }
    super::stacks::numbered(set.target.name.as_str())
}

fn together<'a>(bundle: &str, sets: &[&Set<'a>], count: u64) -> Option<Set<'a>> {
    let first = sets.first()?;
    if sets.iter().any(|set| set.dtype != first.dtype || set.value.dtype() != first.value.dtype()) {
        return None;
    }
    let value = stack(alike(sets.iter().map(|set| set.value.clone()).collect())?)?;
    let experts = Some(ExpertRange { start: 0, end: count });
    let target = Target { experts, ..Target::whole(TensorName::new(bundle).ok()?) };
    Some(Set { target, value, origin: Origin::default(), ..(*first).clone() })
}

#[cfg(test)]
mod tests {
    use super::{bundled, bundles, of_each_expert};
    use crate::pass::stacks::Stacks;
    use fitment_core::model::{AxisSlice, Edit, IndexRange, Origin, Set, SetDtype, Target, TensorName};
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    fn set(name: &str, slice: &[(u64, u64, u64)], dims: &[u64]) -> Set<'static> {
        let part = |(axis, start, end): &(u64, u64, u64)| AxisSlice {
            axis: *axis,
            ranges: vec![IndexRange { start: *start, end: *end, step: 1 }],
        };
        let shape = Shape::new(dims).unwrap();
        let bytes: Vec<u8> = (0..shape.elements()).map(|at| at as u8).collect();
        let target = Target {
            slice: slice.iter().map(part).collect(),
            ..Target::whole(TensorName::new(name).unwrap())
        };
        Set {
            target,
            dtype: SetDtype::Base,
            create: false,
            reshape: false,
            value: Tensor::owned(Dtype::U8, shape, bytes).unwrap(),
            rows: None,
            origin: Origin::default(),
        }
    }

    fn shown(edits: &[Edit<'_>]) -> Vec<(String, Vec<u8>)> {
        let one = |edit: &Edit<'_>| match edit {
            Edit::Set(set) => (set.target.label(), set.value.bytes().to_vec()),
            other => panic!("{other:?}"),
        };
        edits.iter().map(one).collect()
    }

    #[test]
    fn a_stack_comes_apart_by_its_parts_and_its_experts() {
        let stacks = Stacks::default();
        let whole = bundles(&set("mlp.experts.gate_up_proj", &[], &[2, 2, 1]), &stacks, &[2, 2, 1]).unwrap();
        let name = |word: &str| format!("mlp.experts.{{e}}.{word}.weight");
        assert_eq!(shown(&whole), [(name("gate_proj"), vec![0, 2]), (name("up_proj"), vec![1, 3])]);
        let one = set("mlp.experts.gate_up_proj", &[(0, 1, 2), (1, 1, 2)], &[1, 1, 1]);
        let one = bundles(&one, &stacks, &[2, 2, 1]).unwrap();
        assert_eq!(shown(&one), [("mlp.experts.1.up_proj.weight".to_owned(), vec![0])]);
        let odd = set("mlp.experts.gate_up_proj", &[(1, 0, 3)], &[2, 3, 1]);
        assert!(bundles(&odd, &stacks, &[2, 4, 1]).is_none());
        assert!(bundles(&set("mlp.gate_up_proj", &[], &[2, 2]), &stacks, &[2, 2]).is_none());
    }

    #[test]
    fn experts_are_a_bundle_when_none_is_missing() {
        let of = |number: u64| Edit::Set(set(&format!("mlp.experts.{number}.w1.weight"), &[], &[1, 2]));
        let both = bundled(vec![of(0), of(1)], |_| Some(2));
        assert_eq!(shown(&both), [("mlp.experts.{e}.w1.weight".to_owned(), vec![0, 1, 0, 1])]);
        let [Edit::Set(whole)] = &both[..] else { panic!() };
        assert_eq!(of_each_expert(whole).unwrap()[1].value.bytes(), [0, 1]);
        assert_eq!(bundled(vec![of(0), of(1)], |_| Some(3)).len(), 2);
        assert_eq!(bundled(vec![of(0), of(2)], |_| Some(2)).len(), 2);
    }
}
