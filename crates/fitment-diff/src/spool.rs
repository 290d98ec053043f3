use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Where encoded tensors are put aside until all are known: a file, or memory. From several threads.
pub trait Spool: Sync {
    /// Keeps bytes; gives where they lie.
    ///
    /// # Errors
    /// When the file cannot take them.
    fn put(&self, bytes: &[u8]) -> std::io::Result<Range<u64>>;
}

/// A spool in memory.
#[derive(Debug, Default)]
pub struct MemorySpool(Mutex<Vec<u8>>);

impl MemorySpool {
    /// All that was kept.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool for MemorySpool {
    fn put(&self, bytes: &[u8]) -> std::io::Result<Range<u64>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.len() as u64;
        kept.extend_from_slice(bytes);
        Ok(start..kept.len() as u64)
    }
}
