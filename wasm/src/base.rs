//! A base of which only headers, or only names, are at hand.

use crate::error::{Result, error};
use fitment_core::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use fitment_core::container::{Profile, read_header};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use wasm_bindgen::prelude::wasm_bindgen;

/// What the headers, the index and the config of a base say.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Headers {
    config: Option<Map<String, Value>>,
    tensors: BTreeMap<String, TensorInfo>,
    /// What an index names beside them: tensors of which no shape is known.
    names: BTreeSet<String>,
}

#[wasm_bindgen]
impl Headers {
    /// A base without tensors.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the tensors of a safetensors file of `size` bytes, of which the first ones with the whole header are given.
    ///
    /// # Errors
    /// When the header breaks a rule of the container.
    #[wasm_bindgen(js_name = addHeader)]
    pub fn add_header(&mut self, path: &str, size: f64, prefix: &[u8]) -> Result<()> {
        let (container, _) = read_header(prefix, size as u64, Profile::Foreign)
            .map_err(|finding| error(&format!("{path}: {finding}"), None))?;
        for entry in container.entries() {
            let info = TensorInfo { dtype: entry.dtype, shape: entry.shape.clone() };
            self.tensors.insert(entry.name.clone(), info);
        }
        Ok(())
    }

    /// Adds `model.safetensors.index.json`, or `config.json`: whichever it is.
    ///
    /// # Errors
    /// When it is neither.
    #[wasm_bindgen(js_name = addJson)]
    pub fn add_json(&mut self, path: &str, text: &str) -> Result<()> {
        let value: Value =
            serde_json::from_str(text).map_err(|fault| error(&format!("{path}: {fault}"), None))?;
        let Value::Object(fields) = value else {
            return Err(error(&format!("{path}: not a JSON object"), None));
        };
        match fields.get("weight_map") {
            Some(Value::Object(map)) => self.names.extend(map.keys().cloned()),
            Some(_) => return Err(error(&format!("{path}: weight_map is not an object"), None)),
            None => self.config = Some(fields),
        }
        Ok(())
    }

    /// Whether shapes are known, and not only names.
    #[wasm_bindgen(getter, js_name = hasShapes)]
    #[must_use]
    pub fn has_shapes(&self) -> bool {
        !self.tensors.is_empty() && self.names.iter().all(|name| self.tensors.contains_key(name))
    }

    /// How many tensors there are.
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn count(&self) -> usize {
        self.all_names().len()
    }
}

impl Headers {
    /// Every tensor by name.
    pub(crate) fn all_names(&self) -> BTreeSet<&str> {
        self.names.iter().chain(self.tensors.keys()).map(String::as_str).collect()
    }
}

impl Checkpoint for Headers {
    fn config(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Values are not at hand. A tensor reads as its own name: no two are alike, and none is what an adapter holds, so that
    /// nothing is taken for a copy. Digests of it are never compared.
    fn read(&self, name: &str) -> std::result::Result<Cow<'_, [u8]>, CheckpointError> {
        let known = self.tensors.get_key_value(name);
        known.map(|(name, _)| name.as_bytes().into()).ok_or_else(|| CheckpointError::missing(name))
    }
}

/// Refuses formats that are changes of the values of a base: without those nothing can be said of them.
pub(crate) fn refuse_deltas(format: &str) -> Result<()> {
    match format {
        "slime" | "fastchat" | "trl" => Err(error(
            &format!("{format}: such an adapter is read beside the values of its base"),
            Some("`fitment validate ADAPTER --base BASE` checks the fit"),
        )),
        _ => Ok(()),
    }
}
