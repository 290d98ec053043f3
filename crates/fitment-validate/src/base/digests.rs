//! Whether the touched tensors are the very ones that the adapter was bound to.

use super::{Fit, shapes};
use crate::rules;
use fitment_convert::each;
use fitment_core::checkpoint::CheckpointError;
use fitment_core::identity::{hex, sha256};
use fitment_core::model::{Digest, Edit, Target};
use std::collections::BTreeMap;

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
    let results: BTreeMap<&str, Digest> = fit.edits().filter_map(result).collect();
    for (job, found) in jobs.iter().zip(found) {
        let found = found?;
        if found == job.recorded {
            continue;
        }
        let (digest, recorded) = (short(&found), short(&job.recorded));
        let differs = || {
            format!(
                "the base differs here from the one that the adapter was made for: SHA-256 {digest}, recorded {recorded}"
            )
        };
        match results.get(&*job.name) {
            Some(result) if *result == found => {
                let message = "already applied: the base has here what the adapter makes";
                fit.report(&rules::B_EXACT, &job.name, message);
            }
            Some(_) => fit.report(&rules::B_EXACT, &job.name, differs()),
            None => fit.report(&rules::B_DIGEST, &job.name, differs()),
        }
    }
    Ok(jobs.len() as u64)
}

/// The target of a bit-exact change, and what becomes of it.
fn result<'f>((edit, target): (&Edit<'_>, &'f Target)) -> Option<(&'f str, Digest)> {
    match edit {
        Edit::Bits(bits) => Some((target.name.as_str(), bits.result)),
        _ => None,
    }
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
