use crate::error::{Error, Result};
use crate::output::is_tokenizer;
use crate::sys;
use std::collections::BTreeSet;
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
    /// [`Error`] when something is there and `force` is not given, when what is there holds a file that is none of a
    /// model or an adapter and not among the `written`, when the output would lie in an input or contain one, or when
    /// there is no folder to put it in.
    pub(crate) fn folder(
        target: &Path,
        (force, inputs): (bool, &[&Path]),
        written: &BTreeSet<&str>,
    ) -> Result<Self> {
        let place = Self::new(target, force, inputs)?;
        if place.replaces {
            let meta = target.symlink_metadata().map_err(Error::io(target, "open"))?;
            if meta.is_file() {
                let (found, expected) = ("a file", "a folder to replace");
                return Err(Error::WrongKind { path: target.to_owned(), found, expected });
            }
            if meta.is_dir() {
                let stranger = stranger(target, "", written)?;
                stranger.map_or(Ok(()), |file| Err(Error::Stranger { path: target.to_owned(), file }))?;
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

/// The first file in a folder that Fitment would not write there itself: nothing else is ever deleted.
///
/// `written` are the paths of the new output, whose old versions may go.
fn stranger(root: &Path, below: &str, written: &BTreeSet<&str>) -> Result<Option<String>> {
    let folder = root.join(below);
    let mut entries = std::fs::read_dir(&folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(Error::io(&folder, "list"))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(Error::io(&folder, "list"))?;
        let found = if kind.is_dir() {
            stranger(root, &path, written)?
        } else {
            let is_ours = written.contains(path.as_str()) || is_model_file(&name);
            (!is_ours).then_some(path)
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether a name is one of weights, their index, a config or a tokenizer's file.
fn is_model_file(name: &str) -> bool {
    let weights = [".safetensors", ".safetensors.index.json"];
    let is_config = name == "config.json" || name.ends_with("_config.json");
    weights.iter().any(|ending| name.ends_with(ending)) || is_config || is_tokenizer(name)
}
