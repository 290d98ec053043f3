//! Which adapter of a folder is meant, and its files.

use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::several;
use crate::weights::{self, Weights};
use fitment_core::tensor::Tensor;
use fitment_core::{Finding, json};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter.safetensors";
const INTERFACE: &str = "adapter_interface.json";
pub(super) const PICKLE: &str = "pytorch_adapter.bin";
/// What a Fitment file calls the form of such weights.
pub(super) const TORCH: &str = "torch";

/// One adapter's files.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of other adapters, empty for the root.
    pub(super) others: Vec<String>,
    pub(super) config: Option<&'a [u8]>,
    pub(super) tensors: Vec<(String, Tensor<'a>)>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Path of the weight file.
    pub(super) weights: Option<String>,
    pub(super) is_torch: bool,
    /// The library was told of the model's modules, which it had no class for.
    pub(super) has_interface: bool,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Folder<'a> {
    fn take(&mut self, path: String, read: Weights<'a>) {
        self.weights = Some(path);
        self.tensors = read.tensors;
        self.metadata = read.metadata;
        self.findings.extend(read.findings);
    }
}

/// Whether there is anything of this library among the files.
pub(super) fn is_there(files: &Files<'_>) -> bool {
    !adapters(files).is_empty()
}

/// The sub-folders (with slash; empty for the root) that hold an adapter.
fn adapters(files: &Files<'_>) -> BTreeSet<String> {
    let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let is_adapter = |path: &str, bytes: &[u8]| match path.rsplit('/').next() {
        Some(CONFIG) => is_config(bytes),
        // A Fitment file may have any name.
        Some(WEIGHTS) => !fitment_core::is_fitment(bytes, bytes.len() as u64),
        Some(PICKLE) => true,
        _ => false,
    };
    files.iter().filter(|(path, bytes)| is_adapter(path, bytes)).map(|(path, _)| folder(path)).collect()
}

/// PEFT's config has the same name and another schema.
fn is_config(bytes: &[u8]) -> bool {
    let Ok(Value::Object(fields)) = json::parse(bytes) else { return false };
    fields.get("config").is_some_and(Value::is_object) && fields.contains_key("model_type")
}

/// Opens the adapter that is meant.
///
/// # Errors
/// [`Error::Ambiguous`] when the folder holds several and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let mut folders = adapters(files);
    let prefix = several::choose(&folders, adapter_name)?;
    folders.remove(&prefix);
    let mut folder = Folder { others: folders.into_iter().collect(), prefix, ..Folder::default() };
    let file = |name: &str| {
        Some(format!("{}{name}", folder.prefix)).and_then(|path| Some((files.get(&path)?, path)))
    };
    let (whole, pickle, interface) = (file(WEIGHTS), file(PICKLE), file(INTERFACE));
    folder.config = file(CONFIG).map(|(bytes, _)| bytes);
    folder.has_interface = interface.is_some();
    if folder.config.is_none() {
        let place = format!("{}{CONFIG}", folder.prefix);
        folder.findings.push(Finding::new(
            &rules::H_CONFIG_MISSING,
            place,
            "no adapter_config.json beside the weights",
        ));
    }
    match (whole, pickle) {
        (Some((bytes, path)), _) => {
            let read = weights::safetensors(&path, bytes, &rules::H_WEIGHTS_FILE);
            folder.take(path, read);
        }
        (None, Some((bytes, path))) => {
            folder.is_torch = true;
            let read = weights::torch(&path, bytes, &rules::H_WEIGHTS_FILE);
            folder.take(path, read);
        }
        (None, None) => {
            let message = "no adapter.safetensors or pytorch_adapter.bin beside the config";
            folder.findings.push(Finding::new(&rules::H_WEIGHTS_MISSING, folder.prefix.clone(), message));
        }
    }
    Ok(folder)
}
