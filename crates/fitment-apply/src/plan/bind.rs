//! What the adapters recorded of their base, against the base at hand.

use crate::note::Note;
use crate::options::Input;
use crate::refusal::Culprit;
use fitment_core::checkpoint::TensorInfo;
use fitment_core::model::Digest;
use fitment_core::tensor::{Dtype, Shape};
use std::collections::BTreeMap;

/// What one adapter recorded of one base tensor.
#[derive(Clone, Copy, Debug)]
struct Recorded<'a> {
    dtype: Option<Dtype>,
    shape: Option<&'a Shape>,
    digest: Option<&'a Digest>,
}

/// The digest that an adapter expects of a base tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Index of the adapter.
    pub file: usize,
    /// SHA-256 of the tensor's raw bytes.
    pub digest: Digest,
    /// Of a bit-exact change: the digest of its result. No option accepts another base.
    pub result: Option<Digest>,
}

/// The records of all adapters, by base tensor.
#[derive(Debug)]
pub(super) struct Records<'a> {
    files: Vec<BTreeMap<String, Recorded<'a>>>,
}

impl<'a> Records<'a> {
    pub(super) fn new(inputs: &[Input<'a>]) -> Self {
        Self { files: inputs.iter().map(|input| records_of(input)).collect() }
    }

    /// Compares what the adapter `file` recorded of `name` with the base; gives the digest that is left to check. No option accepts
    /// another dtype for an `exact` change.
    pub(super) fn compare(
        &self,
        (file, input): (usize, &Input<'_>),
        (name, info): (&str, &TensorInfo),
        (allow_mismatch, exact): (bool, bool),
        found: &mut Findings<'_>,
    ) -> Option<Expected> {
        let recorded = self.files.get(file)?.get(name)?;
        let (culprits, notes) = (&mut *found.culprits, &mut *found.notes);
        if let Some(shape) = recorded.shape.filter(|shape| **shape != info.shape) {
            culprits.push(Culprit::RecordedShape {
                file: input.name.clone(),
                target: name.to_owned(),
                recorded: shape.clone(),
                found: info.shape.clone(),
            });
            return None;
        }
        if let Some(dtype) = recorded.dtype.filter(|dtype| *dtype != info.dtype) {
            let (file, target, found) = (input.name.clone(), name.to_owned(), info.dtype);
            if allow_mismatch && !exact {
                notes.push(Note::DtypeAccepted { file, target, recorded: dtype, found });
            } else {
                culprits.push(Culprit::RecordedDtype { file, target, recorded: dtype, found, exact });
            }
            return None;
        }
        recorded.digest.map(|digest| Expected { file, digest: *digest, result: None })
    }
}

/// Where what is found goes.
#[derive(Debug)]
pub(super) struct Findings<'f> {
    pub(super) culprits: &'f mut Vec<Culprit>,
    pub(super) notes: &'f mut Vec<Note>,
}

fn records_of<'a>(input: &Input<'a>) -> BTreeMap<String, Recorded<'a>> {
    let mut records = BTreeMap::new();
    for entry in input.adapter.base.tensors.iter().filter(|entry| entry.component.is_none()) {
        let range = entry.experts.map_or(0..1, |range| range.start..range.end);
        for (row, expert) in range.enumerate() {
            let name = match entry.experts {
                None => entry.name.to_string(),
                Some(_) => entry.name.as_str().replacen("{e}", &expert.to_string(), 1),
            };
            let (dtype, shape, digest) = (entry.dtype, entry.shape.as_ref(), entry.digests.get(row));
            records.insert(name, Recorded { dtype, shape, digest });
        }
    }
    records
}
