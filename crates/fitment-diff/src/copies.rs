//! Tensors that a checkpoint stores under several names: both copies of a tied tensor.

use crate::error::Error;
use crate::part::{Outcome, Part};
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::identity::sha256;
use fitment_core::model::Digest;
use std::collections::BTreeMap;

/// Finds the parts that are equal in the base and equal in the tuned checkpoint: what is stored of the first serves all.
///
/// # Errors
/// [`Error::Tuned`].
pub(crate) fn find(parts: &mut [Part], tuned: &dyn Checkpoint) -> Result<(), Error> {
    let changes = |part: &Part| match part.outcome {
        Outcome::Unchanged | Outcome::Created | Outcome::Removed => None,
        _ => part.base.as_ref().map(|(info, digest)| key(info, *digest)),
    };
    let mut by_base: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (place, key) in parts.iter().enumerate().filter_map(|(place, part)| Some((place, changes(part)?))) {
        by_base.entry(key).or_default().push(place);
    }
    for group in by_base.into_values().filter(|group| group.len() > 1) {
        let mut firsts: BTreeMap<Key, usize> = BTreeMap::new();
        for place in group {
            let part = &parts[place];
            let Some(info) = &part.tuned else { continue };
            let digest = match part.outcome {
                Outcome::Bits { result, .. } => result,
                _ => sha256(&tuned.read(&part.name).map_err(Error::Tuned)?),
            };
            let first = *firsts.entry(key(info, digest)).or_insert(place);
            parts[place].copy_of = (first != place).then_some(first);
        }
    }
    Ok(())
}

/// What makes two tensors copies of each other: digest, dtype and shape.
type Key = (Digest, &'static str, Vec<u64>);

fn key(info: &TensorInfo, digest: Digest) -> Key {
    (digest, info.dtype.name(), info.shape.dims().to_vec())
}
