use super::write_back::WriteBack;
use crate::base::CheckpointDir;
use crate::error::{Error, Result};
use crate::sys;
use fitment_core::checkpoint::{CheckpointError, OutputTensor};
use fitment_core::container::{Entry, Layout};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a file after which the disk is set to work: enough for long writes, and little is left for the last sync.
const WRITE_BACK: u64 = 32 << 20;

/// A weight file before it is made.
#[derive(Debug, Default)]
pub(super) struct PlannedShard {
    /// Name in the folder, as the base's.
    pub(super) name: String,
    head: Vec<u8>,
    entries: Vec<Entry>,
    data_len: u64,
}

/// A weight file being written.
#[derive(Debug)]
pub(super) struct OutputShard {
    pub(super) name: String,
    pub(super) entries: Vec<Entry>,
    path: PathBuf,
    file: Arc<File>,
    data_start: u64,
    /// Bytes written so far.
    written: AtomicU64,
    write_back: WriteBack,
}

/// Puts every tensor in the file that holds its base tensor, or its nearest one; others in the last file. Files left
/// without tensors are dropped.
pub(super) fn assign(base: &CheckpointDir, tensors: &[&OutputTensor]) -> Vec<PlannedShard> {
    if base.is_gguf() {
        // transformers refuses a file that does not say so.
        return vec![planned("model.safetensors", [("format", "pt")].into_iter(), tensors.iter().copied())];
    }
    let last = base.shards.len().saturating_sub(1);
    let mut contents: Vec<Vec<&OutputTensor>> = vec![Vec::new(); base.shards.len()];
    for tensor in tensors {
        let shard = tensor.beside.as_deref().and_then(|name| base.shard_of(name)).unwrap_or(last);
        contents[shard].push(tensor);
    }
    let filled = base.shards.iter().zip(contents).filter(|(_, tensors)| !tensors.is_empty());
    let planned: Vec<PlannedShard> = filled
        .map(|(shard, tensors)| {
            let metadata = shard.metadata.iter().map(|(key, text)| (key.as_str(), text.as_str()));
            planned(&shard.name, metadata, tensors.into_iter())
        })
        .collect();
    if !planned.is_empty() {
        return planned;
    }
    // A base without tensors stays one.
    base.shards.first().map(|shard| empty_like(&shard.name, &shard.metadata)).into_iter().collect()
}

fn planned<'t>(
    name: &str,
    metadata: impl Iterator<Item = (&'t str, &'t str)>,
    tensors: impl Iterator<Item = &'t OutputTensor>,
) -> PlannedShard {
    let items = tensors.map(|tensor| (tensor.name.clone(), tensor.info.dtype, tensor.info.shape.clone()));
    let layout = Layout::canonical(metadata, items);
    let (head, entries, data_len) = (layout.head, layout.entries, layout.data_len);
    PlannedShard { name: name.to_owned(), head, entries, data_len }
}

fn empty_like(name: &str, metadata: &std::collections::BTreeMap<String, String>) -> PlannedShard {
    let metadata = metadata.iter().map(|(key, text)| (key.as_str(), text.as_str()));
    let layout = Layout::canonical(metadata, []);
    PlannedShard { name: name.to_owned(), head: layout.head, entries: layout.entries, data_len: 0 }
}

impl PlannedShard {
    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.data_len.saturating_add(self.head.len() as u64)
    }

    /// Gives the new file its length and writes its header.
    pub(super) fn open(self, path: PathBuf, file: File, write_back: WriteBack) -> Result<OutputShard> {
        sys::preallocate(&file, self.len()).map_err(Error::io(&path, "make room for"))?;
        sys::write_at(&file, &self.head, 0).map_err(Error::io(&path, "write"))?;
        let data_start = self.head.len() as u64;
        let (name, entries, file) = (self.name, self.entries, Arc::new(file));
        Ok(OutputShard { name, entries, path, file, data_start, written: AtomicU64::new(0), write_back })
    }
}

impl OutputShard {
    pub(super) fn write(
        &self,
        entry: usize,
        at: u64,
        bytes: &[u8],
    ) -> std::result::Result<(), CheckpointError> {
        let range = self.range(entry);
        let end = at.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > range.end - range.start) {
            return Err(self.failed(entry, "write beyond its end", None));
        }
        let at = range.start + at;
        sys::write_at(&self.file, bytes, at)
            .map_err(|source| self.failed(entry, "cannot write", Some(source)))?;
        self.count(bytes.len() as u64);
        Ok(())
    }

    pub(super) fn copy(
        &self,
        entry: usize,
        source: &File,
        from: Range<u64>,
    ) -> std::result::Result<(), CheckpointError> {
        let range = self.range(entry);
        let len = from.end - from.start;
        if len != range.end - range.start {
            return Err(self.failed(entry, "is not as long as what is copied into it", None));
        }
        let mut done = 0;
        while done < len {
            let piece = WRITE_BACK.min(len - done);
            sys::copy_range(source, from.start + done, &self.file, range.start + done, piece)
                .map_err(|source| self.failed(entry, "cannot copy", Some(source)))?;
            self.count(piece);
            done += piece;
        }
        Ok(())
    }

    /// Every so many bytes the disk is set to work.
    fn count(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / WRITE_BACK != (before + bytes) / WRITE_BACK {
            self.write_back.request(&self.file);
        }
    }

    fn range(&self, entry: usize) -> Range<u64> {
        let entry = &self.entries[entry];
        self.data_start + entry.start..self.data_start + entry.end
    }

    fn failed(&self, entry: usize, reason: &str, source: Option<std::io::Error>) -> CheckpointError {
        let name = self.entries[entry].name.clone();
        CheckpointError { name, reason: format!("{}: {reason}", self.path.display()), source }
    }
}

/// Makes all files durable, at the same time: the disk orders the work better than a loop.
pub(super) fn sync_all(shards: &[OutputShard]) -> Result<()> {
    std::thread::scope(|scope| {
        let syncs: Vec<_> =
            shards.iter().map(|shard| (shard, scope.spawn(|| shard.file.sync_all()))).collect();
        for (shard, sync) in syncs {
            let result = sync.join().expect("a sync does not panic");
            result.map_err(Error::io(&shard.path, "write"))?;
        }
        Ok(())
    })
}
