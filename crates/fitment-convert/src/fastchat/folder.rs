//! The tensors of a saved model, whole or in shards.

use super::rules;
use crate::files::Files;
use crate::weights;
use fitment_core::tensor::Tensor;
use fitment_core::{Finding, Severity, json};
use fitment_math::not_finite;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "config.json";

/// Index files, in the order in which transformers looks for them.
const INDEXES: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// A folder of differences.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    pub(super) config: Option<Map<String, Value>>,
    /// In order of their names.
    pub(super) tensors: BTreeMap<String, Tensor<'a>>,
    /// Paths of the weight files and of the index.
    pub(super) read: BTreeSet<String>,
    pub(super) findings: Vec<Finding>,
}

/// Reads the weight files: safetensors where there are some, as transformers prefers them.
pub(super) fn open<'a>(files: &Files<'a>) -> Folder<'a> {
    let mut folder = Folder { config: config(files), ..Folder::default() };
    let at_root = |ending: &str| {
        let of_model = |path: &&str| ending != ".bin" || path.starts_with("pytorch_model");
        let plain = |path: &&str| path.ends_with(ending) && !path.contains('/');
        files.iter().map(|(path, _)| path).filter(plain).filter(of_model).collect::<Vec<_>>()
    };
    let mut paths = at_root(".safetensors");
    let mut index = INDEXES[0];
    if paths.is_empty() {
        (paths, index) = (at_root(".bin"), INDEXES[1]);
    }
    if paths.is_empty() {
        folder.report(&rules::F_WEIGHTS_MISSING, "", "there is no *.safetensors and no pytorch_model*.bin");
    }
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for path in paths {
        let bytes = files.get(path).unwrap_or_default();
        let read = match path.ends_with(".bin") {
            true => weights::torch(path, bytes, &rules::F_WEIGHTS_FILE),
            false => weights::safetensors(path, bytes, &rules::F_WEIGHTS_FILE),
        };
        folder.read.insert(path.to_owned());
        folder.findings.extend(read.findings);
        for (name, tensor) in read.tensors {
            if let Some(other) = places.insert(name.clone(), path.to_owned()) {
                folder.report(&rules::F_INDEX, &name, format!("stands in {other} and in {path}"));
            }
            folder.tensors.insert(name, tensor);
        }
    }
    if let Some(bytes) = files.get(index) {
        folder.read.insert(index.to_owned());
        folder.check_index(index, bytes, &places);
    }
    folder.check_values();
    folder
}

fn config(files: &Files<'_>) -> Option<Map<String, Value>> {
    match json::parse(files.get(CONFIG)?) {
        Ok(Value::Object(config)) => Some(config),
        Ok(_) | Err(_) => None,
    }
}

impl Folder<'_> {
    fn report(&mut self, rule: &fitment_core::finding::Rule, place: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    fn check_index(&mut self, path: &str, bytes: &[u8], places: &BTreeMap<String, String>) {
        let parsed = json::parse(bytes);
        let Some(map) = parsed.as_ref().ok().and_then(|index| index.get("weight_map")?.as_object()) else {
            return self.report(&rules::F_INDEX, path, "has no map `weight_map` from tensors to files");
        };
        for (name, file) in map {
            let found = places.get(name).map(String::as_str);
            if found != file.as_str() {
                let found = found.unwrap_or("no file");
                self.report(&rules::F_INDEX, name, format!("the index says {file}, it stands in {found}"));
            }
        }
        for name in places.keys().filter(|name| !map.contains_key(*name)) {
            self.report(&rules::F_INDEX, name, "the index does not name it");
        }
    }

    fn check_values(&mut self) {
        let mut found = Vec::new();
        for (name, tensor) in &self.tensors {
            if !tensor.dtype().is_weight() {
                if !is_zero(tensor) {
                    let message = format!("it is {} and not zero everywhere", tensor.dtype());
                    found.push(Finding::new(&rules::F_DTYPE, &**name, message));
                }
            } else if let Some(at) = not_finite::first(tensor.dtype(), tensor.bytes()) {
                let message = format!("element {at} is NaN or infinite");
                found.push(Finding::new(&rules::F_FINITE, &**name, message));
            }
        }
        self.findings.extend(found);
        let has_errors = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        if !has_errors && !self.tensors.is_empty() && self.tensors.values().all(is_zero) {
            self.report(&rules::F_ZERO, "", "every difference is zero");
        }
    }
}

/// Whether a tensor holds nothing but zeros without sign.
pub(super) fn is_zero(tensor: &Tensor<'_>) -> bool {
    tensor.bytes().iter().all(|byte| *byte == 0)
}
