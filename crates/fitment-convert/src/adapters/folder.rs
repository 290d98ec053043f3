//! Which adapter of a folder is meant, and its files.

use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::several;
use fitment_core::container::{Profile, read_header};
use fitment_core::tensor::Tensor;
use fitment_core::{Finding, json};
use fitment_torch::TorchFile;
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
        (Some((bytes, path)), _) => read_container(&mut folder, path, bytes),
        (None, Some((bytes, path))) => read_torch(&mut folder, path, bytes),
        (None, None) => {
            let message = "no adapter.safetensors or pytorch_adapter.bin beside the config";
            folder.findings.push(Finding::new(&rules::H_WEIGHTS_MISSING, folder.prefix.clone(), message));
        }
    }
    Ok(folder)
}

/// Reads a torch file: as data, nothing in it is run.
fn read_torch<'a>(folder: &mut Folder<'a>, path: String, bytes: &'a [u8]) {
    folder.is_torch = true;
    match TorchFile::read(&path, bytes).and_then(|file| file.state_dict()) {
        Err(error) => folder.findings.extend(error.findings()),
        Ok(state) => {
            if let Some(name) = state.others.first().map(String::as_str).or_else(|| state.nested()) {
                let message =
                    "lies in a dict inside the dict, or is no tensor: a flat dict of tensors is expected";
                folder.findings.push(Finding::new(&rules::H_WEIGHTS_FILE, name, message));
            }
            folder.tensors.extend(state.tensors.into_iter().map(|named| (named.name, named.tensor)));
        }
    }
    folder.weights = Some(path);
}

fn read_container<'a>(folder: &mut Folder<'a>, path: String, bytes: &'a [u8]) {
    match read_header(bytes, bytes.len() as u64, Profile::Foreign) {
        Err(_) if bytes.starts_with(b"version https://git-lfs") => {
            let message = "is a git-lfs pointer, not the file: run `git lfs pull`";
            folder.findings.push(Finding::new(&rules::H_WEIGHTS_FILE, &*path, message));
        }
        Err(finding) => {
            let place = [&*path, &finding.place].join(if finding.place.is_empty() { "" } else { ": " });
            folder.findings.push(Finding { place, ..finding });
        }
        Ok((container, findings)) => {
            folder.findings.extend(findings);
            if let Some(Value::Object(metadata)) = container.metadata() {
                let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
                folder.metadata.extend(metadata.iter().filter_map(text));
            }
            for entry in container.entries() {
                let data = bytes.get(container.data_range(entry)).unwrap_or_default();
                match Tensor::borrowed(entry.dtype, entry.shape.clone(), data) {
                    Ok(tensor) => folder.tensors.push((entry.name.clone(), tensor)),
                    Err(fault) => folder.findings.push(Finding::new(
                        &rules::H_WEIGHTS_FILE,
                        &entry.name,
                        fault.to_string(),
                    )),
                }
            }
        }
    }
    folder.weights = Some(path);
}
