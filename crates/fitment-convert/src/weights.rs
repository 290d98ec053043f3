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
    read_torch(path, bytes, None, rule)
}

/// Reads a torch file that holds such a dict under one key of another.
pub(crate) fn torch_under<'a>(path: &str, bytes: &'a [u8], outer: &str, rule: &Rule) -> Weights<'a> {
    read_torch(path, bytes, Some(outer), rule)
}

fn read_torch<'a>(path: &str, bytes: &'a [u8], outer: Option<&str>, rule: &Rule) -> Weights<'a> {
    let mut weights = Weights::default();
    let state = match TorchFile::read(path, bytes).and_then(|file| file.state_dict()) {
        Ok(state) => state,
        Err(error) => {
            weights.findings.extend(error.findings());
            return weights;
        }
    };
    if let Some(other) = state.others.first() {
        let message = "is no tensor: a flat dict of tensors is expected";
        weights.findings.push(Finding::new(rule, other, message));
    }
    let prefix = outer.map(|outer| format!("{outer}."));
    let mut elsewhere = None;
    for named in state.tensors {
        let inner = match &prefix {
            Some(prefix) => named.name.strip_prefix(&**prefix).filter(|_| named.depth == 2),
            None => Some(&*named.name).filter(|_| named.depth == 1),
        };
        match inner {
            Some(name) => weights.tensors.push((name.to_owned(), named.tensor)),
            None => elsewhere = elsewhere.or(Some(named.name)),
        }
    }
    if let Some(first) = elsewhere {
        let message = match outer {
            Some(outer) => format!("lies elsewhere than in a flat dict of tensors under {outer:?}"),
            None => "lies in a dict inside the dict: a flat dict of tensors is expected".to_owned(),
        };
        weights.findings.push(Finding::new(rule, first, message));
    }
    weights
}
