use crate::error::{Error, Result};
use crate::file;
use fitment_core::json;
use fitment_core::limits::MAX_FOREIGN_HEADER_BYTES;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// `NAME.safetensors.index.json`: which tensor lies in which file.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// The index's own file name.
    pub(crate) name: String,
    /// `metadata` as it stands.
    pub(crate) metadata: Map<String, Value>,
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index; every file in it must lie in its folder.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let bytes = file::read_small(&path, MAX_FOREIGN_HEADER_BYTES)?;
        let fault = |message: String| Error::content(&path, message);
        let value = json::parse(&bytes).map_err(|fault| Error::Json { path: path.clone(), fault })?;
        let metadata = value.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        let map = value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| fault("has no `weight_map` object".to_owned()))?;
        let mut weight_map = BTreeMap::new();
        for (tensor, file) in map {
            let file =
                file.as_str().ok_or_else(|| fault(format!("the file of {tensor:?} is not a string")))?;
            if !stays_inside(file) {
                return Err(fault(format!("{tensor:?} lies in {file:?}, outside the folder")));
            }
            if !file.ends_with(".safetensors") {
                return Err(fault(format!("{tensor:?} lies in {file:?}, which is not a safetensors file")));
            }
            weight_map.insert(tensor.clone(), file.to_owned());
        }
        Ok(Self { name: name.to_owned(), metadata, weight_map })
    }

    /// Tensors and files.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.weight_map.iter().map(|(tensor, file)| (tensor.as_str(), file.as_str()))
    }
}

fn stays_inside(file: &str) -> bool {
    let path = Path::new(file);
    !file.is_empty()
        && !file.contains('\\')
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}
