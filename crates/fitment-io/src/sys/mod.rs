//! What the standard library lacks: free space, preallocation, copies inside the kernel, locks, renames that never
//! replace or that exchange. Where the system has none of it, the portable way stands in.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    copy_range, exchange, free_space, preallocate, rename_new, start_write_back, try_lock,
};
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{
    copy_range, exchange, free_space, preallocate, rename_new, start_write_back, try_lock,
};

use std::fs::File;
use std::io;
use std::path::Path;

/// Whether a lock was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Nobody else has it.
    Taken,
    /// A living process has it.
    Held,
    /// The file system has no locks.
    Unknown,
}

/// Reads exactly `bytes.len()` bytes at an offset.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        let (mut bytes, mut offset) = (bytes, offset);
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    bytes = &mut bytes[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }
}

/// Writes all of `bytes` at an offset.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        let (mut bytes, mut offset) = (bytes, offset);
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(file, bytes, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
            }
        }
        Ok(())
    }
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows has no such call: a folder cannot be opened as a file there, and renames are journalled.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Copies a range through memory.
pub(crate) fn copy_through_memory(from: &File, at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    const PIECE: u64 = 4 << 20;
    let mut piece = vec![0; usize::try_from(len.min(PIECE)).expect("a piece fits in memory")];
    let mut done = 0;
    while done < len {
        let size = usize::try_from((len - done).min(PIECE)).expect("a piece fits in memory");
        read_at(from, &mut piece[..size], at + done)?;
        write_at(to, &piece[..size], to_at + done)?;
        done += size as u64;
    }
    Ok(())
}
