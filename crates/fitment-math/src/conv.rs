//! Products for convolutions in one, two or three dimensions.
//!
//! `Δ[o,i,k…] = s · Σ_r up[o,r] · down[r,i,k…]`, or with a core `mid` (Tucker form, LyCORIS `lora_mid`)
//! `Δ[o,i,k…] = s · Σ_{r1,r2} up[o,r1] · mid[r1,r2,k…] · down[r2,i]`.
//!
//! Either is one product on the weight `[out, in, k…]` read as the matrix `[out, in·k…]`. A core is first contracted into
//! `down`, which changes no rank: `d[r1,i,k…] = Σ_{r2} mid[r1,r2,k…] · down[r2,i]`, `r2` ascending from zero, each
//! operation rounding to f64. Grouped convolutions have no such form.
//!
//! ```
//! use fitment_math::conv;
//! use fitment_math::lowrank::{Pair, accumulate_rows};
//! use fitment_math::ndarray::{Array, arr2};
//!
//! // One input and one output channel, rank 1, a kernel of 1 x 3.
//! let up = Array::from_elem((1, 1, 1, 1), 2.0_f32).into_dyn();
//! let down = Array::from_shape_vec((1, 1, 1, 3), vec![1.0_f32, 2.0, 3.0])?.into_dyn();
//! let (up, down) = conv::matrices(up.view(), down.view())?;
//! let mut w = arr2(&[[10.0, 10.0, 10.0]]);
//! accumulate_rows(w.view_mut(), Pair::new(up.view(), down.view(), 0.5))?;
//! assert_eq!(w, arr2(&[[11.0, 12.0, 13.0]]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use ndarray::{Array2, ArrayViewD};

use crate::{Error, Wide};

/// The most axes of a kernel.
const KERNEL_AXES: usize = 3;

/// `up` `[out, r]` and `down` `[r, in, k…]` as the factors `[out, r]` and `[r, in·k…]` of a product.
///
/// `up` may have kernel axes of length one, as the formats store it (`[out, r, 1, 1]`).
///
/// # Errors
/// [`Error::FactorShape`] and [`Error::Rank`] name the factor that does not fit.
pub fn matrices<T: Wide>(
    up: ArrayViewD<'_, T>,
    down: ArrayViewD<'_, T>,
) -> Result<(Array2<T>, Array2<T>), Error> {
    let up = pointwise(up, "up", "[out, r] or [out, r, 1…]")?;
    let down = flat(down)?;
    check_rank(up.ncols(), "down", down.nrows())?;
    Ok((up, down))
}

/// `up` `[out, r1]`, the core `mid` `[r1, r2, k…]` and `down` `[r2, in]` as the factors `[out, r1]` and `[r1, in·k…]` of
/// a product. `up` and `down` may have kernel axes of length one.
///
/// # Errors
/// As [`matrices`]; [`Error::TooLarge`] if the contracted factor does not fit into memory.
pub fn matrices_with_mid<T: Wide>(
    up: ArrayViewD<'_, T>,
    mid: ArrayViewD<'_, T>,
    down: ArrayViewD<'_, T>,
) -> Result<(Array2<T>, Array2<f64>), Error> {
    let up = pointwise(up, "up", "[out, r1] or [out, r1, 1…]")?;
    let down = pointwise(down, "down", "[r2, in] or [r2, in, 1…], as there is a mid")?;
    let core = Core::of(mid)?;
    check_rank(up.ncols(), "mid", core.outer)?;
    check_rank(core.inner, "down", down.nrows())?;
    Ok((up, core.contract(&down)?))
}

fn check_rank(up: usize, other: &'static str, found: usize) -> Result<(), Error> {
    if up == found { Ok(()) } else { Err(Error::Rank { up, other, found }) }
}

/// A factor without kernel axes, as a matrix.
fn pointwise<T: Wide>(
    factor: ArrayViewD<'_, T>,
    role: &'static str,
    expected: &'static str,
) -> Result<Array2<T>, Error> {
    match *factor.shape() {
        [rows, columns, ref kernel @ ..] if kernel.len() <= KERNEL_AXES && kernel.iter().all(|&k| k == 1) => {
            Ok(matrix(rows, columns, &factor))
        }
        _ => Err(Error::FactorShape { role, expected, found: factor.shape().to_vec() }),
    }
}

/// `[r, in, k…]` as `[r, in·k…]`.
fn flat<T: Wide>(down: ArrayViewD<'_, T>) -> Result<Array2<T>, Error> {
    match *down.shape() {
        [rank, ref rest @ ..] if (1..=1 + KERNEL_AXES).contains(&rest.len()) => {
            // An array that exists has a number of elements; one without elements may have any axes.
            let columns = if down.is_empty() { checked_product(rest, rank)? } else { down.len() / rank };
            Ok(matrix(rank, columns, &down))
        }
        _ => {
            let expected = "[r, in, k…] with at most three kernel axes";
            Err(Error::FactorShape { role: "down", expected, found: down.shape().to_vec() })
        }
    }
}

/// `mid` as `[outer, inner, taps]`.
struct Core<T> {
    outer: usize,
    inner: usize,
    taps: usize,
    cells: Vec<T>,
}

impl<T: Wide> Core<T> {
    fn of(mid: ArrayViewD<'_, T>) -> Result<Self, Error> {
        match *mid.shape() {
            [outer, inner, ref kernel @ ..] if kernel.len() <= KERNEL_AXES => {
                let taps = checked_product(kernel, outer)?;
                Ok(Core { outer, inner, taps, cells: mid.iter().copied().collect() })
            }
            _ => {
                let expected = "[r1, r2, k…] with at most three kernel axes";
                Err(Error::FactorShape { role: "mid", expected, found: mid.shape().to_vec() })
            }
        }
    }

    /// `d[r1, i, k] = Σ_{r2} mid[r1, r2, k] · down[r2, i]`, as `[r1, in·k]`.
    fn contract(&self, down: &Array2<T>) -> Result<Array2<f64>, Error> {
        let columns = checked_product(&[self.taps, down.ncols()], self.outer)?;
        let length = checked_product(&[columns, self.outer], self.outer)?;
        let mut sums: Vec<f64> = Vec::new();
        let too_large = |_| Error::TooLarge { rank: self.outer, width: columns };
        sums.try_reserve_exact(length).map_err(too_large)?;
        sums.resize(length, 0.0);
        if length > 0 && !self.cells.is_empty() {
            let cores = self.cells.chunks_exact(self.inner * self.taps);
            for (sums, cores) in sums.chunks_exact_mut(columns).zip(cores) {
                for (core, down) in cores.chunks_exact(self.taps).zip(down.rows()) {
                    for (sums, down) in sums.chunks_exact_mut(self.taps).zip(down) {
                        for (sum, core) in sums.iter_mut().zip(core) {
                            *sum += core.into_f64() * down.into_f64();
                        }
                    }
                }
            }
        }
        Ok(Array2::from_shape_vec((self.outer, columns), sums).expect("outer · columns sums"))
    }
}

fn checked_product(axes: &[usize], rank: usize) -> Result<usize, Error> {
    let product = axes.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
    product.ok_or(Error::TooLarge { rank, width: usize::MAX })
}

/// The elements in logical order, whatever the strides.
fn matrix<T: Wide>(rows: usize, columns: usize, factor: &ArrayViewD<'_, T>) -> Array2<T> {
    let cells = factor.iter().copied().collect();
    Array2::from_shape_vec((rows, columns), cells).expect("the same number of elements")
}
