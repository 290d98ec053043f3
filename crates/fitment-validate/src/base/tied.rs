//! Tied tensors: what is one on disk and several in the model (spec section 4.4).

use super::Fit;
use crate::rules;
use fitment_convert::tying::{Tied, find_tied};
use fitment_core::model::{ConfigEdit, ConfigValue, Edit, TensorName};
use serde_json::Value;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    let ties = find_tied(fit.base.tensors(), fit.base.config());
    absent(fit, &ties);
    recorded_otherwise(fit);
    if !fit.adapter.base.is_bound() {
        undecided(fit, &ties);
    }
}

/// Targets that are not on disk because the base ties them to another tensor.
fn absent(fit: &mut Fit<'_, '_>, ties: &[Tied]) {
    let created = fit.created();
    let unties = fit.adapter.edits.iter().any(|edit| {
        matches!(edit, Edit::Config(ConfigEdit { value: ConfigValue::TieWordEmbeddings(false), .. }))
    });
    // What was taken from two checkpoints makes the second one of the first, whatever it holds.
    let compared = fit.adapter.edits.iter().any(|edit| matches!(edit, Edit::Bits(_)))
        || fit.adapter.base.tensors.iter().any(|tensor| tensor.unchanged);
    for target in fit.targets() {
        let name = target.name.to_string();
        // An untied head has a bias of its own.
        let belongs = |tie: &Tied| (compared || tie.is_bias() && unties) && created.contains(&name);
        let tie = ties.iter().find(|tie| tie.absent.contains(&name) && !belongs(tie));
        if let Some(tie) = tie.filter(|_| !fit.base.tensors().contains_key(&name)) {
            let verb = if created.contains(&name) { "creates" } else { "changes" };
            let message = format!(
                "the adapter {verb} it alone, the base has it as one with {:?}: which uses are meant is not said",
                tie.owner
            );
            fit.report_once(&rules::B_TIED, name, message);
        }
    }
}

/// The adapter takes tensors for tied that this base has apart.
fn recorded_otherwise(fit: &mut Fit<'_, '_>) {
    let flag = fit.config("tie_word_embeddings").and_then(Value::as_bool);
    let tied = &fit.adapter.base.tied;
    for target in fit.targets() {
        let Some(uses) = tied.get(&target.name).filter(|_| fit.info(target).is_some()) else { continue };
        let apart = |name: &&TensorName| fit.base.tensors().contains_key(name.as_str());
        let message = match uses.iter().find(apart) {
            Some(other) if flag != Some(true) => {
                format!("the adapter takes it for one with {:?}, the base has two tensors", other.as_str())
            }
            _ if flag == Some(false) => {
                "the adapter takes it for tied, the config of the base says tie_word_embeddings is false"
                    .to_owned()
            }
            _ => continue,
        };
        fit.report_once(&rules::B_TIED, target.label(), message);
    }
}

/// An adapter made without its base may not know that a tensor is tied; then all uses change.
fn undecided(fit: &mut Fit<'_, '_>, ties: &[Tied]) {
    for target in fit.targets() {
        // A bias is one parameter in every use.
        let tie = ties.iter().find(|tie| tie.owner == target.name.as_str() && !tie.is_bias());
        let knows = fit.adapter.base.tied.contains_key(&target.name);
        if let Some(tie) = tie.filter(|_| !knows && target.component.is_none()) {
            let others: Vec<&str> =
                tie.members().map(String::as_str).filter(|name| *name != tie.owner).collect();
            let message = format!(
                "the base ties it to {}, the adapter does not say which of them it changes",
                others.join(", ")
            );
            fit.report_once(&rules::B_TIED, target.label(), message);
        }
    }
}
