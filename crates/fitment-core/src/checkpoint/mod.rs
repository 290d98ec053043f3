//! Where a base checkpoint's bytes come from and where a new one's go: two narrow traits, implemented over files by
//! `fitment-io` and over memory in tests and in the browser.

mod nearest;
pub mod quantised;

pub use nearest::Names;

use crate::tensor::{Dtype, Shape};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// Dtype and shape of a checkpoint's tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub shape: Shape,
}

/// A tensor of a checkpoint to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTensor {
    /// Its name.
    pub name: String,
    /// Dtype and shape.
    pub info: TensorInfo,
    /// The base tensor in whose file it belongs; `None` when no base tensor is near: the last file.
    pub beside: Option<String>,
}

/// A base checkpoint: names, dtypes and shapes at hand, bytes on demand.
pub trait Checkpoint: Sync {
    /// The model's `config.json`, when there is one.
    fn config(&self) -> Option<&Map<String, Value>>;

    /// Every tensor, by name.
    fn tensors(&self) -> &BTreeMap<String, TensorInfo>;

    /// The bytes of one tensor: all of them, row-major, little-endian.
    ///
    /// # Errors
    /// [`CheckpointError`] when there is no such tensor or it cannot be read.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError>;

    /// The name of the type of a tensor that is stored in blocks of quantised numbers: what is read of it is F32, and nothing can be written so.
    fn quantised(&self, _name: &str) -> Option<&'static str> {
        None
    }
}

/// A checkpoint being written. Tensors may be written in any order, in pieces, from several threads.
pub trait CheckpointSink: Sync {
    /// Writes bytes of one tensor, `at` bytes behind its start.
    ///
    /// # Errors
    /// [`CheckpointError`] when the sink cannot take them.
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> Result<(), CheckpointError>;

    /// Copies a tensor of the base that nobody changed, without decoding it.
    ///
    /// # Errors
    /// [`CheckpointError`] when it cannot be read or written.
    fn copy(&self, name: &str, from: &str) -> Result<(), CheckpointError>;
}

/// A tensor could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct CheckpointError {
    /// The tensor.
    pub name: String,
    /// What went wrong.
    pub reason: String,
    /// The system's own error, when there is one.
    #[source]
    pub source: Option<std::io::Error>,
}

impl CheckpointError {
    /// There is no tensor of that name.
    pub fn missing(name: &str) -> Self {
        Self { name: name.to_owned(), reason: "the checkpoint has no such tensor".to_owned(), source: None }
    }
}

/// A checkpoint in memory, over one safetensors buffer.
#[derive(Debug)]
pub struct MemoryCheckpoint<'a> {
    config: Option<Map<String, Value>>,
    tensors: BTreeMap<String, TensorInfo>,
    ranges: BTreeMap<String, Range<usize>>,
    bytes: &'a [u8],
}

impl<'a> MemoryCheckpoint<'a> {
    /// Reads the header of a safetensors buffer.
    ///
    /// # Errors
    /// [`crate::Error::Malformed`] when the container is broken.
    pub fn new(bytes: &'a [u8], config: Option<Map<String, Value>>) -> Result<Self, crate::Error> {
        let container = crate::container::read_foreign(bytes)?;
        let mut tensors = BTreeMap::new();
        let mut ranges = BTreeMap::new();
        for entry in container.entries() {
            let info = TensorInfo { dtype: entry.dtype, shape: entry.shape.clone() };
            tensors.insert(entry.name.clone(), info);
            ranges.insert(entry.name.clone(), container.data_range(entry));
        }
        Ok(Self { config, tensors, ranges, bytes })
    }
}

impl Checkpoint for MemoryCheckpoint<'_> {
    fn config(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let range = self.ranges.get(name).ok_or_else(|| CheckpointError::missing(name))?;
        Ok(Cow::Borrowed(&self.bytes[range.clone()]))
    }
}
