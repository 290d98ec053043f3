use super::{Place, create_new};
use crate::error::{Error, Result};
use crate::sys::{self, Lock};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How often a free name is looked for before something else must be wrong.
const ATTEMPTS: u32 = 1000;

/// Longest part of the target's name in a temporary's: file systems take 255 bytes.
const MAX_NAME: usize = 180;

/// An output under its temporary name, beside its place. Dropped without [`Staging::commit`], it disappears.
///
/// The temporary is locked as long as its process lives. A later run removes temporaries of the same target whose lock
/// is free: those of processes that were killed.
#[derive(Debug)]
pub(crate) struct Staging {
    place: Place,
    path: PathBuf,
    /// The temporary itself, open: holds the lock.
    lock: Option<File>,
    is_folder: bool,
    committed: bool,
}

impl Staging {
    /// A file to be written through the handle.
    pub(crate) fn file(place: Place) -> Result<(Self, File)> {
        let staging = Self::new(place, |path| create_new(path).map(Some))?;
        let file = staging.lock.as_ref().expect("a file was created").try_clone();
        let file = file.map_err(Error::io(&staging.path, "open"))?;
        Ok((staging, file))
    }

    /// An empty folder.
    pub(crate) fn folder(place: Place) -> Result<Self> {
        Self::new(place, |path| {
            std::fs::create_dir(path).map_err(Error::io(path, "create"))?;
            // Where folders cannot be opened they cannot be locked.
            Ok(File::open(path).ok())
        })
    }

    fn new(place: Place, make: impl Fn(&Path) -> Result<Option<File>>) -> Result<Self> {
        remove_stale(&place);
        let prefix = prefix(&place.name);
        let process = std::process::id();
        for attempt in 0..ATTEMPTS {
            let mut name = prefix.clone();
            name.push(format!("{process}-{attempt}"));
            let path = place.parent.join(name);
            match make(&path) {
                Ok(lock) => {
                    // Another process may have taken it for stale before it was locked, and removed it.
                    let held = lock.as_ref().is_some_and(|file| sys::try_lock(file) == Lock::Held);
                    if !held && path.symlink_metadata().is_ok() {
                        let is_folder = path.is_dir();
                        return Ok(Self { place, path, lock, is_folder, committed: false });
                    }
                }
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let reason = "no free name for a temporary beside it";
        Err(Error::BadOutput { path: place.target.clone(), reason })
    }

    /// The temporary's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the output in its place. Its files must be durable already; the folders are made so here.
    ///
    /// # Errors
    /// [`Error::Exists`] when something appeared there meanwhile; [`Error::Io`].
    pub(crate) fn commit(mut self) -> Result<()> {
        if self.is_folder {
            sync_folders(&self.path)?;
        }
        let target = self.place.target.clone();
        if self.place.replaces {
            self.replace(&target)?;
        } else {
            sys::rename_new(&self.path, &target).map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => Error::Exists { path: target.clone() },
                _ => Error::io(&target, "create")(source),
            })?;
        }
        self.committed = true;
        sys::sync_folder(&self.place.parent).map_err(Error::io(&self.place.parent, "write"))
    }

    fn replace(&mut self, target: &Path) -> Result<()> {
        let failed = |source| Error::Io { path: target.to_owned(), action: "replace", source };
        if !self.is_folder {
            return std::fs::rename(&self.path, target).map_err(failed);
        }
        if sys::exchange(&self.path, target).map_err(failed)? {
            // The old output has the temporary's name now: should this process die here, a later run removes it.
            remove(&self.path);
            return Ok(());
        }
        let mut name = prefix(&self.place.name);
        name.push(format!("{}-old", std::process::id()));
        let old = self.place.parent.join(name);
        std::fs::rename(target, &old).map_err(failed)?;
        if let Err(source) = std::fs::rename(&self.path, target) {
            let back = std::fs::rename(&old, target);
            return Err(failed(back.err().unwrap_or(source)));
        }
        remove(&old);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            remove(&self.path);
        }
    }
}

fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    // A name cut inside a character would not be one: long names that are not ASCII lose all of that character.
    let text = name.to_string_lossy();
    let cut = (0..=MAX_NAME).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    prefix.push(if text.len() <= MAX_NAME { name } else { OsStr::new(&text[..cut]) });
    prefix.push(".partial-");
    prefix
}

/// Removes temporaries of this target that no living process holds.
fn remove_stale(place: &Place) {
    let prefix = prefix(&place.name);
    let Ok(entries) = std::fs::read_dir(&place.parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes()) else { continue };
        let number = rest.strip_suffix(b"-old").unwrap_or(rest);
        if !number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
            continue;
        }
        let path = entry.path();
        let is_ours = entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_file());
        if is_ours && File::open(&path).is_ok_and(|file| sys::try_lock(&file) == Lock::Taken) {
            remove(&path);
        }
    }
}

/// Best effort: what cannot be removed is hidden, named after its target, and removed by a later run.
fn remove(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let _ = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

fn sync_folders(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_folders(&entry.path())?;
        }
    }
    sys::sync_folder(folder).map_err(Error::io(folder, "write"))
}
