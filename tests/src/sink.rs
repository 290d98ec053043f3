//! A checkpoint that is written into memory.

use fitment_core::checkpoint::{Checkpoint, CheckpointError, CheckpointSink};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// Keeps what is written, in whatever pieces it comes.
pub struct Sink<'b> {
    base: &'b dyn Checkpoint,
    written: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl<'b> Sink<'b> {
    /// An empty one; what is copied comes from `base`.
    pub fn new(base: &'b dyn Checkpoint) -> Self {
        Self { base, written: Mutex::default() }
    }

    /// Bytes by tensor.
    ///
    /// # Panics
    /// If a writer panicked.
    pub fn into_written(self) -> BTreeMap<String, Vec<u8>> {
        self.written.into_inner().expect("no writer panicked")
    }
}

impl CheckpointSink for Sink<'_> {
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let at = usize::try_from(at).expect("it lies in memory");
        let mut written = self.written.lock().expect("no writer panicked");
        let room = written.entry(name.to_owned()).or_default();
        room.resize(room.len().max(at + bytes.len()), 0);
        room[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn copy(&self, name: &str, from: &str) -> Result<(), CheckpointError> {
        self.write(name, 0, &self.base.read(from)?)
    }
}
