//! One file of weights as its tensors: safetensors, or a torch file whose pickle is data and never run.

use fitment_core::Finding;
use fitment_core::container::{Profile, read_header};
use fitment_core::finding::Rule;
use fitment_core::tensor::Tensor;
use fitment_torch::TorchFile;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a file of weights holds. Where a finding is an error, what could be read is there all the same.
#[derive(Debug, Default)]
pub(crate) struct Weights<'a> {
    /// By their keys, each once in a file, in the file's order.
    pub(crate) tensors: Vec<(String, Tensor<'a>)>,
    /// `__metadata__`; a torch file has none.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Breaches of the container's own rules, and of the format's rule for weight files.
    pub(crate) findings: Vec<Finding>,
}

/// Reads a safetensors file. `rule` is broken by a file that is none at all.
pub(crate) fn safetensors<'a>(path: &str, bytes: &'a [u8], rule: &Rule) -> Weights<'a> {
    let mut weights = Weights::default();
    if bytes.starts_with(b"version https://git-lfs") {
        let message = "is a git-lfs pointer, not the file: run `git lfs pull`";
        weights.findings.push(Finding::new(rule, path, message));
        return weights;
    }
    let (container, findings) = match read_header(bytes, bytes.len() as u64, Profile::Foreign) {
        Ok(read) => read,
        Err(finding) => {
            let place = [path, &finding.place].join(if finding.place.is_empty() { "" } else { ": " });
            weights.findings.push(Finding { place, ..finding });
            return weights;
        }
    };
    weights.findings.extend(findings);
    if let Some(Value::Object(metadata)) = container.metadata() {
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        weights.metadata.extend(metadata.iter().filter_map(text));
    }
    for entry in container.entries() {
        let data = bytes.get(container.data_range(entry)).unwrap_or_default();
        match Tensor::borrowed(entry.dtype, entry.shape.clone(), data) {
            Ok(tensor) => weights.tensors.push((entry.name.clone(), tensor)),
            Err(fault) => weights.findings.push(Finding::new(rule, &entry.name, fault.to_string())),
        }
    }
    weights
}

/// Reads a torch file. `rule` is broken by anything but a flat dict of tensors: what `load_state_dict` takes.
pub(crate) fn torch<'a>(path: &str, bytes: &'a [u8], rule: &Rule) -> Weights<'a> {
    let mut weights = Weights::default();
    let state = match TorchFile::read(path, bytes).and_then(|file| file.state_dict()) {
        Ok(state) => state,
        Err(error) => {
            weights.findings.extend(error.findings());
            return weights;
        }
    };
    let odd = state.others.first().map(|name| (name.as_str(), "is no tensor"));
    let odd = odd.or_else(|| state.nested().map(|name| (name, "lies in a dict inside the dict")));
    if let Some((name, what)) = odd {
        let message = format!("{what}: a flat dict of tensors is expected");
        weights.findings.push(Finding::new(rule, name, message));
    }
    weights.tensors.extend(state.tensors.into_iter().map(|named| (named.name, named.tensor)));
    weights
}
