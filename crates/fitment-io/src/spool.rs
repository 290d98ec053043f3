use crate::error::{Error, Result};
use crate::{file, sys};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes put aside in a file without a name, beside an output that is not yet known as a whole. It is gone when this
/// program ends, however it ends.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    file: File,
    reserved: AtomicU64,
}

impl Spool {
    /// A spool in the folder of an output.
    ///
    /// # Errors
    /// When no file can be created there.
    pub fn beside(output: &Path) -> Result<Self> {
        let folder =
            output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::tempfile_in(folder).map_err(Error::io(folder, "create a temporary in"))?;
        Ok(Self { folder: folder.to_owned(), file, reserved: AtomicU64::new(0) })
    }

    /// Room for so many bytes in one piece, from any thread. It takes space on the disk as it is written, and none where it
    /// is not.
    pub fn reserve(&self, len: u64) -> Range<u64> {
        let start = self.reserved.fetch_add(len, Ordering::Relaxed);
        start..start.saturating_add(len)
    }

    /// Writes bytes into reserved room, from a place in the spool on. From any thread.
    ///
    /// # Errors
    /// When the disk is full, or does not work.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        sys::write_at(&self.file, bytes, at)
    }

    /// All that was kept, as a map.
    ///
    /// # Errors
    /// When the file cannot be mapped.
    pub fn finish(self) -> Result<Spooled> {
        let len = self.reserved.into_inner();
        // An empty file cannot be mapped.
        if len == 0 {
            return Ok(Spooled(None));
        }
        // The last room may be one that was not written.
        self.file.set_len(len).map_err(Error::io(&self.folder, "create a temporary in"))?;
        Ok(Spooled(Some(file::map(&self.folder, &self.file)?)))
    }
}

/// What a [`Spool`] kept.
#[derive(Debug)]
pub struct Spooled(Option<Mmap>);

impl Spooled {
    /// The bytes, each where its room was reserved.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
