//! What an adapter asks of a base: tensors by their names in the model's class, and their shapes.

use std::fmt;

/// A tensor that the base must have, by its name in the model's class.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) name: String,
    pub(crate) fit: Fit,
    /// Whether the adapter may bring the tensor.
    pub(crate) creates: Creates,
    /// Reads or writes the vocabulary: may be missing on disk because it is tied.
    pub(crate) is_vocabulary: bool,
}

/// Whether a tensor may be new to the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creates {
    /// The base must have it.
    Nothing,
    /// A head of the model's may be new. In the layers that the base has, a missing tensor is one that it calls otherwise.
    Heads,
    /// The base may lack it wherever it is.
    Anything,
}

/// Which shapes fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// `[out, in]`, or `[in, out]` as GPT-2's Conv1D stores it.
    Linear { out: u64, input: u64 },
    /// `[out, in, k…]`.
    Conv(Vec<u64>),
    /// These extents.
    Exact(Vec<u64>),
    /// These extents, with any number of rows.
    Rows(Vec<u64>),
    /// One matrix for each expert behind an axis of theirs, of these two sides in either order; of one expert also
    /// `[rows, columns]` alone.
    Parameter { experts: u64, rows: u64, columns: u64 },
    /// So many axes, of any extents.
    Axes(usize),
}

impl Fit {
    pub(crate) fn takes(&self, dims: &[u64]) -> bool {
        match self {
            Fit::Linear { out, input } => *dims == [*out, *input] || *dims == [*input, *out],
            Fit::Conv(wanted) | Fit::Exact(wanted) => dims == wanted,
            Fit::Rows(wanted) => dims.len() == wanted.len() && dims.get(1..) == wanted.get(1..),
            Fit::Parameter { experts, rows, columns } => {
                let stacked = *dims == [*experts, *rows, *columns] || *dims == [*experts, *columns, *rows];
                stacked || (*experts == 1 && *dims == [*rows, *columns])
            }
            Fit::Axes(axes) => dims.len() == *axes,
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fit::Linear { out, input } => write!(f, "[{out}, {input}] or its transpose"),
            Fit::Conv(dims) | Fit::Exact(dims) => write!(f, "{dims:?}"),
            Fit::Rows(dims) => write!(f, "{:?} behind any number of rows", dims.get(1..).unwrap_or_default()),
            Fit::Parameter { experts, rows, columns } => {
                write!(f, "[{experts}, {rows}, {columns}], or its matrices transposed")
            }
            Fit::Axes(axes) => write!(f, "{axes} axes"),
        }
    }
}
