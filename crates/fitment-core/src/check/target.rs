//! Targets, slices, bundles and uses (spec sections 3.4 and 4).

use super::Checker;
use crate::finding::rules;
use crate::limits;
use crate::manifest::v1;
use crate::model::name_fault;
use crate::tensor::Shape;

/// Checks a target; gives the shape of `W` before any transposition, when the base's shape is recorded.
///
/// For a bundle it is the shape of one expert's tensor.
pub(super) fn check(checker: &mut Checker<'_, '_>, target: &v1::Target, place: &str) -> Option<Vec<u64>> {
    check_names(checker, target, place);
    check_experts(checker, target.experts, &target.target, place);
    check_uses(checker, target, place);
    let shape = recorded_shape(checker.manifest, target);
    check_slice(checker, &target.slice, shape.as_ref(), place)
}

fn check_names(checker: &mut Checker<'_, '_>, target: &v1::Target, place: &str) {
    let mut name_rule = |what: &str, name: &str| {
        if let Some(fault) = name_fault(name) {
            checker.report(&rules::M_NAME, place, format!("{what} {name:?}: {fault}"));
        }
    };
    name_rule("target", &target.target);
    for name in &target.uses {
        name_rule("use", name);
    }
    if let Some(component) = &target.component {
        name_rule("component", component);
        if component.contains('/') {
            checker.report(&rules::M_NAME, place, format!("component {component:?} holds `/`"));
        }
    }
}

pub(super) fn check_experts(
    checker: &mut Checker<'_, '_>,
    experts: Option<[u64; 2]>,
    name: &str,
    place: &str,
) {
    let places = name.matches("{e}").count();
    match experts {
        None if places > 0 => {
            checker.report(&rules::E_BUNDLE, place, format!("{name:?} holds `{{e}}` but no expert range"));
        }
        None => {}
        Some(_) if places != 1 => {
            let message =
                format!("{name:?} has an expert range but holds `{{e}}` {places} times, expected once");
            checker.report(&rules::E_BUNDLE, place, message);
        }
        Some([start, end]) => {
            if end <= start || end - start > limits::MAX_EXPERTS || end > limits::MAX_SAFE_INTEGER {
                let message = format!(
                    "experts {start}..{end}: expected an ascending range of at most {} experts",
                    limits::MAX_EXPERTS
                );
                checker.report(&rules::E_BUNDLE, place, message);
            }
        }
    }
}

fn check_uses(checker: &mut Checker<'_, '_>, target: &v1::Target, place: &str) {
    if target.uses.is_empty() {
        return;
    }
    if !target.uses.is_sorted_by(|a, b| a < b) {
        checker.report(
            &rules::M_USES,
            place,
            format!("uses {:?} are not sorted, each one once", target.uses),
        );
    }
    let tied = checker.manifest.base.tied.get(&target.target);
    let known = |name: &String| *name == target.target || tied.is_some_and(|uses| uses.contains(name));
    if let Some(name) = target.uses.iter().find(|name| !known(name)) {
        let message = format!("use {name:?} is not a use of {:?} by base.tied", target.target);
        checker.report(&rules::M_USES, place, message);
    }
}

fn recorded_shape(manifest: &v1::Manifest, target: &v1::Target) -> Option<Shape> {
    let entry = manifest.base.tensors.iter().find(|tensor| {
        tensor.name == target.target
            && tensor.component == target.component
            && tensor.experts == target.experts
    })?;
    Shape::new(entry.shape.as_deref()?).ok()
}

fn check_slice(
    checker: &mut Checker<'_, '_>,
    slice: &[v1::AxisSlice],
    shape: Option<&Shape>,
    place: &str,
) -> Option<Vec<u64>> {
    let mut dims = shape.map(|shape| shape.dims().to_vec());
    if !slice.is_sorted_by(|a, b| a.axis < b.axis) {
        checker.report(&rules::E_SLICE, place, "the axes of the slice do not ascend");
        return None;
    }
    for part in slice {
        let extent = match &dims {
            None => limits::MAX_SAFE_INTEGER,
            Some(dims) => match usize::try_from(part.axis).ok().and_then(|axis| dims.get(axis)) {
                Some(extent) => *extent,
                None => {
                    let message =
                        format!("the slice has axis {}, the base tensor {} axes", part.axis, dims.len());
                    checker.report(&rules::E_SLICE, place, message);
                    return None;
                }
            },
        };
        if let Some(message) = ranges_fault(part, extent) {
            checker.report(&rules::E_SLICE, place, message);
            return None;
        }
        let count = part.ranges.iter().map(|[start, end, step]| (end - start).div_ceil(*step)).sum();
        if let (Some(dims), Ok(axis)) = (&mut dims, usize::try_from(part.axis)) {
            dims[axis] = count;
        }
    }
    dims
}

fn ranges_fault(part: &v1::AxisSlice, extent: u64) -> Option<String> {
    let axis = part.axis;
    if part.axis >= limits::MAX_AXES as u64 {
        return Some(format!("axis {axis}: a tensor has at most {} axes", limits::MAX_AXES));
    }
    if part.ranges.is_empty() || part.ranges.len() > limits::MAX_RANGES {
        let found = part.ranges.len();
        return Some(format!("axis {axis} has {found} ranges, expected 1 to {}", limits::MAX_RANGES));
    }
    let mut last = 0;
    for &[start, end, step] in &part.ranges {
        if start >= end || step == 0 || start < last || end > extent {
            return Some(format!(
                "axis {axis}: range [{start}, {end}, {step}] is empty, not ascending, or beyond the extent {extent}"
            ));
        }
        last = end;
    }
    None
}
