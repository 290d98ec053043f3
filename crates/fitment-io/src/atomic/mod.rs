//! Output that appears whole or not at all: made beside its place under another name, made durable, then renamed.

mod place;
mod staging;

pub(crate) use place::Place;
pub(crate) use staging::Staging;

use crate::error::{Error, Result};
use crate::output::WriteBack;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Writes one file's content.
pub type WriteContent<'w> =
    dyn Fn(&mut dyn Write) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> + 'w;

/// One file of a folder to be written.
pub struct FolderFile<'w> {
    /// Path below the folder, with forward slashes.
    pub path: String,
    /// Bytes that will be written, for the check of free space.
    pub len: u64,
    /// Writes them.
    pub write: Box<WriteContent<'w>>,
}

/// Writes a file that appears whole or not at all. `len` is checked against the free space first; the output takes no
/// place of one of `inputs`.
///
/// # Errors
/// [`Error`]; then nothing is left behind, and what was there before still is.
pub fn write_file_atomic(
    target: &Path,
    len: u64,
    (force, inputs): (bool, &[&Path]),
    write: &WriteContent<'_>,
) -> Result<()> {
    let place = Place::file(target, force, inputs)?;
    place.check_space(len)?;
    let (staging, file) = Staging::file(place)?;
    write_content(staging.path(), file, write)?;
    staging.commit()
}

/// Bytes after which the disk is told to go on.
const STEP: u64 = 8 << 20;

/// Takes bytes that belong at a place in a file, from any thread.
pub type PieceSink<'s> = dyn Fn(u64, &[u8]) -> std::io::Result<()> + Sync + 's;

/// Writes one file's content, in pieces of any order.
pub type WritePieces<'w> =
    dyn Fn(&PieceSink<'_>) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> + 'w;

/// [`write_file_atomic`] of what is made piece by piece; the disk begins to write while pieces are still made.
///
/// # Errors
/// As [`write_file_atomic`].
pub fn write_pieces_atomic(
    target: &Path,
    len: u64,
    (force, inputs): (bool, &[&Path]),
    write: &WritePieces<'_>,
) -> Result<()> {
    let place = Place::file(target, force, inputs)?;
    place.check_space(len)?;
    let (staging, file) = Staging::file(place)?;
    let (file, write_back) = (Arc::new(file), WriteBack::start());
    let failure: OnceLock<std::io::Error> = OnceLock::new();
    let written = AtomicU64::new(0);
    let sink = |at: u64, bytes: &[u8]| {
        sys::write_at(&file, bytes, at).inspect_err(|error| {
            let same = error.raw_os_error().map(std::io::Error::from_raw_os_error);
            same.into_iter().for_each(|error| drop(failure.set(error)));
        })?;
        let before = written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before / STEP != (before + bytes.len() as u64) / STEP {
            write_back.request(&file);
        }
        Ok(())
    };
    if let Err(source) = write(&sink) {
        let path = staging.path();
        return Err(match failure.into_inner() {
            Some(failure) => Error::io(path, "write")(failure),
            None => Error::Source { path: path.to_owned(), source },
        });
    }
    file.sync_all().map_err(Error::io(staging.path(), "write"))?;
    staging.commit()
}

/// Writes a folder that appears whole or not at all, and takes no place of one of `inputs`.
///
/// # Errors
/// [`Error`]; then nothing is left behind, and what was there before still is.
pub fn write_folder_atomic(target: &Path, files: &[FolderFile<'_>], placing: (bool, &[&Path])) -> Result<()> {
    let written = files.iter().map(|file| file.path.as_str()).collect();
    let place = Place::folder(target, placing, &written)?;
    place.check_space(files.iter().map(|file| file.len).fold(0, u64::saturating_add))?;
    let staging = Staging::folder(place)?;
    for file in files {
        let path = below(staging.path(), &file.path)?;
        let opened = create_new(&path)?;
        write_content(&path, opened, &*file.write)?;
    }
    staging.commit()
}

fn write_content(path: &Path, file: File, write: &WriteContent<'_>) -> Result<()> {
    let (file, write_back) = (Arc::new(file), WriteBack::start());
    let remembering = Remembering { file: &file, write_back: &write_back, written: 0, failure: None };
    let mut out = BufWriter::with_capacity(1 << 20, remembering);
    if let Err(source) = write(&mut out) {
        return Err(match out.get_mut().failure.take() {
            Some(failure) => Error::io(path, "write")(failure),
            None => Error::Source { path: path.to_owned(), source },
        });
    }
    out.flush().map_err(Error::io(path, "write"))?;
    drop(out);
    file.sync_all().map_err(Error::io(path, "write"))
}

/// A file that keeps the reason why it took no more: the writer of a content wraps it in errors of its own, and a full disk
/// would no longer be told from content that cannot be made. The disk begins to write before it has all.
struct Remembering<'f> {
    file: &'f Arc<File>,
    write_back: &'f WriteBack,
    written: u64,
    failure: Option<std::io::Error>,
}

impl Write for Remembering<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // In steps, so that one large tensor does not come as a whole.
        let step = bytes.len().min(usize::try_from(STEP).unwrap_or(bytes.len()));
        let mut file = &**self.file;
        let written = file.write(&bytes[..step]);
        let failure = written.as_ref().err().filter(|error| error.kind() != std::io::ErrorKind::Interrupted);
        self.failure = failure.and_then(std::io::Error::raw_os_error).map(std::io::Error::from_raw_os_error);
        if let Ok(written) = &written {
            let before = self.written;
            self.written += *written as u64;
            if before / STEP != self.written / STEP {
                self.write_back.request(self.file);
            }
        }
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let mut file = &**self.file;
        file.flush()
    }
}

/// A path below a folder, whose own folders are made; refuses what would leave it.
pub(crate) fn below(folder: &Path, path: &str) -> Result<std::path::PathBuf> {
    let sound = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !sound || path.contains('\\') {
        return Err(Error::content(folder, format!("{path:?} is not a path inside the folder")));
    }
    let full = folder.join(path);
    let parent = full.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
    Ok(full)
}

pub(crate) fn create_new(path: &Path) -> Result<File> {
    let options = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    options.map_err(Error::io(path, "create"))
}
