//! The Fitment adapter format: one portable file for any neural-network adapter.
//!
//! A Fitment file is a safetensors file under a strict profile, with a manifest that says what every tensor means.
//! This crate reads, checks and writes it, and holds the model that every other Fitment crate works on:
//!
//! ```
//! use fitment_core::model::{Adapter, Edit, Lora, LoraForm, Origin, Target, TensorName};
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//!
//! let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
//! let adapter = Adapter {
//!     edits: vec![Edit::Lora(Lora {
//!         target: Target::whole(TensorName::new("model.layers.0.mlp.up_proj.weight")?),
//!         form: LoraForm::Matrix,
//!         transposed: false,
//!         scale: 2.0,
//!         up: Tensor::owned(Dtype::F32, Shape::new(&[3, 1])?, floats(&[1.0, 0.5, -1.0]))?,
//!         down: Tensor::owned(Dtype::F32, Shape::new(&[1, 2])?, floats(&[0.25, 4.0]))?,
//!         mid: None,
//!         magnitude: None,
//!         origin: Origin::default(),
//!     })],
//!     ..Adapter::default()
//! };
//!
//! let bytes = fitment_core::to_bytes(&adapter)?;
//! let report = fitment_core::check(&bytes, fitment_core::Depth::Values);
//! assert!(report.findings.is_empty());
//! let again = fitment_core::read(&bytes)?;
//! assert_eq!(fitment_core::to_bytes(&again)?, bytes); // same adapter, same file
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`model`] | what an adapter means: edits, targets, base, source |
//! | [`tensor`] | dtypes, checked shapes, borrowed or shared bytes |
//! | [`container`] | the safetensors container, strict and canonical |
//! | [`manifest`] | wire types by version, and the way to the model and back |
//! | [`mod@check`] | every rule of the format as findings |
//! | [`finding`] | codes, severities, remedies |
//! | [`glob`] | patterns over tensor names |
//! | [`identity`] | digests and the content id |
//! | [`json`] | strict reading, RFC 8785 writing |
//! | [`checkpoint`] | the traits behind which base checkpoints lie |
//! | [`payload`] | the bytes of bit-exact changes, from the outside |
//! | [`limits`] | every bound, with its reason |
//!
//! Not here: files and folders (`fitment-io`), foreign formats (`fitment-convert`), arithmetic (`fitment-math`), rules that
//! need a base model (`fitment-validate`). There is no thread, clock or environment in this crate; it builds for wasm32.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

pub mod check;
pub mod checkpoint;
pub mod container;
mod draft;
mod error;
mod file;
pub mod finding;
pub mod glob;
pub mod identity;
pub mod json;
pub mod limits;
pub mod manifest;
pub mod model;
pub mod payload;
pub mod tensor;

pub use check::{Depth, Report, check};
pub use draft::{Draft, PieceSink};
pub use error::{Error, Result};
pub use file::{encode_checked, encode_checked_each, is_fitment, read, read_checked, to_bytes, write};
pub use finding::{Finding, Severity};
pub use model::Adapter;
