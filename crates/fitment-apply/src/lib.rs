//! Applies adapters to a base checkpoint.
//!
//! [`Plan::new`] checks the adapters against the base and against each other and lists everything that does not fit,
//! before anything is written. [`execute`] then only computes: tensor by tensor, in blocks, on all cores, the base's
//! digests checked in the same pass.
//!
//! ```
//! use fitment_apply::{Input, Options, Plan, execute};
//! use fitment_core::checkpoint::{Checkpoint, CheckpointError, CheckpointSink, MemoryCheckpoint};
//! use fitment_core::container::write_container;
//! use fitment_core::model::{Add, Adapter, Edit, Origin, Target, TensorName};
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use std::collections::BTreeMap;
//! use std::sync::{Mutex, atomic::AtomicBool};
//!
//! let floats = |values: &[f32]| {
//!     let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
//!     Tensor::owned(Dtype::F32, Shape::new(&[values.len() as u64])?, bytes)
//! };
//! let mut file = Vec::new();
//! write_container(&BTreeMap::new(), [("norm.bias".to_owned(), &floats(&[1.0, 2.0])?)], &mut file)?;
//! let base = MemoryCheckpoint::new(&file, None)?;
//!
//! let target = Target::whole(TensorName::new("norm.bias")?);
//! let edit = Add { target, scale: 0.5, value: floats(&[10.0, 20.0])?, exceptions: None, origin: Origin::default() };
//! let adapter = Adapter { edits: vec![Edit::Add(edit)], ..Adapter::default() };
//!
//! // Files are `fitment-io`'s business; here the result goes into a map.
//! struct Sink(Mutex<BTreeMap<String, Vec<u8>>>);
//! impl CheckpointSink for Sink {
//!     fn write(&self, name: &str, at: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
//!         let mut tensors = self.0.lock().expect("no writer panics");
//!         let tensor = tensors.entry(name.to_owned()).or_default();
//!         tensor.resize(tensor.len().max(at as usize + bytes.len()), 0);
//!         tensor[at as usize..][..bytes.len()].copy_from_slice(bytes);
//!         Ok(())
//!     }
//!     fn copy(&self, _name: &str, _from: &str) -> Result<(), CheckpointError> {
//!         Ok(()) // nothing is untouched in this example
//!     }
//! }
//!
//! let inputs = [Input { adapter: &adapter, weight: 1.0, name: "example".to_owned() }];
//! let plan = Plan::new(&inputs, &base, &Options::default())?;
//! let sink = Sink(Mutex::default());
//! let outcome = execute(&plan, &base, &sink, &|_bytes| {}, &AtomicBool::new(false))?;
//! assert_eq!(outcome.changed, 1);
//! assert_eq!(sink.0.into_inner()?["norm.bias"], floats(&[6.0, 12.0])?.bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is computed
//! `W' = W + Σ wᵢ·(Fᵢ(W) − W)`, in f64, rounded once to the result's dtype, to the nearest, ties to even. `Fᵢ` are the
//! edits of one adapter in their order, `wᵢ` is its strength. Edits that only add go in as `wᵢ·s·Δ`. A tensor of which
//! nothing but stored values remains is copied bit for bit, in any dtype. The result has the same bytes on every machine
//! and for any number of threads.
//!
//! # Modules
//! | module | holds |
//! |---|---|
//! | [`device`] | what a device does that computes in the place of this crate |
//! | [`hidden`] | interventions on hidden states: which, where, and what they make of the states |
//! | [`plan`] | jobs, and everything of the model resolved: for executors on other devices too |
//! | [`refusal`] | what keeps adapters from being applied |
//!
//! # What it does not do
//! No files, no threads but rayon's (feature `parallel`), no quantised bases.
#![warn(
    clippy::disallowed_methods,
    reason = "pure crate: no files, clock, environment or threads of its own"
)]
#![forbid(unsafe_code)]

pub mod device;
mod exec;
pub mod hidden;
mod note;
mod options;
mod part;
pub mod plan;
pub mod refusal;
mod region;

pub use exec::{Error, Mismatch, Outcome, execute, execute_on};
pub use note::Note;
pub use options::{Input, Options};
pub use part::Part;
pub use plan::Plan;
pub use refusal::{Culprit, Refusal};
pub use region::Region;
