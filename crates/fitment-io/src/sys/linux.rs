use super::{Lock, copy_through_memory};
use rustix::fs::{self, CWD, FallocateFlags, FlockOperation, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Bytes that this user may still write on the file system of a folder.
pub(crate) fn free_space(folder: &Path) -> io::Result<Option<u64>> {
    let stat = fs::statvfs(folder)?;
    Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Gives the file its length, with blocks behind it where the file system can.
pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len),
        Err(error) => Err(error.into()),
    }
}

/// Copies a range inside the kernel.
pub(crate) fn copy_range(from: &File, at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    let (mut done, mut source, mut target) = (0, at, to_at);
    while done < len {
        let piece = usize::try_from(len - done).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => done += copied as u64,
            Err(Errno::INTR) => {}
            // Other file systems, or none that can.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_through_memory(from, at + done, to, to_at + done, len - done);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Starts writing to the disk what the file has in memory. Waits only while the disk's queue is full.
#[allow(unsafe_code, reason = "rustix has no sync_file_range")]
pub(crate) fn start_write_back(file: &File) {
    let (start, to_the_end) = (0, 0);
    // SAFETY: the call takes no pointers; the descriptor is open as long as `file` is borrowed. A failure only makes
    // the last sync longer, which reports errors of its own.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, to_the_end, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Tries to lock a file or folder for this process, until it is closed.
pub(crate) fn try_lock(file: &File) -> Lock {
    match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Taken,
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unknown,
    }
}

/// Renames to a name that must not exist.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        result => result.map_err(io::Error::from),
    }
}

/// Lets two paths change places in one step; `false` where the file system cannot.
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    match fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
