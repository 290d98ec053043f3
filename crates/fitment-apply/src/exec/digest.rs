//! Digests of base tensors, taken while their bytes are at hand anyway.

use super::error::Error;
use super::work;
use crate::plan::{Expected, Plan};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes hashed between two looks at the stop flag.
pub(super) const BLOCK: usize = 1 << 20;

/// How many differing tensors a message names.
const NAMED: usize = 5;

/// A base tensor that is not the recorded one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mismatch {
    /// The base tensor.
    pub target: String,
    /// The adapter that recorded another one.
    pub file: String,
}

/// Hashes if somebody expects a digest.
pub(super) struct Hasher(Option<Sha256>);

impl Hasher {
    pub(super) fn new(expected: &[Expected]) -> Self {
        Self((!expected.is_empty()).then(Sha256::new))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.0 {
            hash.update(bytes);
        }
    }
}

/// Mismatches so far: base tensor and adapter.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    found: Mutex<BTreeSet<(String, usize)>>,
}

impl Verdicts {
    /// Whether the digest differs from an expected one.
    pub(super) fn judge(&self, name: &str, hasher: Hasher, expected: &[Expected]) -> bool {
        let Some(hash) = hasher.0 else { return false };
        let digest: [u8; 32] = hash.finalize().into();
        let wrong: Vec<usize> = expected
            .iter()
            .filter(|expected| expected.digest != digest)
            .map(|expected| expected.file)
            .collect();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.extend(wrong.iter().map(|file| (name.to_owned(), *file)));
        !wrong.is_empty()
    }

    pub(super) fn into_sorted(self, plan: &Plan<'_>) -> Vec<Mismatch> {
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file = |file: usize| plan.files.get(file).cloned().unwrap_or_default();
        found.into_iter().map(|(target, number)| Mismatch { target, file: file(number) }).collect()
    }
}

/// What a bit-exact change makes of a tensor, where there is one.
fn result_of(plan: &Plan<'_>, tensor: &str) -> Option<Digest> {
    plan.digests.get(tensor)?.iter().find_map(|expected| expected.result)
}

/// The error about a base that is what the bit-exact changes make, when the first of them that differs is.
fn already_applied(
    plan: &Plan<'_>,
    base: &dyn Checkpoint,
    found: &[Mismatch],
) -> Result<Option<Error>, Error> {
    let first = found.iter().find_map(|mismatch| Some((mismatch, result_of(plan, &mismatch.target)?)));
    let Some((first, result)) = first else { return Ok(None) };
    let found = Sha256::digest(base.read(&first.target)?);
    let (tensor, file) = (first.target.clone(), first.file.clone());
    Ok((found[..] == result).then_some(Error::AlreadyApplied { tensor, file }))
}

/// The error about a base that differs. Looks at the tensors in order until enough differ, so that the message does not
/// depend on which thread came first.
pub(super) fn mismatch_error(
    plan: &Plan<'_>,
    base: &dyn Checkpoint,
    cancel: &AtomicBool,
) -> Result<Error, Error> {
    let verdicts = Verdicts::default();
    let enough = AtomicBool::new(false);
    let mut items: Vec<(&String, &Vec<Expected>)> = plan.digests.iter().collect();
    // Bit-exact changes first: they say whether the base is the result, and accept no other.
    items.sort_by_key(|(_, expected)| expected.iter().all(|expected| expected.result.is_none()));
    work::run(&items, (&AtomicBool::new(false), usize::MAX), |(name, expected), _| {
        if enough.load(Ordering::Relaxed) {
            return Ok(());
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let mut hasher = Hasher::new(expected);
        hasher.update(&base.read(name)?);
        if verdicts.judge(name, hasher, expected) {
            let found = verdicts.found.lock().unwrap_or_else(PoisonError::into_inner);
            let tensors: BTreeSet<&String> = found.iter().map(|(name, _)| name).collect();
            enough.store(tensors.len() >= NAMED, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let found = verdicts.into_sorted(plan);
    if let Some(applied) = already_applied(plan, base, &found)? {
        return Ok(applied);
    }
    let strict = found.iter().any(|mismatch| result_of(plan, &mismatch.target).is_some());
    let tensors: BTreeSet<String> = found.iter().map(|mismatch| mismatch.target.clone()).collect();
    let tensors: Vec<String> = tensors.into_iter().take(NAMED).collect();
    let named = found.into_iter().filter(|mismatch| tensors.contains(&mismatch.target));
    let files: BTreeSet<String> = named.map(|mismatch| mismatch.file).collect();
    let more = enough.load(Ordering::Relaxed);
    Ok(Error::BaseMismatch { files: files.into_iter().collect(), tensors, more, strict })
}
