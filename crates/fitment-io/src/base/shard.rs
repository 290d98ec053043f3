use super::Access;
use crate::error::{Error, Result};
use crate::{file, sys};
use fitment_core::checkpoint::CheckpointError;
use fitment_core::container::{self, Container, Profile};
use fitment_core::finding::Severity;
use fitment_core::limits::MAX_FOREIGN_HEADER_BYTES;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One safetensors file of a checkpoint.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Path below the checkpoint's folder, as the index has it.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) container: Container,
    /// `__metadata__`.
    pub(crate) metadata: BTreeMap<String, String>,
    map: Option<Mmap>,
}

impl Shard {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path, name: &str, access: Access) -> Result<Self> {
        let (file, len) = file::open(path)?;
        file::refuse_pointer(path, &file, len)?;
        let prefix = read_prefix(&file, len).map_err(Error::io(path, "read"))?;
        let malformed = |first| Error::Container {
            path: path.to_owned(),
            source: fitment_core::Error::Malformed { first: Box::new(first), more: 0 },
        };
        let (container, findings) =
            container::read_header(&prefix, len, Profile::Foreign).map_err(malformed)?;
        if let Some(first) = findings.into_iter().find(|finding| finding.severity == Severity::Error) {
            return Err(malformed(first));
        }
        let metadata = metadata_of(&container);
        if metadata.contains_key("fitment") {
            let message = "is a Fitment adapter, not a base checkpoint";
            return Err(Error::NotABase { path: path.to_owned(), message });
        }
        let map = match access {
            Access::Map => Some(file::map(path, &file)?),
            Access::Read => None,
        };
        Ok(Self { name: name.to_owned(), path: path.to_owned(), file, container, metadata, map })
    }

    /// Where an entry's bytes lie in the file.
    pub(crate) fn range(&self, entry: usize) -> Range<u64> {
        let (start, entry) = (self.container.data_start(), &self.container.entries()[entry]);
        start.saturating_add(entry.start)..start.saturating_add(entry.end)
    }

    pub(crate) fn read(&self, entry: usize) -> std::result::Result<Cow<'_, [u8]>, CheckpointError> {
        let failed = |reason: &str, source| CheckpointError {
            name: self.container.entries()[entry].name.clone(),
            reason: format!("{}: {reason}", self.path.display()),
            source,
        };
        let range = self.range(entry);
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return Err(failed("larger than this machine's memory", None));
        };
        match &self.map {
            Some(map) => {
                map.get(start..end).map(Cow::Borrowed).ok_or_else(|| failed("shorter than it was", None))
            }
            None => {
                let mut bytes = vec![0; end - start];
                sys::read_at(&self.file, &mut bytes, range.start)
                    .map_err(|source| failed("cannot read", Some(source)))?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// Length field and header; less when the length lies, which the header's reader reports.
fn read_prefix(file: &File, len: u64) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 8];
    if len < 8 {
        return Ok(Vec::new());
    }
    sys::read_at(file, &mut length, 0)?;
    let header = container::header_len(length);
    let wanted = if header <= MAX_FOREIGN_HEADER_BYTES { (8 + header).min(len) } else { 8 };
    let mut prefix = vec![0; usize::try_from(wanted).expect("a header fits in memory")];
    sys::read_at(file, &mut prefix, 0)?;
    Ok(prefix)
}

fn metadata_of(container: &Container) -> BTreeMap<String, String> {
    let fields = container.metadata().and_then(|metadata| metadata.as_object());
    let text = |(key, value): (&String, &serde_json::Value)| Some((key.clone(), value.as_str()?.to_owned()));
    fields.into_iter().flatten().filter_map(text).collect()
}
