//! What a conversion gives.

use crate::error::{self, Result};
use fitment_convert::{Converted, Files, FormatId, ReadOptions, WriteOptions, read, write};
use serde_json::{Value, json};
use wasm_bindgen::prelude::wasm_bindgen;

/// The files of a conversion, and what they lack.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Output {
    losses: Vec<Value>,
    files: Vec<(String, Vec<u8>)>,
}

impl Output {
    /// Reads files and writes them in a format.
    pub(crate) fn read(files: &Files<'_>, to: FormatId, options: &ReadOptions<'_>) -> Result<Self> {
        Self::write(&read(files, options).map_err(|failed| error::of_convert(&failed))?, to)
    }

    /// Writes an adapter in a format.
    pub(crate) fn write(converted: &Converted<'_>, to: FormatId) -> Result<Self> {
        let failed = |failed: fitment_convert::Error| error::of_convert(&failed);
        let written = write(&converted.adapter, to, &WriteOptions::default()).map_err(failed)?;
        let losses = converted.losses.iter().chain(&written.losses).map(loss).collect();
        let mut files = Vec::with_capacity(written.files.len());
        for file in &written.files {
            let mut bytes = Vec::with_capacity(usize::try_from(file.byte_len()).unwrap_or(0));
            file.write_to(&mut bytes).map_err(failed)?;
            files.push((file.path.clone(), bytes));
        }
        Ok(Self { losses, files })
    }
}

/// A loss, as the JSON of `fitment convert` has it.
pub(crate) fn loss(loss: &fitment_convert::Loss) -> Value {
    json!({"id": loss.id(), "changes_function": loss.changes_function(), "message": loss.to_string()})
}

#[wasm_bindgen]
impl Output {
    /// What was dropped or assumed: `[{id, changes_function, message}]`.
    #[must_use]
    pub fn losses(&self) -> String {
        json!(self.losses).to_string()
    }

    /// The files: `[{path, size}]`.
    #[must_use]
    pub fn files(&self) -> String {
        let line = |(path, bytes): &(String, Vec<u8>)| json!({"path": path, "size": bytes.len()});
        json!(self.files.iter().map(line).collect::<Vec<_>>()).to_string()
    }

    /// The bytes of one file, which are then no longer here.
    #[must_use]
    pub fn take(&mut self, index: usize) -> Option<Vec<u8>> {
        self.files.get_mut(index).map(|(_, bytes)| std::mem::take(bytes))
    }
}
