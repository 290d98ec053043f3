//! Adapters of experts, one of bundles and one of each expert's own tensor, in one form.

use crate::base::entry_key;
use fitment_core::Adapter;
use fitment_core::model::{BaseTensor, Edit, TensorName};
use std::collections::{BTreeMap, BTreeSet};

/// Adapters with bundles of experts taken apart, where others of them have tensors of the bundle by their own names: what they change in
/// common can then be merged. `None` where there are none such. Bundles that are no low-rank updates stay, and [`merge()`](crate::merge())
/// refuses them by name.
pub fn level<'a>(adapters: &[&Adapter<'a>]) -> Option<Vec<Adapter<'a>>> {
    let mut keys: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for target in adapters.iter().flat_map(|adapter| &adapter.edits).filter_map(Edit::target) {
        for name in target.base_names() {
            keys.entry(name).or_default().insert(target.name.as_str());
        }
    }
    let met: BTreeSet<&str> = keys.values().filter(|keys| keys.len() > 1).flatten().copied().collect();
    let is_met = |name: &TensorName| met.contains(name.as_str());
    let leveled = adapters.iter().any(|adapter| {
        adapter
            .edits
            .iter()
            .filter_map(Edit::target)
            .any(|target| target.experts.is_some() && is_met(&target.name))
    });
    leveled.then(|| adapters.iter().map(|adapter| apart(adapter, &is_met)).collect())
}

/// An adapter with these of its bundles taken apart, edits and what is recorded of the base.
fn apart<'a>(adapter: &Adapter<'a>, is_met: &dyn Fn(&TensorName) -> bool) -> Adapter<'a> {
    let mut whole: BTreeSet<String> = BTreeSet::new();
    let mut edits = Vec::with_capacity(adapter.edits.len());
    for edit in &adapter.edits {
        let each = match edit {
            Edit::Lora(lora) if is_met(&lora.target.name) => lora.of_each_expert(),
            _ => None,
        };
        match each {
            Some(loras) => edits.extend(loras.into_iter().map(Edit::Lora)),
            None => {
                whole.extend(edit.target().map(|target| target.name.to_string()));
                edits.push(edit.clone());
            }
        }
    }
    let mut base = adapter.base.clone();
    base.tensors = adapter
        .base
        .tensors
        .iter()
        .flat_map(|tensor| {
            let stays = whole.contains(tensor.name.as_str()) || !is_met(&tensor.name);
            if stays { vec![tensor.clone()] } else { each(tensor) }
        })
        .collect();
    base.tensors.sort_by_cached_key(entry_key);
    Adapter { edits, base, ..adapter.clone() }
}

/// The entries of a bundle's own tensors.
fn each(tensor: &BaseTensor) -> Vec<BaseTensor> {
    let Some(range) = tensor.experts else { return vec![tensor.clone()] };
    let one = |(place, expert): (usize, u64)| {
        let name = TensorName::new(tensor.name.as_str().replacen("{e}", &expert.to_string(), 1)).ok()?;
        let digests = tensor.digests.get(place).copied().into_iter().collect();
        Some(BaseTensor { name, experts: None, digests, ..tensor.clone() })
    };
    (range.start..range.end).enumerate().filter_map(one).collect()
}
