//! Control vectors: `direction.N` is added to the output of block N, for every token.

mod read;
mod write;

pub(super) use read::read;
pub(super) use write::write;

use super::container::{Container, Entry};
use super::rules;
use super::value::Value;
use fitment_core::Finding;
use fitment_core::tensor::Dtype;
use std::collections::BTreeSet;

pub(super) const ARCHITECTURE: &str = "general.architecture";
pub(super) const CONTROL_VECTOR: &str = "controlvector";
const MODEL_HINT: &str = "controlvector.model_hint";
const LAYER_COUNT: &str = "controlvector.layer_count";
const PREFIX: &str = "direction.";

/// The value of `general.architecture`.
pub(super) fn architecture<'c>(container: &'c Container<'_>) -> Option<&'c str> {
    container.get(ARCHITECTURE)?.as_text()
}

/// The block that a tensor steers.
///
/// llama.cpp (`common_control_vector_load_one`) reads the number with `stoi` and refuses 0: block 0 cannot be steered.
fn layer(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?;
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    number.parse().ok().filter(|layer| is_plain && *layer <= u64::from(u32::MAX))
}

/// The tensor's name for a block.
fn name(layer: u64) -> String {
    format!("{PREFIX}{layer}")
}

/// Every breach of the rules of control vectors.
pub(super) fn check(container: &Container<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in &container.tensors {
        findings.extend(direction(entry));
    }
    let widths: BTreeSet<u64> =
        container.tensors.iter().filter_map(|entry| entry.dims.last().copied()).collect();
    if widths.len() > 1 {
        findings.push(Finding::new(
            &rules::G_WIDTH,
            "",
            format!("there are directions of {widths:?} elements"),
        ));
    }
    if container.tensors.is_empty() {
        findings.push(Finding::new(&rules::G_DIRECTION, "", "the file holds no direction"));
    }
    let count = container.get(LAYER_COUNT).and_then(Value::as_count);
    if count != Some(container.tensors.len() as u64) {
        let said = container.get(LAYER_COUNT).map_or("missing".to_owned(), Value::to_string);
        let message = format!("it is {said}, there are {} directions", container.tensors.len());
        findings.push(Finding::new(&rules::G_LAYER_COUNT, LAYER_COUNT, message));
    }
    findings
}

fn direction(entry: &Entry<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut breach =
        |message: String| findings.push(Finding::new(&rules::G_DIRECTION, &*entry.name, message));
    if layer(&entry.name).is_none() {
        breach("not `direction.N` with N from 1: llama.cpp has no place for it".to_owned());
    }
    if entry.dtype != Dtype::F32 {
        breach(format!("its type is {}, F32 is asked for", entry.dtype));
    }
    // Trailing axes of extent 1 are what ggml calls one-dimensional.
    if entry.dims.iter().rev().skip(1).any(|dim| *dim != 1) || entry.dims.last() == Some(&0) {
        breach(format!("its axes are {:?}, one of at least one element is asked for", entry.dims));
    }
    let values =
        entry.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
    if entry.dtype == Dtype::F32 {
        let mut is_zero = true;
        for value in values {
            is_zero &= value == 0.0;
            if !value.is_finite() {
                breach(format!("it holds {value}"));
                return findings;
            }
        }
        if is_zero {
            findings.push(Finding::new(&rules::G_ZERO, &*entry.name, "every element is 0"));
        }
    }
    findings
}
