//! Rules that read every byte: digests, content id, and the weights' values (spec sections 5 and 7).

use super::orthonormal::{TOLERANCE, departure};
use super::scan::{Scan, scan};
use super::{Checker, Each, StoredTensor};
use crate::finding::rules;
use crate::identity::{hex, tensor_digest, unhex};
use crate::manifest::{self, v1::Edit};
use crate::model::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// Digests, content id and values of a file's tensors.
pub(super) fn check(checker: &mut Checker<'_, '_>, each: Each<'_>) {
    let facts = Facts::gather(checker, each);
    check_digests(checker, &facts);
    check_content_id(checker);
    check_weights(checker, &facts);
}

/// The values alone: the model of another format has no digests to compare.
pub(super) fn check_values(checker: &mut Checker<'_, '_>, each: Each<'_>) {
    let facts = Facts::gather(checker, each);
    check_weights(checker, &facts);
}

/// What a pass over a tensor's bytes gives.
struct Fact {
    digest: Option<Digest>,
    scan: Option<Scan>,
    /// Of a matrix that is said to be orthonormal: how far it is from that.
    departure: Option<f64>,
}

/// Facts by stored name.
struct Facts<'c>(BTreeMap<&'c str, Fact>);

impl<'c> Facts<'c> {
    /// The only place that reads the tensors: one job for each, in whatever order the caller runs them.
    fn gather(checker: &Checker<'c, '_>, each: Each<'_>) -> Self {
        let edits = &checker.manifest.edits;
        let used: BTreeSet<&str> =
            edits.iter().flat_map(Edit::tensors).map(|(_, name)| name.as_str()).collect();
        let orthonormal: BTreeSet<&str> = edits.iter().filter_map(said_orthonormal).collect();
        let jobs: Vec<(&'c str, &StoredTensor<'_>, &[u8])> =
            checker.stored.iter().filter_map(|(name, tensor)| Some((*name, tensor, tensor.bytes?))).collect();
        let results: Vec<OnceLock<Fact>> = jobs.iter().map(|_| OnceLock::new()).collect();
        each(jobs.len(), &|index| {
            let (Some((name, tensor, bytes)), Some(result)) = (jobs.get(index), results.get(index)) else {
                return;
            };
            let recorded = checker.manifest.tensors.contains_key(*name);
            result.get_or_init(|| Fact {
                digest: recorded.then(|| tensor_digest(name, tensor.dtype, tensor.shape, bytes)),
                scan: used.contains(name).then(|| scan(tensor.dtype, bytes)).flatten(),
                departure: orthonormal.contains(name).then(|| departure(tensor)).flatten(),
            });
        });
        let facts =
            jobs.iter().zip(results).filter_map(|((name, ..), fact)| Some((*name, fact.into_inner()?)));
        Self(facts.collect())
    }
}

fn check_digests(checker: &mut Checker<'_, '_>, facts: &Facts<'_>) {
    for (name, recorded) in &checker.manifest.tensors {
        let Some(digest) = facts.0.get(name.as_str()).and_then(|fact| fact.digest) else { continue };
        // What is no digest at all is reported as that.
        if unhex(recorded).is_some_and(|wanted| wanted != digest) {
            let message = format!("its SHA-256 is {}, recorded is {recorded}", hex(&digest));
            checker.report(&rules::M_DIGEST, name, message);
        }
    }
}

fn check_content_id(checker: &mut Checker<'_, '_>) {
    let digests: BTreeMap<String, Digest> = checker
        .manifest
        .tensors
        .iter()
        .filter_map(|(name, text)| Some((name.clone(), unhex(text)?)))
        .collect();
    // With a hole in the table the id cannot be known; the hole is reported by its own rule.
    let complete =
        checker.manifest.edits.iter().flat_map(Edit::tensors).all(|(_, name)| digests.contains_key(name));
    let found = manifest::content_id(&checker.manifest.edits, &digests);
    if complete && found != checker.manifest.id {
        let message = format!("edits and digests give {found}, recorded is {}", checker.manifest.id);
        checker.report(&rules::M_CONTENT_ID, "id", message);
    }
}

/// Values of the weights: finite, not without effect, magnitudes positive, one dtype.
fn check_weights(checker: &mut Checker<'_, '_>, facts: &Facts<'_>) {
    let mut seen = BTreeSet::new();
    let mut factor_dtypes = BTreeSet::new();
    for edit in &checker.manifest.edits {
        for (role, name) in edit.tensors() {
            let Some(tensor) = checker.stored.get(name.as_str()) else { continue };
            // Other dtypes are none of a factor, which their own rule says.
            if matches!(edit, Edit::Lora(_)) && tensor.dtype.is_weight() {
                factor_dtypes.insert(tensor.dtype.name());
            }
            let first = seen.insert(name);
            let scan = facts.0.get(name.as_str()).and_then(|fact| fact.scan);
            let Some(scan) = scan.filter(|_| first) else { continue };
            if let Some(at) = scan.not_finite {
                checker.report(&rules::E_NOT_FINITE, name, format!("element {at} is NaN or infinite"));
            }
            if matches!(edit, Edit::Lora(_)) && tensor.shape.elements() > 0 {
                check_factor(checker, role, name, scan);
            }
            check_orthonormal(checker, name, scan, facts);
        }
    }
    if factor_dtypes.len() > 1 {
        let dtypes: Vec<&str> = factor_dtypes.into_iter().collect();
        checker.report(&rules::E_MIXED_DTYPES, "", format!("factors are {}", dtypes.join(" and ")));
    }
}

/// The stored name of `up`, where it is said to be orthonormal.
fn said_orthonormal(edit: &Edit) -> Option<&str> {
    match edit {
        Edit::Intervention(edit) if edit.orthonormal => edit.tensors.get("up").map(String::as_str),
        _ => None,
    }
}

fn check_orthonormal(checker: &mut Checker<'_, '_>, name: &str, scan: Scan, facts: &Facts<'_>) {
    let departure = facts.0.get(name).and_then(|fact| fact.departure);
    // What is not finite is reported as that.
    if let Some(departure) = departure.filter(|far| *far > TOLERANCE && scan.not_finite.is_none()) {
        let message =
            format!("is said to be orthonormal, yet UᵀU departs from the identity by {departure:.3e}");
        checker.report(&rules::E_ORTHONORMAL, name, message);
    }
}

fn check_factor(checker: &mut Checker<'_, '_>, role: &str, name: &str, scan: Scan) {
    if role == "magnitude" {
        if let Some(at) = scan.not_positive {
            checker.report(&rules::E_MAGNITUDE_SIGN, name, format!("element {at} is not above 0"));
        }
    } else if scan.all_zero {
        checker.report(&rules::E_NO_EFFECT, name, format!("the {role} factor is all zero"));
    }
}
