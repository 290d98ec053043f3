//! Dense changes of a wide block.
//!
//! `W' = W + s · Δ` for [`add_scaled`], `total + w · (edited − base)` for [`add_change`], each operation rounding to f64.
//!
//! ```
//! let mut w = [1.0, 2.0];
//! fitment_math::dense::add_scaled(&mut w, &[10.0, 20.0], 0.5)?;
//! assert_eq!(w, [6.0, 12.0]);
//! # Ok::<(), fitment_math::Error>(())
//! ```

use crate::Error;
use crate::wide::canonical;

/// Adds `scale · delta` to `wide`.
///
/// # Errors
/// [`Error::Length`] if the two differ in length.
pub fn add_scaled(wide: &mut [f64], delta: &[f64], scale: f64) -> Result<(), Error> {
    check_length("numbers of the delta", wide.len(), delta.len())?;
    for (w, delta) in wide.iter_mut().zip(delta) {
        *w = canonical(*w + scale * delta);
    }
    Ok(())
}

/// Adds `weight · (edited − base)` to `total`: one adapter's share where several are summed and the edit is no plain
/// product.
///
/// # Errors
/// [`Error::Length`] if the three differ in length.
pub fn add_change(total: &mut [f64], edited: &[f64], base: &[f64], weight: f64) -> Result<(), Error> {
    check_length("edited numbers", total.len(), edited.len())?;
    check_length("numbers of the base", total.len(), base.len())?;
    for ((total, edited), base) in total.iter_mut().zip(edited).zip(base) {
        *total = canonical(*total + weight * (edited - base));
    }
    Ok(())
}

fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
