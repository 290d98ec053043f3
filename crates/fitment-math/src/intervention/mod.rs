//! The map of an intervention on hidden states: `h' = h + s·(U(act(W x + b) − [subtract](P h + p)) + c)`.
//!
//! A [`Map`] gives the change `s·(…)` of each token; the caller adds it, and rounds the sum to the dtype of the states.
//!
//! ```
//! use fitment_math::intervention::{Formula, Map, State};
//! use fitment_math::ndarray::{array, Array2};
//!
//! // LoReFT of rank 1 on states of width 2: U = [1, 0]ᵀ, W = [0, 2], b = 1, so h' = (2·h₁ + 1, h₁).
//! let (up, weight, bias) = (array![[1.0_f32], [0.0]], array![[0.0_f32, 2.0]], array![1.0_f32]);
//! let map = Map::new(&Formula {
//!     up: Some(up.view()),
//!     source_weight: Some(weight.view()),
//!     source_bias: Some(bias.view()),
//!     subtract: true,
//!     ..Formula::of_width(2)
//! })?;
//!
//! let states = array![[5.0_f32, 3.0], [-1.0, 0.5]];
//! let mut change = Array2::zeros(states.raw_dim());
//! map.change(states.view(), states.view(), f32::ELEMENT, change.view_mut())?;
//! assert_eq!(&states + &change, array![[7.0, 3.0], [2.0, 0.5]]);
//! # Ok::<(), fitment_math::Error>(())
//! ```
//!
//! # Arithmetic
//! That of spec section 11.1: f32, every operation rounding, none fused; a product is a sum over ascending indices from
//! 0, its bias is added after it. With [`Rounding::Loreft`], [`Rounding::Noreft`] and [`Rounding::Direft`] results are
//! rounded to the dtype of `W` where pyreft 0.1.0 rounds them.
//!
//! PyTorch promises no order of additions. Measured on torch 2.15 on a CPU with AVX-512, ranks 4 and 8, widths 16 to 4096: a
//! linear layer in bf16 or f16 adds in f32, the bias too, and rounds once. In bf16 all of 494,480 results equal those
//! here; in f16 80 did not, for their exact sums lie next to a tie. Products in f32 (LoReFT's projection) differ in
//! the last bits nearly everywhere: behind the final rounding 48 of 488,000 states of a whole LoReFT were another bf16, 375 another
//! f16, each by one unit in the last place. transformers computes `gelu_new`, `quick_gelu` and `relu2` by several operations and in
//! 16-bit dtypes rounds each; here the function is rounded once.

mod activation;
mod forward;
mod state;
#[cfg(test)]
mod tests;

pub use activation::activate;
pub use forward::{Formula, Map};
pub use state::State;

/// The orders of rounding.
pub use fitment_core::model::{Activation, Rounding};
