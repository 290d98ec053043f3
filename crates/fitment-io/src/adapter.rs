use crate::error::{Error, Result};
use crate::file::{self, Blob};
use std::collections::BTreeMap;
use std::path::Path;

/// Files of one adapter folder: a training run with every checkpoint and log stays far below.
const MAX_FILES: usize = 10_000;

/// Folders inside folders: `run/checkpoint-500/adapter_name/` and some room.
const MAX_DEPTH: usize = 5;

/// Endings of files without which an adapter cannot be read; a git-lfs pointer in their place is refused.
const NEEDED: &[&str] = &["safetensors", "json", "bin", "pt", "gguf", "npz", "model"];

/// The files of an adapter as named bytes: one file, or all files of a folder.
#[derive(Debug)]
pub struct AdapterFiles {
    files: BTreeMap<String, Blob>,
    is_folder: bool,
}

impl AdapterFiles {
    /// Maps a file, or every file of a folder and its sub-folders. Hidden files, pipes and links to folders are passed
    /// over. Nothing is copied but small files.
    ///
    /// # Errors
    /// [`Error`] when the path or a file in it cannot be read, is a git-lfs pointer, or has a name that is not Unicode.
    pub fn load(path: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let is_folder = file::stat(path)?.is_dir();
        if is_folder {
            collect(path, path, MAX_DEPTH, &mut files)?;
        } else {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| Error::NotUnicode { path: path.to_owned() })?;
            files.insert(name.to_owned(), load_one(path)?);
        }
        Ok(Self { files, is_folder })
    }

    /// Path relative to the folder with forward slashes, and content, in order of the paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, blob)| (name.as_str(), blob.as_slice()))
    }

    /// The only file of a path that is a file.
    pub fn single(&self) -> Option<&[u8]> {
        let (_, blob) = self.files.first_key_value().filter(|_| !self.is_folder)?;
        Some(blob.as_slice())
    }
}

fn collect(root: &Path, folder: &Path, depth: usize, files: &mut BTreeMap<String, Blob>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let path = entry.path();
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(Error::io(&path, "open"))?;
        if kind.is_dir() {
            let looks_like_file = path.extension().is_some_and(|ending| NEEDED.iter().any(|n| ending == *n));
            if looks_like_file {
                return Err(Error::WrongKind { path, found: "a folder", expected: "a file" });
            }
            if depth > 0 {
                collect(root, &path, depth - 1, files)?;
            }
            continue;
        }
        // A link leads to a file (the Hub's cache), to a folder, or nowhere.
        let is_file = kind.is_file() || std::fs::metadata(&path).is_ok_and(|meta| meta.is_file());
        if !is_file {
            continue;
        }
        if files.len() == MAX_FILES {
            return Err(Error::TooManyFiles { path: root.to_owned(), limit: MAX_FILES });
        }
        files.insert(relative(root, &path)?, load_one(&path)?);
    }
    Ok(())
}

fn load_one(path: &Path) -> Result<Blob> {
    let needed = path.extension().is_some_and(|ending| NEEDED.iter().any(|needed| ending == *needed));
    let (file, len) = file::open(path)?;
    if needed {
        file::refuse_pointer(path, &file, len)?;
    }
    file::load(path)
}

/// The path below `root`, with forward slashes on every system.
pub(crate) fn relative(root: &Path, path: &Path) -> Result<String> {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/")).ok_or_else(|| Error::NotUnicode { path: path.to_owned() })
}
