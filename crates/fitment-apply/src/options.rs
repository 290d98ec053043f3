use fitment_core::model::Adapter;
use fitment_core::tensor::Dtype;

/// One adapter of an application.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The adapter.
    pub adapter: &'a Adapter<'a>,
    /// Its strength `w`: `W' = W + Σ wᵢ·(Fᵢ(W) − W)`.
    pub weight: f64,
    /// What messages call it: the path that the user typed.
    pub name: String,
}

/// How to apply.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Patterns of tensor names (`*`, `?`) whose edits are left out.
    pub skip: Vec<String>,
    /// Dtype of every weight of the result; `None` keeps each tensor's own.
    pub dtype: Option<Dtype>,
    /// Accept a base whose digests or dtypes differ from the recorded ones; never another shape or a missing tensor.
    pub allow_base_mismatch: bool,
}
