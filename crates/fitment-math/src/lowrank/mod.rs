//! Adding `s · up · down` to rows of a matrix.
//!
//! # The arithmetic
//! Everything is defined in f64. For pairs `p` of `up` `[rows, r]`, `down` `[r, columns]` and a scale `s`:
//!
//! ```text
//! Σ_p[i,j] = ((up[i,0]·down[0,j] + up[i,1]·down[1,j]) + …) + up[i,r−1]·down[r−1,j]
//! D[i,j]   = (s_1·Σ_1[i,j] + s_2·Σ_2[i,j]) + …         pairs in the order given; those of rank zero left out
//! W'[i,j]  = W[i,j] + D[i,j]                           W as it is, if no pair is left
//! ```
//!
//! Every `·` and `+` rounds to f64, to the nearest, ties to even; none is fused with another (no FMA) and none is
//! reordered. A NaN that comes out is the positive quiet NaN without payload. `W` is decoded exactly and `W'` encoded
//! with one rounding. So a result has the same bits at every vector width, row split and thread count, and on every
//! machine with IEEE arithmetic; a base stored transposed ([`LowRank::transposed`]) gets the same bits, transposed.
//!
//! The products of factors stored as f32, f16 or bf16 are exact in f64. What remains of error before the one rounding is
//! some 2^-53 of the summands.
//!
//! # The fast path
//! bf16 results are first computed in f32, with a bound on the error: where a result lies farther from the tie between
//! its two bf16 neighbours than the bound, it rounds as the f64 one does; the others, about one in a thousand, are
//! computed again in f64. It changes no bit.
//!
//! ```
//! use fitment_math::lowrank::{LowRank, Pair};
//! use fitment_math::ndarray::{arr2, array};
//!
//! let (up, down) = (array![[1.0_f32], [2.0]], array![[10.0_f32, 100.0]]);
//! let delta = LowRank::new(&[Pair::new(up.view(), down.view(), 0.5)])?;
//! let mut w = arr2(&[[1.0, 2.0], [3.0, 4.0]]);
//! delta.add_to(0, w.view_mut())?;
//! assert_eq!(w, arr2(&[[6.0, 52.0], [13.0, 104.0]]));
//! # Ok::<(), fitment_math::Error>(())
//! ```

mod bounds;
mod exact;
mod factor;
mod fast;
mod product;
#[cfg(test)]
mod tests;
pub(crate) mod tile;

pub use factor::{Factor, Pair};
pub use product::LowRank;

use ndarray::ArrayViewMut2;

use crate::Error;

/// Adds one product to `block` `[rows, columns]`: [`LowRank::new`] and [`LowRank::add_to`] in one.
///
/// # Errors
/// As these two.
pub fn accumulate_rows(block: ArrayViewMut2<'_, f64>, pair: Pair<'_>) -> Result<(), Error> {
    LowRank::new(&[pair])?.add_to(0, block)
}
