//! The files of Fitment: adapters and checkpoints are read here, and output appears whole or not at all.
//!
//! * [`AdapterFiles::load`]: a file or a folder as named bytes, mapped into memory.
//! * [`CheckpointDir::open`]: a Hugging Face folder, one safetensors file or a GGUF model as a
//!   [`Checkpoint`](fitment_core::checkpoint::Checkpoint).
//! * [`CheckpointOutput`]: a new checkpoint as a [`CheckpointSink`](fitment_core::checkpoint::CheckpointSink), shards as
//!   the base's, written beside its place and renamed into it.
//! * [`write_file_atomic`], [`write_folder_atomic`]: the same for a Fitment file and for an adapter's folder.
//!
//! ```no_run
//! use fitment_core::checkpoint::{CheckpointSink, OutputTensor};
//! use fitment_io::{Access, CheckpointDir, CheckpointOutput, OutputOptions};
//! use std::path::Path;
//!
//! // A copy of a checkpoint, its tensors as they are.
//! let base = CheckpointDir::open(Path::new("Llama-3.2-1B"), Access::Map)?;
//! let tensors: Vec<OutputTensor> = fitment_core::checkpoint::Checkpoint::tensors(&base)
//!     .iter()
//!     .map(|(name, info)| OutputTensor { name: name.clone(), info: info.clone(), beside: Some(name.clone()) })
//!     .collect();
//! let tensors: Vec<&OutputTensor> = tensors.iter().collect();
//! let output = CheckpointOutput::create(&base, Path::new("copy"), (&tensors, &[]), &OutputOptions::default())?;
//! for tensor in tensors {
//!     output.copy(&tensor.name, &tensor.name)?;
//! }
//! output.finish()?; // only now the folder `copy` is there, and all of it
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This is the only crate of the workspace that touches files. It knows nothing of what adapters mean.

mod adapter;
mod atomic;
mod base;
mod error;
mod file;
mod output;
mod room;
mod spool;
mod sys;

pub use adapter::AdapterFiles;
pub use atomic::{
    FolderFile, PieceSink, WriteContent, WritePieces, write_file_atomic, write_folder_atomic,
    write_pieces_atomic,
};
pub use base::{Access, CheckpointDir};
pub use error::{Error, Result};
pub use output::{CheckpointOutput, ConfigEdit, Finished, OutputOptions};
pub use room::Room;
pub use spool::{Spool, Spooled};
