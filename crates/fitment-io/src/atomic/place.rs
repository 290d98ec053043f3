use crate::error::{Error, Result};
use crate::sys;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where an output goes, once it is known that it may go there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) target: PathBuf,
    pub(crate) parent: PathBuf,
    pub(crate) name: OsString,
    /// Something is there and is to be replaced.
    pub(crate) replaces: bool,
}

impl Place {
    /// A place for a file.
    ///
    /// # Errors
    /// As [`Place::folder`]; a file never replaces a folder.
    pub(crate) fn file(target: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        let place = Self::new(target, force, inputs)?;
        if place.replaces && target.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let (found, expected) = ("a folder", "a file to replace");
            return Err(Error::WrongKind { path: target.to_owned(), found, expected });
        }
        Ok(place)
    }

    /// A place for a folder.
    ///
    /// # Errors
    /// [`Error`] when something is there and `force` is not given, when what is there is no model's or adapter's
    /// folder, when the output would lie in an input or contain one, or when there is no folder to put it in.
    pub(crate) fn folder(target: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        let place = Self::new(target, force, inputs)?;
        if place.replaces {
            let meta = target.symlink_metadata().map_err(Error::io(target, "open"))?;
            if meta.is_file() {
                let (found, expected) = ("a file", "a folder to replace");
                return Err(Error::WrongKind { path: target.to_owned(), found, expected });
            }
            if meta.is_dir() && !is_replaceable(target)? {
                let reason = "is not replaced: it holds other things than a model or an adapter";
                return Err(Error::BadOutput { path: target.to_owned(), reason });
            }
        }
        Ok(place)
    }

    fn new(target: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        let bad = |reason| Error::BadOutput { path: target.to_owned(), reason };
        // `a/..` and `/` have no last part of their own.
        let name = target.file_name().ok_or_else(|| bad("is not a name for an output"))?.to_owned();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !parent.is_dir() {
            return Err(bad("the folder that it should go in does not exist"));
        }
        let replaces = target.symlink_metadata().is_ok();
        let real = parent.canonicalize().map_err(Error::io(&parent, "open"))?.join(&name);
        let resolved =
            if replaces { target.canonicalize().unwrap_or_else(|_| real.clone()) } else { real.clone() };
        for input in inputs {
            let Ok(input) = input.canonicalize() else { continue };
            if real == input || resolved == input {
                return Err(bad("is an input: the output needs a place of its own"));
            }
            if input.is_dir() && (real.starts_with(&input) || resolved.starts_with(&input)) {
                return Err(bad("lies inside an input: the output needs a place of its own"));
            }
            if replaces && (input.starts_with(&real) || input.starts_with(&resolved)) {
                return Err(bad("contains an input: the output needs a place of its own"));
            }
        }
        if replaces && !force {
            return Err(Error::Exists { path: target.to_owned() });
        }
        Ok(Self { target: parent.join(&name), parent, name, replaces })
    }

    /// # Errors
    /// [`Error::NoSpace`] when `needed` bytes do not fit.
    pub(crate) fn check_space(&self, needed: u64) -> Result<()> {
        let free = sys::free_space(&self.parent).map_err(Error::io(&self.parent, "read"))?;
        match free {
            Some(free) if free < needed => Err(Error::NoSpace { path: self.parent.clone(), needed, free }),
            _ => Ok(()),
        }
    }
}

/// Whether a folder is empty or holds a model or an adapter: nothing else is ever deleted.
fn is_replaceable(folder: &Path) -> Result<bool> {
    let mut empty = true;
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        empty = false;
        let is_weights = path.extension().is_some_and(|ending| ending == "safetensors");
        let is_config =
            path.file_name().is_some_and(|name| name == "config.json" || name == "adapter_config.json");
        if (is_weights || is_config) && path.is_file() {
            return Ok(true);
        }
    }
    Ok(empty)
}
