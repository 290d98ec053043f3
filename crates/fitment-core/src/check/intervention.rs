//! Interventions on hidden states (spec section 5.6).

use super::edits::{check_not_empty, check_weight_dtype};
use super::{Checker, target};
use crate::finding::rules;
use crate::limits::{MAX_POSITIONS, MAX_SAFE_INTEGER};
use crate::manifest::v1::{
    FirstLast, Group, InterventionEdit, Overlap, Phase, Positions, Rounding, Select, Site,
};
use crate::model::module_site_fault;
use crate::tensor::Dtype;
use std::collections::BTreeMap;

const ROLES: [&str; 6] = ["proj", "proj.bias", "source.bias", "source.weight", "up", "up.bias"];

/// What the interventions so far ask of those that follow.
#[derive(Default)]
pub(super) struct Interventions<'m> {
    any: bool,
    overlaps: BTreeMap<(Option<&'m str>, String), Overlap>,
}

impl<'m> Interventions<'m> {
    /// Reports an edit of weights that follows an intervention.
    pub(super) fn check_follows_none(&self, checker: &mut Checker<'_, '_>, place: &str) {
        if self.any {
            checker.report(
                &rules::E_ORDER,
                place,
                "stands after an intervention, which sees the edited model",
            );
        }
    }

    pub(super) fn check(&mut self, checker: &mut Checker<'_, '_>, edit: &'m InterventionEdit, place: &str) {
        self.any = true;
        if let Some(fault) = edit.component.as_deref().and_then(target::component_fault) {
            checker.report(&rules::M_NAME, place, fault);
        }
        for (field, site) in [("site", Some(&edit.site)), ("input_site", edit.input_site.as_ref())] {
            if let Some(fault) = site.and_then(site_fault) {
                checker.report(&rules::E_SITE, place, format!("{field} {fault}"));
            }
        }
        if let Some(fault) = positions_fault(&edit.positions) {
            checker.report(&rules::E_POSITIONS, place, fault);
        }
        let first =
            *self.overlaps.entry((edit.component.as_deref(), edit.site.label())).or_insert(edit.overlap);
        if first != edit.overlap {
            let message =
                format!("overlap is {:?}, that of an earlier one of this site {first:?}", edit.overlap);
            checker.report(&rules::E_OVERLAP, place, message);
        }
        check_map(checker, edit, place);
    }
}

/// What is wrong with a site, if anything.
fn site_fault(site: &Site) -> Option<String> {
    match (site.layer, site.component, &site.path) {
        (Some(layer), Some(_), None) => {
            (layer > MAX_SAFE_INTEGER).then(|| format!("has the layer {layer}, above 2^53"))
        }
        (None, None, Some(path)) => module_site_fault(path).map(|fault| format!("{path:?} {fault}")),
        _ => Some("is neither a layer and a component nor a path alone".to_owned()),
    }
}

/// What is wrong with positions, if anything.
fn positions_fault(positions: &Positions) -> Option<String> {
    match (&positions.select, positions.phase) {
        (Select::All, _) => None,
        (_, Phase::Decode) => {
            Some("tokens after the prompt have no known end: `decode` goes with `all`".to_owned())
        }
        (Select::FirstLast(ends), _) => ends_fault(ends),
        (Select::Explicit(_), Phase::EveryForward) => {
            Some("explicit numbers are those of a prompt: phase must be `prompt`".to_owned())
        }
        (Select::Explicit(numbers), Phase::Prompt) => numbers_fault(numbers),
    }
}

fn ends_fault(ends: &FirstLast) -> Option<String> {
    let (first, last) = (ends.first, ends.last);
    let acts = match ends.group {
        Group::Prefix => first > 0,
        Group::Suffix => last > 0,
        Group::Both => first > 0 || last > 0,
    };
    if !acts {
        return Some(format!("first {first} and last {last} leave no token to the group {:?}", ends.group));
    }
    if first > MAX_SAFE_INTEGER || last > MAX_SAFE_INTEGER {
        return Some(format!("first {first} or last {last} is above 2^53"));
    }
    (!matches!(ends.end_offset, -1 | 0))
        .then(|| format!("end_offset is {}, expected 0 or -1", ends.end_offset))
}

/// Those from the beginning come first, then those from the end; each part ascends.
fn numbers_fault(numbers: &[i64]) -> Option<String> {
    if numbers.is_empty() || numbers.len() > MAX_POSITIONS {
        return Some(format!("{} positions, expected 1 to {MAX_POSITIONS}", numbers.len()));
    }
    let ascends = numbers.is_sorted_by_key(|number| (*number < 0, *number));
    let repeats = numbers.windows(2).any(|pair| pair[0] == pair[1]);
    if !ascends || repeats {
        return Some("positions do not ascend: those from the beginning, then those from the end".to_owned());
    }
    let far = numbers.iter().find(|number| number.unsigned_abs() > MAX_SAFE_INTEGER);
    far.map(|number| format!("the position {number} is beyond 2^53"))
}

