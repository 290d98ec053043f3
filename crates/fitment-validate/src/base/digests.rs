//! Whether the touched tensors are the very ones that the adapter was bound to.

use super::{Fit, shapes};
use crate::rules;
use fitment_convert::each;
use fitment_core::checkpoint::CheckpointError;
use fitment_core::identity::{hex, sha256};
use fitment_core::model::Digest;

/// Hashes every tensor with a recorded digest; gives how many.
pub(super) fn check(fit: &mut Fit<'_, '_>) -> Result<u64, CheckpointError> {
    let jobs = jobs(fit);
    // Interventions alone touch no tensor: there is no digest to record.
    if jobs.is_empty() && fit.edits().next().is_some() {
        let message = "the adapter is unbound: names and shapes were compared, content was not";
        fit.report(&rules::B_UNBOUND, "", message);
    }
    let base = fit.base;
    let found = each::map(&jobs, |job| base.read(&job.name).map(|bytes| sha256(&bytes)));
    for (job, found) in jobs.iter().zip(found) {
        let found = found?;
        if found != job.recorded {
            let message = format!(
                "the base differs here from the one that the adapter was made for: SHA-256 {}, recorded {}",
                short(&found),
                short(&job.recorded)
            );
            fit.report(&rules::B_DIGEST, &job.name, message);
        }
    }
    Ok(jobs.len() as u64)
}

struct Job {
    name: String,
    recorded: Digest,
}

fn jobs(fit: &Fit<'_, '_>) -> Vec<Job> {
    let mut jobs = Vec::new();
    for entry in fit.adapter.base.tensors.iter().filter(|entry| entry.component.is_none()) {
        let target = shapes::target(entry);
        for (name, recorded) in target.base_names().zip(&entry.digests) {
            if fit.base.tensors().contains_key(&name) {
                jobs.push(Job { name, recorded: *recorded });
            }
        }
    }
    jobs
}

/// Enough digits to tell digests apart by eye.
fn short(digest: &Digest) -> String {
    format!("{}…", hex(&digest[..8]))
}
