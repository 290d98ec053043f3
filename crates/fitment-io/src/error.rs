use fitment_core::json::JsonFault;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file or folder cannot be read or written. Every variant names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refuses.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Nothing is there.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A folder, pipe or device where a file should be, or a file where a folder should be.
    #[error("{}: is {found}, expected {expected}", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A text file that stands for one that was never fetched.
    #[error("{}: is a git-lfs pointer, not the file itself", path.display())]
    LfsPointer {
        /// The path.
        path: PathBuf,
    },
    /// A name that is not Unicode inside a folder whose names matter.
    #[error("{}: the name is not Unicode", path.display())]
    NotUnicode {
        /// The path.
        path: PathBuf,
    },
    /// More files than an adapter has.
    #[error("{}: holds over {limit} files: not an adapter's folder", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The bound.
        limit: usize,
    },
    /// A broken safetensors file.
    #[error("{}", path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// What is broken.
        #[source]
        source: fitment_core::Error,
    },
    /// A GGUF file that is no base here.
    #[error("{}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<fitment_convert::Error>,
    },
    /// Broken JSON, or JSON of another kind than expected.
    #[error("{}: not JSON: {fault}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is broken.
        fault: JsonFault,
    },
    /// A file that is not what its place asks for.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// Weights in a format that this program does not read as a base.
    #[error("{}: {format} is not read as a base, safetensors is", path.display())]
    WeightFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
    /// A folder without weights.
    #[error("{}: {message}", path.display())]
    NotABase {
        /// The folder or file.
        path: PathBuf,
        /// What is missing or what it is instead.
        message: &'static str,
    },
    /// The output is there already.
    #[error("{}: exists already", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A folder to be replaced holds something that Fitment did not write.
    #[error("{}: is not replaced: {file} in it is no part of a model or an adapter", path.display())]
    Stranger {
        /// The output.
        path: PathBuf,
        /// Path of the first such file, below the output.
        file: String,
    },
    /// The output must not go there.
    #[error("{}: {reason}", path.display())]
    BadOutput {
        /// The output.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The output does not fit.
    #[error("{}: the output needs {needed} bytes, {free} are free", path.display())]
    NoSpace {
        /// The folder whose file system is too small.
        path: PathBuf,
        /// Bytes to write.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The content of a file to be written could not be made.
    #[error("{}: cannot write", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Result with the error of files.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::NotFound if action == "open" => Error::NotFound { path },
            _ => Error::Io { path, action, source },
        }
    }

    pub(crate) fn content(path: &Path, message: impl Into<String>) -> Self {
        Error::Content { path: path.to_owned(), message: message.into() }
    }

    /// What resolves it, where something does.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::LfsPointer { .. } => Some("fetch it with `git lfs pull`, or download it again"),
            Error::Stranger { .. } => Some("choose another output, or move that file away"),
            Error::Exists { .. } => Some("choose another output, or replace this one with --force"),
            Error::WeightFormat { .. } => {
                Some("load the model with its own tool and save it again as safetensors")
            }
            Error::NoSpace { .. } => Some("free space there, or write to another disk"),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free space there, or write to another disk")
                }
                io::ErrorKind::FileTooLarge => {
                    Some("the file system or a limit of this shell forbids such a large file")
                }
                io::ErrorKind::PermissionDenied => Some("check the owner and mode of the path"),
                _ => None,
            },
            _ => None,
        }
    }
}
