//! The fit of an adapter to a base (spec section 6): one file for each question.

mod coverage;
mod created;
mod digests;
mod exact;
mod identity;
mod names;
mod quantised;
mod shapes;
mod sites;
mod tied;
mod vocabulary;

use crate::rules;
use fitment_core::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use fitment_core::finding::{Finding, Rule};
use fitment_core::model::{Adapter, Edit, Target};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use names::{Missing, common_end, missing_findings};

/// What a look at a base found.
#[derive(Debug, Default)]
pub(crate) struct BaseReport {
    pub(crate) findings: Vec<Finding>,
    /// How many base tensors were hashed and compared with a recorded digest.
    pub(crate) digests: u64,
}

/// Asks every question about an adapter and a base; of digests only when they were not taken from this very base a moment
/// ago.
///
/// # Errors
/// When a tensor of the base cannot be read.
pub(crate) fn check(
    adapter: &Adapter<'_>,
    base: &dyn Checkpoint,
    just_bound: bool,
) -> Result<BaseReport, CheckpointError> {
    let mut fit = Fit { adapter, base, findings: Vec::new(), handled: BTreeSet::new() };
    components(&mut fit);
    quantised::check(&mut fit);
    tied::check(&mut fit);
    names::check(&mut fit);
    created::check(&mut fit);
    vocabulary::check(&mut fit);
    exact::check(&mut fit);
    shapes::check(&mut fit);
    sites::check(&mut fit);
    identity::check(&mut fit);
    let digests = if just_bound { 0 } else { digests::check(&mut fit)? };
    coverage::check(&mut fit);
    Ok(BaseReport { findings: fit.findings, digests })
}

/// An adapter beside a base, and what was found so far.
struct Fit<'f, 'a> {
    adapter: &'f Adapter<'a>,
    base: &'f dyn Checkpoint,
    findings: Vec<Finding>,
    /// Labels of targets at fault: what follows from the same fault is no second finding.
    handled: BTreeSet<String>,
}

impl<'f, 'a> Fit<'f, 'a> {
    fn report(&mut self, rule: &Rule, place: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    /// A finding about a target, of which nothing else is said any more.
    fn report_once(&mut self, rule: &Rule, label: String, message: impl Into<String>) {
        self.report(rule, &label, message);
        self.handled.insert(label);
    }

    /// Each edit that changes a tensor, with its target.
    fn edits(&self) -> impl Iterator<Item = (&'f Edit<'a>, &'f Target)> + use<'f, 'a> {
        self.adapter.edits.iter().filter_map(|edit| Some((edit, edit.target()?)))
    }

    /// Each target once, by label and experts, of which nothing was said yet.
    fn targets(&self) -> Vec<&'f Target> {
        let mut targets = BTreeMap::new();
        for (_, target) in self.edits() {
            targets.entry((target.label(), target.experts)).or_insert(target);
        }
        targets.retain(|(label, _), _| !self.handled.contains(label));
        targets.into_values().collect()
    }

    /// Labels of targets that an edit creates.
    fn created(&self) -> BTreeSet<String> {
        let creates = |edit: &Edit<'_>| matches!(edit, Edit::Set(set) if set.create);
        self.edits().filter(|(edit, _)| creates(edit)).map(|(_, target)| target.label()).collect()
    }

    /// The base tensor of a target; the first expert's for a bundle.
    fn info(&self, target: &Target) -> Option<&'f TensorInfo> {
        self.base.tensors().get(&target.base_names().next()?)
    }

    /// A value of the model's config, at the top or in the part about language.
    fn config(&self, key: &str) -> Option<&'f Value> {
        let config: &Map<String, Value> = self.base.config()?;
        config.get(key).or_else(|| config.get("text_config")?.get(key))
    }
}

/// `1 target stands`, `4 targets stand`.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Adapters for pipelines of several models do not fit a single one.
fn components(fit: &mut Fit<'_, '_>) {
    let mut first: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for target in fit.targets() {
        if let Some(component) = &target.component {
            first.entry(component.to_string()).or_default().push(target.label());
        }
    }
    for (component, labels) in first {
        let count = counted(labels.len(), "target belongs", "targets belong");
        let message =
            format!("{count} to the component {component:?} of a pipeline, the base is a single model");
        fit.report(&rules::B_MISSING, labels.first().cloned().unwrap_or_default(), message);
        fit.handled.extend(labels);
    }
}

#[cfg(test)]
mod tests;
