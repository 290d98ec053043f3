//! From a base and a tuned checkpoint to the adapter that makes the tuned one of the base.
//!
//! Every tensor of either checkpoint is accounted for by name: unchanged (listed, with its digest), changed, new, missing,
//! or of another dtype, number of rows or shape. Of tensors that are equal in the base and equal in the tuned checkpoint, as
//! the copies of a tied tensor are, the change is stored once. Applied to the base, the result has the tuned checkpoint's bits.
//!
//! | form | a changed tensor becomes |
//! |---|---|
//! | [`Form::Bits`] | `bits`, or `set` where that is no smaller |
//! | [`Form::Sparse`] | `sparse_set`, or `set` where that is no smaller |
//! | [`Form::Add`] | `add` of the difference, with exceptions where the rounded sum misses; `set` where the difference is no number |
//!
//! With a rank or a largest error asked for (`LowRank`, feature `svd`), a matrix becomes `lora` with factors in F32, whose
//! distance from the difference stands in `origin.approximation`; what is no matrix becomes `set` or `add`, and a matrix
//! whose factors would be no smaller, or not near enough, takes its form.
//!
//! In a readable form, a tensor that is not of F64, F32, F16 or BF16 becomes `set`. Whatever the form, one that holds a number
//! which is not finite becomes `bits`. Encoded tensors go to a [`Spool`], so that memory does not grow with the model. `sparse_set`, `add` and rows go
//! there block by block; a `bits` payload and factors are held until their tensor is done:
//!
//! ```
//! use fitment_core::checkpoint::MemoryCheckpoint;
//! use fitment_core::container::write_container;
//! use fitment_core::tensor::{Dtype, Shape, Tensor};
//! use fitment_diff::{Form, MemorySpool, Options, diff};
//! use std::collections::BTreeMap;
//!
//! let file = |numbers: [f32; 2]| {
//!     let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
//!     let tensor = Tensor::owned(Dtype::F32, Shape::new(&[2]).unwrap(), bytes).unwrap();
//!     let mut file = Vec::new();
//!     write_container(&BTreeMap::new(), [("w".to_owned(), &tensor)], &mut file).unwrap();
//!     file
//! };
//! let (base, tuned) = (file([1.0, 2.0]), file([1.0, 2.5]));
//! let (base, tuned) = (MemoryCheckpoint::new(&base, None)?, MemoryCheckpoint::new(&tuned, None)?);
//!
//! let spool = MemorySpool::default();
//! let options = Options { form: Form::Sparse, ..Options::default() };
//! let diff = diff(&base, &tuned, &options, &spool, &|_bytes| true)?;
//! let spooled = spool.into_bytes();
//! let adapter = diff.adapter(&tuned, &spooled)?;
//! assert_eq!((adapter.edits.len(), diff.summary.changed), (1, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not here: files (`fitment-io` has a spool on disk), other formats of diffs.
#![warn(clippy::disallowed_methods, reason = "pure crate: no files, clock, environment or threads")]
#![forbid(unsafe_code)]

mod adapter;
mod copies;
mod elements;
mod encode;
mod error;
#[cfg(feature = "svd")]
mod low_rank;
mod parallel;
mod part;
mod rows;
mod spool;

pub use error::Error;
#[cfg(feature = "svd")]
pub use low_rank::{Approximated, LowRank};
pub use spool::{MemorySpool, Spool};

use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::model::ConfigValue;
use part::{Outcome, Part};
use std::collections::BTreeSet;

/// How a changed tensor is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Bit for bit, compressed.
    #[default]
    Bits,
    /// The elements that change, as they become.
    Sparse,
    /// The difference, and exceptions where base plus difference does not round to the tuned element.
    Add,
}

/// What a caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The form of changed tensors.
    pub form: Form,
    /// zstd's level for bit-exact changes.
    pub level: i32,
    /// Approximates matrices; what is not approximated stays exact, vectors and the like as `set` or `add`.
    #[cfg(feature = "svd")]
    pub low_rank: Option<LowRank>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            form: Form::default(),
            level: fitment_math::bits::LEVEL,
            #[cfg(feature = "svd")]
            low_rank: None,
        }
    }
}

/// What was found, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tensors with the same bits.
    pub unchanged: usize,
    /// Tensors with other bits, dtypes or numbers of rows.
    pub changed: usize,
    /// Tensors that the base lacks.
    pub created: usize,
    /// Tensors that the tuned checkpoint lacks.
    pub removed: usize,
    /// Elements that change, of tensors that keep dtype and shape.
    pub changed_elements: u64,
    /// All elements of those tensors, and of unchanged ones.
    pub elements: u64,
    /// Bytes of the tuned checkpoint's tensors.
    pub tuned_bytes: u64,
    /// Bytes of the stored tensors.
    pub stored_bytes: u64,
    /// Tensors that only one has, or that have another dtype or shape, in the order of their names: name, the base's form, the tuned
    /// checkpoint's.
    pub others: Vec<(String, Option<TensorInfo>, Option<TensorInfo>)>,
    /// Keys of the config that differ and that no edit can set.
    pub other_config: Vec<String>,
}

