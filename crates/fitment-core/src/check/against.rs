//! The rules about shapes and dtypes of targets, asked of a base at hand instead of the recorded one.

use super::{Depth, check_model, in_order};
use crate::checkpoint::Checkpoint;
use crate::finding::{Finding, rules};
use crate::model::{Adapter, BaseTensor, Target};
use std::collections::BTreeMap;

/// Whether the edits of a sound adapter fit the tensors of a base, edit by edit (spec section 4.1).
///
/// Places are `edits[N] LABEL`. Targets that the base lacks and parts of pipelines are passed over.
pub fn check_against(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Vec<Finding> {
    let mut rebased = Adapter { edits: adapter.edits.clone(), ..Adapter::default() };
    rebased.base.tied = adapter.base.tied.clone();
    let alone = check_model(&rebased, Depth::Structure, &in_order);
    let mut findings = Vec::new();
    let mut entries = BTreeMap::new();
    let targets = adapter.edits.iter().enumerate().filter_map(|(index, edit)| Some((index, edit.target()?)));
    for (index, target) in targets.filter(|(_, target)| target.component.is_none()) {
        let key = (target.name.clone(), target.experts);
        if entries.contains_key(&key) {
            continue;
        }
        if let Some(entry) = entry(target, base) {
            if let Some(message) = unequal(target, base) {
                let place = format!("edits[{index}] {}", target.label());
                findings.push(Finding::new(&rules::E_BUNDLE, place, message));
            }
            entries.insert(key, entry);
        }
    }
    rebased.base.tensors = entries.into_values().collect();
    let beside = check_model(&rebased, Depth::Structure, &in_order);
    // What the adapter breaks by itself, or a created tensor that the base has, is no question of shape.
    findings.extend(
        beside.into_iter().filter(|found| !alone.contains(found) && found.code != rules::M_BASE.code),
    );
    findings
}

fn entry(target: &Target, base: &dyn Checkpoint) -> Option<BaseTensor> {
    let info = base.tensors().get(&target.base_names().next()?)?;
    Some(BaseTensor {
        component: None,
        name: target.name.clone(),
        experts: target.experts,
        dtype: Some(info.dtype),
        shape: Some(info.shape.clone()),
        digests: Vec::new(),
        unchanged: false,
        extra: serde_json::Map::default(),
    })
}

/// The first tensor of a bundle that differs from the bundle's first.
fn unequal(target: &Target, base: &dyn Checkpoint) -> Option<String> {
    target.experts?;
    let mut infos = target.base_names().filter_map(|name| base.tensors().get_key_value(&name));
    let (_, first) = infos.next()?;
    let (name, other) = infos.find(|(_, info)| *info != first)?;
    Some(format!(
        "{name:?} is {} {}, the first expert {} {}",
        other.dtype, other.shape, first.dtype, first.shape
    ))
}
