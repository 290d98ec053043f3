//! A GGUF file as a base: its header is understood by `fitment-convert`, its bytes are mapped here.

use crate::error::{Error, Result};
use crate::file::{self, Blob};
use fitment_convert::gguf::Model;
use fitment_core::checkpoint::CheckpointError;
use std::borrow::Cow;
use std::io::Read as _;
use std::path::Path;

/// A model's file.
#[derive(Debug)]
pub(crate) struct ModelFile {
    blob: Blob,
    pub(super) model: Model,
}

/// Whether a file begins as GGUF does.
pub(super) fn is_gguf(path: &Path) -> Result<bool> {
    let (file, _) = file::open(path)?;
    let mut start = Vec::new();
    file.take(4).read_to_end(&mut start).map_err(Error::io(path, "read"))?;
    Ok(start == b"GGUF")
}

impl ModelFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let blob = file::load(path)?;
        let bytes = blob.as_slice();
        let model = Model::read(bytes, bytes.len() as u64)
            .map_err(|source| Error::Model { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { blob, model })
    }

    /// A tensor as transformers has it.
    pub(super) fn read(&self, name: &str) -> std::result::Result<Cow<'_, [u8]>, CheckpointError> {
        let range = self.model.range(name).ok_or_else(|| CheckpointError::missing(name))?;
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let bytes = part.and_then(|(start, end)| self.blob.as_slice().get(start..end));
        self.model.decode(name, bytes.ok_or_else(|| CheckpointError::missing(name))?)
    }
}
