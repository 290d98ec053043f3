use super::{Origin, Target};
use crate::tensor::Tensor;

/// Replaces a tensor or rows of it, or creates one (spec section 5.2).
#[derive(Clone, Debug)]
pub struct Set<'a> {
    /// What is changed.
    pub target: Target,
    /// Dtype of the result.
    pub dtype: SetDtype,
    /// The base has no such tensor: it is created. Always with [`SetDtype::Stored`].
    pub create: bool,
    /// The value has another shape than the tensor, not only another number of rows. Always a whole tensor with
    /// [`SetDtype::Stored`].
    pub reshape: bool,
    /// The new tensor, or with `rows` `[n, …]`: one slice of axis 0 for each row.
    pub value: Tensor<'a>,
    /// I64 `[n]`, strictly ascending row numbers; those beyond the end are contiguous and append.
    pub rows: Option<Tensor<'a>>,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

/// Dtype of a tensor that [`Set`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetDtype {
    /// As stored: bits are copied.
    Stored,
    /// The base tensor's: rounded once when they differ.
    Base,
}

/// The tuned checkpoint lacks the tensor (spec section 5.3).
#[derive(Clone, Debug)]
pub struct Remove {
    /// What is removed.
    pub target: Target,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

/// `W' = W + s·Δ`, dense (spec section 5.4).
#[derive(Clone, Debug)]
pub struct Add<'a> {
    /// What is changed.
    pub target: Target,
    /// The multiplier `s`.
    pub scale: f64,
    /// `Δ`, of `W`'s shape.
    pub value: Tensor<'a>,
    /// Elements that the rounded sum would not hit.
    pub exceptions: Option<Exceptions<'a>>,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

/// Elements that are copied after an [`Add`] was rounded.
#[derive(Clone, Debug)]
pub struct Exceptions<'a> {
    /// I64 `[n]`: flat positions in `W`, strictly ascending.
    pub index: Tensor<'a>,
    /// `[n]` values in the base tensor's dtype.
    pub value: Tensor<'a>,
}
