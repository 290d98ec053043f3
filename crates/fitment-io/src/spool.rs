use crate::error::{Error, Result};
use crate::file;
use memmap2::Mmap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes put aside in a file without a name, beside an output that is not yet known as a whole. It is gone when this
/// program ends, however it ends.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    file: Mutex<(File, u64)>,
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
        Ok(Self { folder: folder.to_owned(), file: Mutex::new((file, 0)) })
    }

    /// Keeps bytes; gives where they lie. From any thread.
    ///
    /// # Errors
    /// When the disk is full, or does not work.
    pub fn put(&self, bytes: &[u8]) -> std::io::Result<Range<u64>> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, len) = &mut *held;
        file.write_all(bytes)?;
        let start = *len;
        *len += bytes.len() as u64;
        Ok(start..*len)
    }

    /// All that was kept, as a map.
    ///
    /// # Errors
    /// When the file cannot be mapped.
    pub fn finish(self) -> Result<Spooled> {
        let (file, len) = self.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        // An empty file cannot be mapped.
        let map = if len == 0 { None } else { Some(file::map(&self.folder, &file)?) };
        Ok(Spooled(map))
    }
}

/// What a [`Spool`] kept.
#[derive(Debug)]
pub struct Spooled(Option<Mmap>);

impl Spooled {
    /// The bytes, in the order in which they came.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
