use super::{Lock, copy_through_memory};
use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) fn free_space(_folder: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)
}

pub(crate) fn copy_range(from: &File, at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    copy_through_memory(from, at, to, to_at, len)
}

pub(crate) fn start_write_back(_file: &File) {}

pub(crate) fn try_lock(_file: &File) -> Lock {
    Lock::Unknown
}

pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}

pub(crate) fn exchange(_a: &Path, _b: &Path) -> io::Result<bool> {
    Ok(false)
}
