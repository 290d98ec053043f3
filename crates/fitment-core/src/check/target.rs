//! Targets, slices, bundles and uses (spec sections 3.4 and 4).

use super::Checker;
use crate::finding::rules;
use crate::limits;
use crate::manifest::v1;
use crate::model::name_fault;

/// Checks what of a target does not depend on the base.
pub(super) fn check(checker: &mut Checker<'_, '_>, target: &v1::Target, place: &str) {
    check_names(checker, target, place);
    check_experts(checker, target.experts, &target.target, place);
    check_uses(checker, target, place);
    if let Some(when) = &target.when {
        check_when(checker, when, place);
    }
}

fn check_when(checker: &mut Checker<'_, '_>, when: &v1::When, place: &str) {
    let tokens = &when.after_tokens;
    if tokens.len() > limits::MAX_POSITIONS {
        let message = format!("{} tokens, at most {} are allowed", tokens.len(), limits::MAX_POSITIONS);
        checker.report(&rules::E_WHEN, place, message);
    } else if let Some(token) = tokens.iter().find(|token| **token > limits::MAX_SAFE_INTEGER) {
        checker.report(&rules::M_NUMBER, place, format!("the token {token} of `when` is above 2^53"));
    }
}

/// What is wrong with a component's name.
pub(super) fn component_fault(component: &str) -> Option<String> {
    let slash = || component.contains('/').then(|| "holds `/`".to_owned());
    name_fault(component).or_else(slash).map(|fault| format!("component {component:?}: {fault}"))
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
    if let Some(fault) = target.component.as_deref().and_then(component_fault) {
        checker.report(&rules::M_NAME, place, fault);
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
        Some([start, end])
            if end <= start || end - start > limits::MAX_EXPERTS || end > limits::MAX_SAFE_INTEGER =>
        {
            let message = format!(
                "experts {start}..{end}: expected an ascending range of at most {} experts",
                limits::MAX_EXPERTS
            );
            checker.report(&rules::E_BUNDLE, place, message);
        }
        Some(_) => {}
    }
}

fn check_uses(checker: &mut Checker<'_, '_>, target: &v1::Target, place: &str) {
    if target.uses.is_empty() {
        return;
    }
    if target.component.is_some() || target.experts.is_some() {
        let message = "uses belong to a whole tensor of a single model: no component, no bundle";
        checker.report(&rules::M_USES, place, message);
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

/// Checks a slice of a target of that shape; gives the shape of the addressed slice, when it is known. `Err` after a
/// finding.
pub(super) fn slice_shape(
    checker: &mut Checker<'_, '_>,
    slice: &[v1::AxisSlice],
    shape: Option<&[u64]>,
    place: &str,
) -> Result<Option<Vec<u64>>, ()> {
    let mut dims = shape.map(<[u64]>::to_vec);
    let mut fault = |message: String| {
        checker.report(&rules::E_SLICE, place, message);
        Err(())
    };
    if !slice.is_sorted_by(|a, b| a.axis < b.axis) {
        return fault("the axes of the slice do not ascend".to_owned());
    }
    for part in slice {
        let axis = usize::try_from(part.axis).unwrap_or(usize::MAX);
        let extent = match &dims {
            None => limits::MAX_SAFE_INTEGER,
            Some(dims) => match dims.get(axis) {
                Some(extent) => *extent,
                None => {
                    return fault(format!("the slice has axis {axis}, the target {} axes", dims.len()));
                }
            },
        };
        if let Some(message) = ranges_fault(part, extent) {
            return fault(message);
        }
        let count = part.ranges.iter().map(|[start, end, step]| (end - start).div_ceil(*step)).sum();
        if let Some(dims) = &mut dims {
            dims[axis] = count;
        }
    }
    Ok(dims)
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
