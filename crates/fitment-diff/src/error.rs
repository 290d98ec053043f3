use fitment_core::checkpoint::CheckpointError;
use fitment_core::tensor::Shape;

/// Why two checkpoints cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Most tensors have other shapes, and not only other numbers of rows.
    #[error(
        "{name}: its shape is {base} in the base and {tuned} in the tuned checkpoint, and so with {count} of {common} tensors"
    )]
    Reshaped {
        /// The tensor.
        name: String,
        /// In the base.
        base: Shape,
        /// In the tuned checkpoint.
        tuned: Shape,
        /// How many have other shapes.
        count: usize,
        /// Of how many that both have.
        common: usize,
    },
    /// A tensor that must be stored as it is holds a number that no reader takes.
    #[error(
        "{name}: element {position} is NaN or infinite in the tuned checkpoint; the tensor is new or resized, and would be stored as it is"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// Flat position of the element.
        position: usize,
    },
    /// Both have tensors, and none of one name.
    #[error(
        "the base and the tuned checkpoint have no tensor in common: {base:?} is only in the base, {tuned:?} only in the other"
    )]
    NothingInCommon {
        /// The base's first tensor.
        base: String,
        /// The tuned checkpoint's first.
        tuned: String,
    },
    /// A checkpoint without tensors: an index that names none, say.
    #[error("the {side} has no tensors")]
    NoTensors {
        /// `base` or `tuned checkpoint`.
        side: &'static str,
    },
    /// A tensor of the base cannot be read.
    #[error("base: {0}")]
    Base(#[source] CheckpointError),
    /// A tensor of the tuned checkpoint cannot be read.
    #[error("tuned checkpoint: {0}")]
    Tuned(#[source] CheckpointError),
    /// What was encoded cannot be put aside.
    #[error("cannot put aside {name}: {source}")]
    Spool {
        /// The tensor.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A change cannot be encoded.
    #[error("{name}: {source}")]
    Encode {
        /// The tensor.
        name: String,
        /// Why.
        source: fitment_math::bits::Error,
    },
    /// A difference cannot be approximated.
    #[error("{name}: {source}")]
    Approximate {
        /// The tensor.
        name: String,
        /// Why.
        source: fitment_math::Error,
    },
    /// The adapter cannot be put together.
    #[error(transparent)]
    Core(#[from] fitment_core::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}
