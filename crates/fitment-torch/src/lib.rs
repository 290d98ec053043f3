//! PyTorch weight files without danger.
//!
//! A `.bin`, `.pt` or `.pth` file is a pickle: a program for a stack machine that may name any function of Python and
//! call it. This crate reads it as data. Its interpreter knows the instructions of protocols 0 to 5 and a closed list of
//! names, those that tensors and plain containers are made of; every other name is an error that says which it is and
//! where it stands. There is nothing in here that a name could run.
//!
//! ```
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use fitment_torch::{Archive, Fault, Item, TorchFile};
//!
//! let weight = Tensor::owned(Dtype::BF16, Shape::new(&[2, 3])?, vec![0x3f; 12])?;
//! let mut bytes = Vec::new();
//! Archive::new("adapter_model", &[Item::new("layer.weight", weight)])?.write_to(&mut bytes)?;
//!
//! let state = TorchFile::read("adapter_model.bin", &bytes)?.state_dict()?;
//! assert_eq!(state.tensors[0].name, "layer.weight");
//! assert_eq!(state.tensors[0].tensor.dims(), &[2, 3]);
//!
//! // What pickle.loads would run, this names.
//! let hostile = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.";
//! let error = TorchFile::read("adapter_model.bin", hostile).unwrap_err();
//! assert!(matches!(error.fault, Fault::Unsafe { .. }));
//! assert_eq!(
//!     error.to_string(),
//!     "adapter_model.bin: byte 2: the pickle names os.system, which no weights need: nothing was run"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | item | is |
//! |---|---|
//! | [`TorchFile`] | a file that was read: zip archive (torch 1.6 and later) or legacy form |
//! | [`TorchFile::state_dict`] | tensors by dotted names, row-major, of any strides in the file |
//! | [`Value`] | the whole value: dicts in their order, lists, numbers, texts, tensors |
//! | [`Archive`], [`Item`] | a file that `torch.load(weights_only=True)` opens |
//! | [`Error`], [`rules`] | what is wrong, with file and place, as text and as coded findings |
//! | [`limits`] | every bound, with its reason |
//!
//! Read: every dtype that both torch and safetensors have; parameters; shared storages; any strides that stay inside
//! the storage. Refused by name: TorchScript, tar archives, plain pickles, big-endian files, sparse, quantised, complex
//! of 128 bits and meta tensors, archives whose members are compressed, doubled, overlapping or named to leave their
//! folder.
//!
//! Not here: files and folders (`fitment-io`). There is no thread, clock or environment in this crate; it builds for
//! wasm32.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

mod archive;
mod crc;
mod cursor;
mod error;
mod file;
mod legacy;
pub mod limits;
mod pickle;
pub mod rules;
mod state;
mod tensor;
mod value;
mod write;
mod zip;

pub use error::{Error, Fault, Global, Place};
pub use file::{Form, Named, StateDict, TorchFile, is_torch};
pub use tensor::{Order, View};
pub use value::{Kind, Value};
pub use write::{Archive, Item};
