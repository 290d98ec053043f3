//! DoRA: rows or columns of `V = W + s · up · down` rescaled to a stored magnitude.
//!
//! `W' = m ∘ V / (‖V‖ + eps)`, the norm taken over all axes but the kept one. Which norm (of the merged `V`, or of the
//! base `W` alone) and whether there is an `eps` the edit says: the caller passes the numbers of one or the other.
//!
//! With the kept axis in front (a linear layer `[out, in]`, a convolution `[out, in, k…]` read as `[out, in·k…]`), each
//! row has its norm: [`row_norms`], [`magnitude_factors`], [`scale_rows`], block by block in one pass. With another
//! kept axis (an embedding `[vocab, dim]`, a linear layer stored transposed, the input axis of a convolution), columns
//! have: [`ColumnNorms`] over all blocks, then [`scale_columns`] over all blocks again.
//!
//! # The arithmetic
//! Everything is f64. The order of additions depends on shapes alone, never on blocks, threads or vectors:
//! * a row's sum: eight partial sums, of the columns `j` with `j mod 8 = p`, each ascending; then
//!   `((s0+s4) + (s2+s6)) + ((s1+s5) + (s3+s7))`;
//! * a column's sum: rows ascending; then, where several columns share an index of the kept axis, those ascending.
//!
//! Then `f = m / (sqrt(sum) + eps)` and `W' = V · f`, each operation rounding once.
//!
//! ```
//! use fitment_math::ndarray::arr2;
//! use fitment_math::norm::{magnitude_factors, row_norms, scale_rows};
//!
//! let mut v = arr2(&[[3.0, 4.0], [0.0, 2.0]]);
//! let norms = row_norms(v.view());
//! assert_eq!(norms, [5.0, 2.0]);
//! let factors = magnitude_factors(0, &norms, &[10.0, 1.0], 0.0)?;
//! scale_rows(v.view_mut(), &factors)?;
//! assert_eq!(v, arr2(&[[6.0, 8.0], [0.0, 1.0]]));
//! # Ok::<(), fitment_math::Error>(())
//! ```

mod column;
mod row;
#[cfg(test)]
mod tests;

use crate::Error;

pub use column::{ColumnNorms, scale_columns};
pub use row::{row_norms, scale_rows};

/// `m / (norm + eps)` for indices `first` and following of the kept axis.
///
/// # Errors
/// [`Error::Length`] if there are not as many magnitudes as norms; [`Error::ZeroNorm`] and [`Error::NonFiniteNorm`]
/// name the index whose `norm + eps` is no divisor.
pub fn magnitude_factors(
    first: usize,
    norms: &[f64],
    magnitude: &[f64],
    eps: f64,
) -> Result<Vec<f64>, Error> {
    check_length("magnitudes", norms.len(), magnitude.len())?;
    let factor = |(at, (&norm, &magnitude)): (usize, (&f64, &f64))| {
        let (index, divisor) = (first.saturating_add(at), norm + eps);
        if divisor == 0.0 {
            Err(Error::ZeroNorm { index })
        } else if divisor.is_finite() {
            Ok(magnitude / divisor)
        } else {
            Err(Error::NonFiniteNorm { index, norm })
        }
    };
    norms.iter().zip(magnitude).enumerate().map(factor).collect()
}

fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
