//! Opening files with the checks that every one needs.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

/// Files up to this size are read instead of mapped: a copy is cheaper than page faults.
const SMALL: u64 = 256 * 1024;

/// Longest git-lfs pointer; the spec of git-lfs asks for less than 1024 bytes.
const MAX_POINTER: u64 = 1024;

const POINTER_START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The bytes of a file, mapped or read.
#[derive(Debug)]
pub(crate) enum Blob {
    Map(Mmap),
    Read(Vec<u8>),
}

impl Blob {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Blob::Map(map) => map,
            Blob::Read(bytes) => bytes,
        }
    }
}

/// What a path is, symbolic links followed.
pub(crate) fn stat(path: &Path) -> Result<Metadata> {
    std::fs::metadata(path).map_err(Error::io(path, "open"))
}

/// Opens a regular file for reading; anything else is refused before it is opened, for opening a pipe may wait for
/// ever.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let kind = stat(path)?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "a pipe or device" };
        return Err(Error::WrongKind { path: path.to_owned(), found, expected: "a file" });
    }
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let len = file.metadata().map_err(Error::io(path, "open"))?.len();
    Ok((file, len))
}

/// Refuses a git-lfs pointer. The file stays where it stands.
pub(crate) fn refuse_pointer(path: &Path, file: &File, len: u64) -> Result<()> {
    if !(POINTER_START.len() as u64..=MAX_POINTER).contains(&len) {
        return Ok(());
    }
    let mut start = [0; POINTER_START.len()];
    crate::sys::read_at(file, &mut start, 0).map_err(Error::io(path, "read"))?;
    if start == POINTER_START {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
    Ok(())
}

/// A whole file: small ones read, others mapped.
pub(crate) fn load(path: &Path) -> Result<Blob> {
    let (mut file, len) = open(path)?;
    if len <= SMALL {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
        return Ok(Blob::Read(bytes));
    }
    map(path, &file).map(Blob::Map)
}

/// Maps a file for reading.
#[allow(unsafe_code, reason = "the one map of the workspace")]
pub(crate) fn map(path: &Path, file: &File) -> Result<Mmap> {
    // SAFETY: the map is private and read-only, and this program never writes to a file that it reads: outputs are new
    // files. If another process truncates the file, touching a lost page ends this program with SIGBUS; if it writes,
    // other numbers are read, which the digests of a bound adapter catch. Neither breaks memory safety of this program:
    // all values are read as plain bytes, for which every bit pattern is valid.
    unsafe { Mmap::map(file) }.map_err(Error::io(path, "map"))
}

/// A whole file of at most `limit` bytes, read.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (mut file, len) = open(path)?;
    refuse_pointer(path, &file, len)?;
    if len > limit {
        return Err(Error::content(path, format!("{len} bytes, expected at most {limit}")));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    Ok(bytes)
}