/// Roles, dtypes, flags and shapes: each is judged where those before are sound.
fn check_map(checker: &mut Checker<'_, '_>, edit: &InterventionEdit, place: &str) {
    let unknown: Vec<&str> =
        edit.tensors.keys().map(String::as_str).filter(|role| !ROLES.contains(role)).collect();
    if !unknown.is_empty() {
        checker.report(&rules::E_ROLE, place, format!("has the unknown role {}", unknown.join(", ")));
        return;
    }
    let mut sound = true;
    for role in ROLES.iter().filter(|role| edit.tensors.contains_key(**role)) {
        sound &= check_weight_dtype(checker, &edit.tensors, role, place);
        sound &= check_not_empty(checker, &edit.tensors, role, place);
    }
    if let Some(fault) = formula_fault(edit) {
        checker.report(&rules::E_FORMULA, place, fault);
        return;
    }
    if let Some([start, end]) = edit.dims.filter(|[start, end]| start >= end || *end > MAX_SAFE_INTEGER) {
        checker.report(&rules::M_NUMBER, place, format!("dims [{start}, {end}] is empty or beyond 2^53"));
        return;
    }
    if sound
        && check_shapes(checker, edit, place)
        && let Some(fault) = rounding_fault(checker, edit)
    {
        checker.report(&rules::E_ROUNDING, place, fault);
    }
}

/// What of flags and roles contradicts itself, or makes the intervention do nothing.
fn formula_fault(edit: &InterventionEdit) -> Option<&'static str> {
    let has = |role: &str| edit.tensors.contains_key(role);
    let has_source = has("source.weight") || has("source.bias");
    if !edit.subtract && (has("proj") || has("proj.bias")) {
        return Some("proj is stored and nothing is subtracted");
    }
    if edit.activation.is_some() && !has_source {
        return Some("an activation without source.weight or source.bias has nothing to act on");
    }
    if edit.input_site.is_some() && !has("source.weight") {
        return Some("an input_site without source.weight is not read");
    }
    if has("up") && !has_source && !edit.subtract {
        return Some("up has nothing to project: no source, nothing subtracted");
    }
    if has("source.bias") && !has("up") && !has("source.weight") && !edit.subtract {
        return Some("a constant that nothing projects is up.bias");
    }
    if edit.orthonormal && !has("up") {
        return Some("orthonormal speaks of up, which is not stored");
    }
    if !has_source && !edit.subtract && !has("up.bias") {
        return Some("neither a source, nor anything subtracted, nor up.bias: it does nothing");
    }
    None
}

/// Two extents that must be one: their names and values.
type Extents = Vec<(&'static str, u64)>;

/// Axes of each role, then rank, then width; gives whether all fit.
fn check_shapes(checker: &mut Checker<'_, '_>, edit: &InterventionEdit, place: &str) -> bool {
    let (mut ranks, mut widths): (Extents, Extents) = (Vec::new(), Vec::new());
    widths.extend(edit.dims.map(|[start, end]| ("dims", end - start)));
    for role in ROLES {
        let Some(tensor) = checker.tensor(&edit.tensors, role) else { continue };
        let axes = if role.ends_with(".bias") { 1 } else { 2 };
        let dims = tensor.shape.dims();
        if dims.len() != axes {
            let message = format!("{role} has the shape {}, expected {axes} axes", tensor.shape);
            checker.report(&rules::E_SHAPE, place, message);
            return false;
        }
        match role {
            "up" => {
                widths.push((role, dims[0]));
                ranks.push((role, dims[1]));
            }
            "up.bias" => widths.push((role, dims[0])),
            _ => ranks.push((role, dims[0])),
        }
        if role == "proj" || (role == "source.weight" && edit.input_site.is_none()) {
            widths.push((role, dims[1]));
        }
    }
    if let Some(clash) = clash(&ranks) {
        checker.report(&rules::E_RANK, place, format!("the rank is {clash}"));
        return false;
    }
    if !edit.tensors.contains_key("up") {
        // The identity: rank and width are one.
        widths.extend(ranks.first().copied());
    }
    if let Some(clash) = clash(&widths) {
        checker.report(&rules::E_SHAPE, place, format!("the width is {clash}"));
        return false;
    }
    true
}

/// The first two that differ, in words.
fn clash(extents: &[(&str, u64)]) -> Option<String> {
    let (name, wanted) = extents.first()?;
    let (other, found) = extents.iter().find(|(_, extent)| extent != wanted)?;
    Some(format!("{wanted} in {name}, {found} in {other}"))
}

/// What of an intervention is not of the class whose rounding it has.
fn rounding_fault(checker: &Checker<'_, '_>, edit: &InterventionEdit) -> Option<String> {
    let (class, up_is_f32, subtract) = match edit.rounding {
        Rounding::F32 => return None,
        Rounding::Loreft => ("loreft", true, Some(true)),
        Rounding::Direft => ("direft", true, Some(false)),
        Rounding::Noreft => ("noreft", false, None),
    };
    let has = |role: &str| edit.tensors.contains_key(role);
    let dtype = |role: &str| checker.tensor(&edit.tensors, role).map(|tensor| tensor.dtype);
    if !(has("up") && has("source.weight") && has("source.bias")) {
        return Some(format!("{class} has up, source.weight and source.bias"));
    }
    if has("up.bias") || has("proj") || edit.input_site.is_some() || edit.dims.is_some() {
        return Some(format!("{class} has no up.bias, proj, input_site or dims"));
    }
    if subtract.is_some_and(|subtract| subtract != edit.subtract) || (up_is_f32 && has("proj.bias")) {
        return Some(format!("{class} does not subtract so"));
    }
    let wanted = dtype("source.weight");
    let others = ["source.bias", "proj.bias", if up_is_f32 { "source.bias" } else { "up" }];
    if let Some(role) = others.into_iter().find(|role| has(role) && dtype(role) != wanted) {
        return Some(format!("{class} has {role} in the dtype of source.weight"));
    }
    (up_is_f32 && dtype("up") != Some(Dtype::F32)).then(|| format!("{class} has up in F32"))
}
