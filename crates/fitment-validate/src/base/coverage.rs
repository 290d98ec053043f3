//! Which modules of the base are hit, and which are not.

use super::Fit;
use crate::coverage::{Share, shares};
use crate::rules;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Kinds that are named when none of their modules is hit; models of many different blocks have hundreds.
const MAX_NAMED: usize = 12;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    let hit: BTreeSet<String> = fit
        .edits()
        .filter(|(_, target)| target.component.is_none())
        .flat_map(|(_, target)| target.base_names())
        .collect();
    let loaded = fit.base.tensors().keys().filter(|name| hit.contains(*name) || is_loaded(fit, name));
    let found = shares(hit.iter().map(String::as_str), loaded.map(String::as_str));
    let matrices = matrices(fit);
    let names = names(&found);
    let (mut hits, mut misses) = (Vec::new(), Vec::new());
    for (share, name) in found.iter().zip(&names) {
        if share.hits > 0 {
            hits.push(format!("{name} {}", share.hit).trim_end().to_owned());
            partial(fit, share);
        } else if share.of > 0 && !share.missing.is_empty() && matrices.contains(&share.kind) {
            misses.push(name.clone());
        }
    }
    if hits.is_empty() {
        return;
    }
    let mut message = format!("hit: {}", hits.join(", "));
    if !misses.is_empty() {
        let more = misses.len().saturating_sub(MAX_NAMED);
        misses.truncate(MAX_NAMED);
        message.push_str(&format!("; not hit: {}", misses.join(", ")));
        message.push_str(&if more > 0 { format!(" and {more} more kinds") } else { String::new() });
    }
    fit.report(&rules::B_COVERAGE, "", message);
}

/// Whether the model has the layer: checkpoints hold more for other uses, such as predicting several tokens.
fn is_loaded(fit: &Fit<'_, '_>, name: &str) -> bool {
    let layers = fit.config("num_hidden_layers").and_then(Value::as_u64);
    let layer = name.split('.').find_map(|segment| segment.parse::<u64>().ok());
    layers.zip(layer).is_none_or(|(layers, layer)| layer < layers)
}

/// A kind that is hit in most of its layers was probably meant in all of them.
fn partial(fit: &mut Fit<'_, '_>, share: &Share) {
    if share.hits < share.of && share.hits.saturating_mul(2) > share.of {
        let message = format!("hit in {} of {} layers, not in {}", share.hits, share.of, share.missing);
        fit.report(&rules::B_PARTIAL, &share.kind, message);
    }
}

/// Kinds of which every tensor has two axes or more: what adapters are made for.
fn matrices(fit: &Fit<'_, '_>) -> BTreeSet<String> {
    let tensors = fit.base.tensors().iter().filter(|(_, info)| info.shape.axes() >= 2);
    crate::coverage::group(tensors.map(|(name, _)| name.as_str()))
        .into_iter()
        .map(|group| group.kind)
        .collect()
}

/// The module behind the layer number; the whole kind where two kinds end alike.
fn names(shares: &[Share]) -> Vec<String> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for share in shares {
        *count.entry(share.module()).or_default() += 1;
    }
    let name = |share: &Share| match count.get(share.module()) {
        Some(1) => share.module().to_owned(),
        _ => share.kind.clone(),
    };
    shares.iter().map(name).collect()
}
