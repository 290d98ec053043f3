use super::{Origin, Target, TensorName};
use crate::tensor::Tensor;

/// `W' = W + s·Δ` with a low-rank `Δ`, and with a magnitude `W' = m ∘ V/‖V‖`, `V = W + s·Δ` (spec section 5.1).
///
/// Low-rank updates: Hu et al. 2021 (LoRA); magnitudes: Liu et al. 2024 (DoRA).
#[derive(Clone, Debug)]
pub struct Lora<'a> {
    /// What is changed.
    pub target: Target,
    /// How `W` and the factors are read.
    pub form: LoraForm,
    /// `W` is the transpose of the stored slice (GPT-2's Conv1D stores `[in, out]`). Matrix and stacked forms only.
    pub transposed: bool,
    /// The one multiplier `s`.
    pub scale: f64,
    /// `[out, r]`; conv `[out, r, 1…]`; stacked or bundle `[E, out, r]`.
    pub up: Tensor<'a>,
    /// `[r, in]`; conv `[r, in, k…]`, with a mid `[r, in, 1…]`; stacked or bundle `[E, r, in]`.
    pub down: Tensor<'a>,
    /// Conv only: `[r, r, k…]`, `Δ[o,i,k] = Σ up[o,p]·mid[p,q,k]·down[q,i]`.
    pub mid: Option<Tensor<'a>>,
    /// Present for DoRA.
    pub magnitude: Option<Magnitude<'a>>,
    /// Provenance, outside the content id.
    pub origin: Origin,
}

impl<'a> Lora<'a> {
    /// The same of a bundle as one update of each expert's own tensor; `None` for an update of something else, and for one with a
    /// magnitude, which the experts share.
    pub fn of_each_expert(&self) -> Option<Vec<Lora<'a>>> {
        let range = self.target.experts?;
        if self.form != LoraForm::Matrix || self.magnitude.is_some() {
            return None;
        }
        let one = |(index, name): (u64, String)| {
            let target = Target { experts: None, name: TensorName::new(name).ok()?, ..self.target.clone() };
            Some(Lora { target, up: self.up.at(index)?, down: self.down.at(index)?, ..self.clone() })
        };
        (0..range.count()).zip(self.target.base_names()).map(one).collect()
    }
}

impl Lora<'_> {
    /// The rank: the axis that up and down share.
    pub fn rank(&self) -> u64 {
        let axis = if self.has_expert_axis() { 2 } else { 1 };
        self.up.dims().get(axis).copied().unwrap_or(0)
    }

    /// Whether the factors have a leading expert axis.
    pub fn has_expert_axis(&self) -> bool {
        self.form == LoraForm::Stacked || self.target.experts.is_some()
    }
}

/// How `W` and the factors of a [`Lora`] are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraForm {
    /// `W` is `[dim0, rest]`: Linear, embedding (up `[vocab, r]`, down `[r, dim]`).
    Matrix,
    /// `W` is `[out, in, k…]` with one to three kernel axes.
    Conv,
    /// `W` is `[E, out, in]`: one product for each expert.
    Stacked,
}

/// DoRA's magnitude.
#[derive(Clone, Debug)]
pub struct Magnitude<'a> {
    /// One element for each index of the kept axis, in any shape of that many elements.
    pub value: Tensor<'a>,
    /// The axis of `W` that is kept; the norm runs over all others. 0 for Linear and conv, 1 for embeddings.
    pub axis: u64,
    /// Whose norm divides.
    pub norm_of: NormOf,
    /// Added to the norm.
    pub eps: f64,
}

/// Whose norm divides in a DoRA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOf {
    /// `‖W + s·Δ‖` (PEFT, the paper).
    Merged,
    /// `‖W‖`.
    Base,
}