/// Two compared checkpoints.
#[derive(Debug)]
pub struct Diff {
    /// What was found.
    pub summary: Summary,
    parts: Vec<Part>,
    config: Vec<ConfigValue>,
}

#[cfg(feature = "svd")]
impl Diff {
    /// The approximated matrices, in the order of their names.
    pub fn approximated(&self) -> impl Iterator<Item = (&str, Approximated)> {
        self.parts.iter().filter_map(|part| match &part.outcome {
            Outcome::LowRank { measured, .. } => Some((&*part.name, *measured)),
            _ => None,
        })
    }
}

/// Compares two checkpoints; what is stored of a tensor goes to the spool, unless it can be borrowed from the tuned one.
///
/// `advance` is told how many bytes of both were just compared, from any thread, and says whether to go on.
///
/// # Errors
/// [`Error::NoTensors`]; [`Error::NothingInCommon`]; [`Error::NotFinite`]; [`Error::Reshaped`] where most tensors have other shapes; [`Error::Base`] or [`Error::Tuned`] when one cannot be read;
/// [`Error::Spool`]; [`Error::Encode`]; [`Error::Cancelled`].
pub fn diff(
    base: &dyn Checkpoint,
    tuned: &dyn Checkpoint,
    options: &Options,
    spool: &dyn Spool,
    advance: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Diff, Error> {
    let names: BTreeSet<&String> = base.tensors().keys().chain(tuned.tensors().keys()).collect();
    let names: Vec<&String> = names.into_iter().collect();
    comparable(base, tuned)?;
    of_one_model(base, tuned)?;
    let context = encode::Context { base, tuned, options, spool };
    let parts = parallel::map(names, |name| {
        if !advance(0) {
            return Err(Error::Cancelled);
        }
        let part = context.part(name)?;
        advance(part.read_bytes);
        Ok(part)
    });
    // The first error in the order of names, whichever thread came first.
    let mut parts = parts.into_iter().collect::<Result<Vec<Part>, Error>>()?;
    copies::find(&mut parts, tuned)?;
    let (config, other_config) = adapter::config(base, tuned);
    Ok(Diff { summary: summary(&parts, other_config), parts, config })
}

/// Checkpoints of different naming are no base and its tuned one, and one without tensors is none at all.
fn comparable(base: &dyn Checkpoint, tuned: &dyn Checkpoint) -> Result<(), Error> {
    let first = |checkpoint: &dyn Checkpoint| checkpoint.tensors().keys().next().cloned();
    let in_base = first(base).ok_or(Error::NoTensors { side: "base" })?;
    let in_tuned = first(tuned).ok_or(Error::NoTensors { side: "tuned checkpoint" })?;
    match base.tensors().keys().any(|name| tuned.tensors().contains_key(name)) {
        true => Ok(()),
        false => Err(Error::NothingInCommon { base: in_base, tuned: in_tuned }),
    }
}

/// A model of another width has other shapes throughout; one that was changed has them here and there.
fn of_one_model(base: &dyn Checkpoint, tuned: &dyn Checkpoint) -> Result<(), Error> {
    let mut common = 0;
    let mut reshaped = Vec::new();
    for (name, before) in base.tensors() {
        let Some(after) = tuned.tensors().get(name) else { continue };
        common += 1;
        if encode::reshapes(before, after) {
            reshaped.push((name, before, after));
        }
    }
    match reshaped.first() {
        Some((name, before, after)) if reshaped.len() * 2 > common => Err(Error::Reshaped {
            name: (*name).clone(),
            base: before.shape.clone(),
            tuned: after.shape.clone(),
            count: reshaped.len(),
            common,
        }),
        _ => Ok(()),
    }
}

fn summary(parts: &[Part], other_config: Vec<String>) -> Summary {
    let mut summary = Summary { other_config, ..Summary::default() };
    for part in parts {
        let count = match &part.outcome {
            Outcome::Unchanged => &mut summary.unchanged,
            Outcome::Created => &mut summary.created,
            Outcome::Removed => &mut summary.removed,
            Outcome::Replaced
            | Outcome::Reshaped
            | Outcome::Rows { .. }
            | Outcome::Bits { .. }
            | Outcome::Sparse { .. }
            | Outcome::Add { .. } => &mut summary.changed,
            #[cfg(feature = "svd")]
            Outcome::LowRank { .. } => &mut summary.changed,
        };
        *count += 1;
        let before = part.base.as_ref().map(|(info, _)| info);
        if before != part.tuned.as_ref() {
            summary.others.push((part.name.clone(), before.cloned(), part.tuned.clone()));
        }
        summary.changed_elements += part.changed_elements;
        summary.elements += part.compared_elements;
        summary.tuned_bytes += part.tuned_bytes;
        summary.stored_bytes += part.stored_bytes();
    }
    summary
}
