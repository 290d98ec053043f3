//! The rules of the format (spec sections 2 to 9): every breach is collected, one file for each group of rules.

mod against;
mod base;
mod bits;
mod dense;
mod edits;
mod intervention;
mod lora;
mod orthonormal;
mod overlap;
mod scan;
mod source;
mod sparse;
mod state;
mod stored;
mod target;
mod values;

pub use against::check_against;

use crate::container::{self, Container, Profile};
use crate::finding::{Finding, Severity};
use crate::manifest::{self, Encoded, v1};
use crate::model::Adapter;
use crate::tensor::{Dtype, Shape};
use std::collections::BTreeMap;

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Every breach, in the order of checking.
    pub findings: Vec<Finding>,
    /// The container, when its header could be read.
    pub container: Option<Container>,
    /// The manifest, when it could be read.
    pub manifest: Option<v1::Manifest>,
    /// Whether the container has a manifest at all; a file without one is not a Fitment file.
    pub is_fitment: bool,
}

impl Report {
    /// Findings of severity error.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error)
    }
}

/// How much of a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Header and manifest, row numbers and positions: what reading needs.
    Structure,
    /// Also digests, content id and the values of the weights: reads every byte.
    Values,
}

/// A stored tensor as rules see it.
pub(crate) struct StoredTensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a Shape,
    /// Absent when only the header is at hand.
    pub(crate) bytes: Option<&'a [u8]>,
}

pub(crate) type StoredTensors<'a> = BTreeMap<&'a str, StoredTensor<'a>>;

/// Calls a function once with every number below a count: in order, or from several threads.
///
/// This crate has no threads; a caller that has some passes them in.
pub type Each<'e> = &'e dyn Fn(usize, &(dyn Fn(usize) + Sync));

/// The [`Each`] of one thread.
pub fn in_order(count: usize, call: &(dyn Fn(usize) + Sync)) {
    (0..count).for_each(call);
}

/// Checks a whole file.
pub fn check(bytes: &[u8], depth: Depth) -> Report {
    check_each(bytes, depth, &in_order)
}

/// [`check`], with the passes over tensors run by `each`.
pub fn check_each(bytes: &[u8], depth: Depth, each: Each<'_>) -> Report {
    check_header(bytes, bytes.len() as u64, depth, each)
}

/// Checks a file of which only the first bytes, at least the header, are at hand. Rules that need the data of a tensor
/// beyond them are passed over.
pub fn check_prefix(prefix: &[u8], file_len: u64, depth: Depth) -> Report {
    check_header(prefix, file_len, depth, &in_order)
}

/// Checks a model that some other format gave: the rules about edits and base, and with [`Depth::Values`] those about
/// the weights. Places are `edits[N] LABEL`, and the names under which the weights would be stored.
pub fn check_model(adapter: &Adapter<'_>, depth: Depth, each: Each<'_>) -> Vec<Finding> {
    let encoded = manifest::encode_undigested(adapter);
    let stored = stored_of(&encoded);
    let mut checker = Checker { manifest: &encoded.manifest, stored: &stored, findings: Vec::new() };
    base::check(&mut checker);
    edits::check(&mut checker);
    source::check(&mut checker);
    if depth == Depth::Values {
        values::check_values(&mut checker, each);
    }
    checker.findings
}

/// The tensors of an encoded adapter as rules see them.
pub(crate) fn stored_of<'e>(encoded: &'e Encoded<'_>) -> StoredTensors<'e> {
    let tensor = |tensor: &'e crate::tensor::Tensor<'_>| StoredTensor {
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        bytes: Some(tensor.bytes()),
    };
    encoded.tensors.iter().map(|(name, value)| (name.as_str(), tensor(value))).collect()
}

fn check_header(prefix: &[u8], file_len: u64, depth: Depth, each: Each<'_>) -> Report {
    let mut report = Report::default();
    let (container, findings) = match container::read_header(prefix, file_len, Profile::Fitment) {
        Ok(read) => read,
        Err(finding) => {
            report.findings.push(finding);
            return report;
        }
    };
    report.findings = findings;
    if let Some(text) = container.metadata_text("fitment") {
        report.is_fitment = true;
        match manifest::parse(text) {
            Err(finding) => report.findings.push(finding),
            Ok((manifest, findings)) => {
                report.findings.extend(findings);
                let stored = stored_tensors(&container, prefix);
                report.findings.extend(check_manifest(&manifest, &stored, depth, each));
                report.manifest = Some(manifest);
            }
        }
    }
    report.container = Some(container);
    report
}

fn stored_tensors<'a>(container: &'a Container, prefix: &'a [u8]) -> StoredTensors<'a> {
    let tensor = |entry: &'a container::Entry| StoredTensor {
        dtype: entry.dtype,
        shape: &entry.shape,
        bytes: prefix.get(container.data_range(entry)),
    };
    container.entries().iter().map(|entry| (entry.name.as_str(), tensor(entry))).collect()
}

/// The rules about a manifest and the tensors it names.
pub(crate) fn check_manifest(
    manifest: &v1::Manifest,
    stored: &StoredTensors<'_>,
    depth: Depth,
    each: Each<'_>,
) -> Vec<Finding> {
    let mut checker = Checker { manifest, stored, findings: Vec::new() };
    stored::check(&mut checker);
    base::check(&mut checker);
    edits::check(&mut checker);
    source::check(&mut checker);
    if depth == Depth::Values {
        values::check(&mut checker, each);
    }
    checker.findings
}

struct Checker<'c, 'a> {
    manifest: &'c v1::Manifest,
    stored: &'c StoredTensors<'a>,
    findings: Vec<Finding>,
}

impl<'c, 'a> Checker<'c, 'a> {
    fn report(&mut self, rule: &crate::finding::Rule, place: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    /// The stored tensor of a role; `None` when the role or the tensor is missing, which other rules report.
    fn tensor(&self, tensors: &BTreeMap<String, String>, role: &str) -> Option<&'c StoredTensor<'a>> {
        self.stored.get(tensors.get(role)?.as_str())
    }
}
