use fitment_core::tensor::{Dtype, Shape};
use serde_json::Value;

/// What an application does beside changing weights, and what it could not check. Nothing here is wrong; all of it is
/// worth knowing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Note {
    /// The adapter has no edits: the result is the base.
    #[error("{file} has no edits")]
    NoEdits {
        /// The adapter.
        file: String,
    },
    /// Nobody recorded which base the adapter was made for.
    #[error("{file} is not bound to a base: only names and shapes were checked")]
    Unbound {
        /// The adapter.
        file: String,
    },
    /// A target was left out because a pattern says so.
    #[error("{target}: edit of {file} left out by --skip")]
    Skipped {
        /// The adapter.
        file: String,
        /// The base tensor.
        target: String,
    },
    /// The base's tensor has another dtype than the recorded one, and that was allowed.
    #[error("{target}: {file} was made for {recorded}, the base has {found} (allowed)")]
    DtypeAccepted {
        /// The adapter.
        file: String,
        /// The base tensor.
        target: String,
        /// Recorded dtype.
        recorded: Dtype,
        /// The base's.
        found: Dtype,
    },
    /// A tensor of the base is not in the result.
    #[error("{target}: removed")]
    Removed {
        /// The base tensor.
        target: String,
    },
    /// A tensor is in the result that the base lacks.
    #[error("{target}: created")]
    Created {
        /// The new tensor.
        target: String,
    },
    /// A tensor has more rows than in the base.
    #[error("{target}: grows from {from} to {to} rows")]
    Grown {
        /// The tensor.
        target: String,
        /// Rows of the base.
        from: u64,
        /// Rows of the result.
        to: u64,
    },
    /// A tensor has another shape than in the base.
    #[error("{target}: its shape becomes {to}, from {from}")]
    Reshaped {
        /// The tensor.
        target: String,
        /// In the base.
        from: Shape,
        /// In the result.
        to: Shape,
    },
    /// A tied tensor gets tensors of its own for each use.
    #[error("{target}: untied, written also as {}", uses.join(", "))]
    Untied {
        /// The tied tensor.
        target: String,
        /// The other names.
        uses: Vec<String>,
    },
    /// A config value that no edit sets, but that follows from the tensors.
    #[error("config: {key} becomes {value}, as the tensors need")]
    ConfigDerived {
        /// The key.
        key: String,
        /// Its new value.
        value: Value,
    },
    /// The base has no config in which a needed value could be written.
    #[error("config: the result needs {key} = {value}, but the base has no config.json to write it in")]
    ConfigMissing {
        /// The key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// A bit-exact change was scaled, summed with others or written in another dtype.
    #[error(
        "{file} holds bit-exact changes: with another weight, dtype or adapter beside it the result is rounded, not exact"
    )]
    Inexact {
        /// The adapter.
        file: String,
    },
    /// Two adapters set the same elements to equal values: they count once.
    #[error("{target}: {first} and {second} set the same elements to equal values, counted once")]
    SharedSet {
        /// The tensor.
        target: String,
        /// The earlier adapter.
        first: String,
        /// The later adapter.
        second: String,
    },
}
