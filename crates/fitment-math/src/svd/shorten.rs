//! The nearest product of a smaller rank to a product of two factors, without the product itself.

use super::Limit;
use crate::Error;
use faer::Mat;
use ndarray::{Array2, ArrayView2};

/// Two shorter factors, and how far their product is from that of the longer ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// `[out, rank]`.
    pub up: Array2<f64>,
    /// `[rank, in]`.
    pub down: Array2<f64>,
    /// All singular values of the longer product that are not rounding, descending.
    pub values: Vec<f64>,
    /// `‖up·down − up'·down'‖ / ‖up·down‖`, Frobenius: read from the values that fall away. 0 for a product of zeros.
    pub relative_error: f64,
}

/// The nearest `up'·down'` within the limit, in f64; the values are split evenly (`√σ` to each side), and of each left
/// vector the largest element is positive. At least one direction stays.
///
/// `up = Q₁·R₁` and `downᵀ = Q₂·R₂` by Householder reflections, then `R₁·R₂ᵀ = P·S·Tᵀ`: the singular values of the product are
/// `S`, its vectors `Q₁·P` and `Q₂·T` (Eckart and Young 1936). Values below `rank · ε · σ₁` are rounding and dropped.
///
/// # Errors
/// [`Error::NotFinite`]; [`Error::NoConvergence`]; [`Error::Length`] when the factors do not share a rank.
pub fn shorten(up: ArrayView2<'_, f64>, down: ArrayView2<'_, f64>, limit: Limit) -> Result<Factors, Error> {
    shorten_by(up, down, &|values| match limit {
        Limit::Rank(rank) => rank,
        Limit::Error { relative, most } => within(values, relative).min(most),
    })
}

/// As [`shorten`], with as many directions as `kept` says of the singular values, which descend.
///
/// # Errors
/// As [`shorten`].
pub fn shorten_by(
    up: ArrayView2<'_, f64>,
    down: ArrayView2<'_, f64>,
    kept: &dyn Fn(&[f64]) -> usize,
) -> Result<Factors, Error> {
    let rank = up.ncols();
    if down.nrows() != rank {
        return Err(Error::Length { what: "rows of down", expected: rank, found: down.nrows() });
    }
    if up.iter().chain(&down).any(|number| !number.is_finite()) {
        return Err(Error::NotFinite);
    }
    let left = Mat::from_fn(up.nrows(), rank, |row, column| up[(row, column)]).qr();
    let right = Mat::from_fn(down.ncols(), rank, |row, column| down[(column, row)]).qr();
    let core = left.thin_R() * right.thin_R().transpose();
    let svd = core.thin_svd().map_err(|_| Error::NoConvergence)?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let floor = values.first().map_or(0.0, |first| rank as f64 * f64::EPSILON * first);
    let values: Vec<f64> = values.into_iter().take_while(|value| *value > floor).collect();
    let kept = kept(&values).min(values.len());
    let squares = |values: &[f64]| values.iter().rev().fold(0.0, |sum, value| sum + value * value);
    let whole = squares(&values);
    let lost = squares(values.get(kept..).unwrap_or_default());
    let relative_error = if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 };
    let (first, second) = (left.compute_thin_Q() * svd.U(), right.compute_thin_Q() * svd.V());
    let kept = kept.max(1).min(first.ncols());
    let sign = |of: usize| {
        let largest = (0..first.nrows()).fold(0.0_f64, |largest, row| {
            let value = first[(row, of)];
            if value.abs() > largest.abs() { value } else { largest }
        });
        if largest < 0.0 { -1.0 } else { 1.0 }
    };
    let sides: Vec<(f64, f64)> =
        (0..kept).map(|of| (values.get(of).copied().unwrap_or(0.0).sqrt(), sign(of))).collect();
    let side = |of: usize, number: f64| number * sides[of].0 * sides[of].1;
    let up = Array2::from_shape_fn((up.nrows(), kept), |(row, of)| side(of, first[(row, of)]));
    let down = Array2::from_shape_fn((kept, down.ncols()), |(of, column)| side(of, second[(column, of)]));
    Ok(Factors { up, down, values, relative_error })
}

/// The fewest of descending singular values without which the product is off by at most this relative Frobenius error.
pub fn within(values: &[f64], relative: f64) -> usize {
    let whole = values.iter().rev().fold(0.0, |sum, value| sum + value * value);
    let allowed = relative * relative * whole;
    // The longest tail that may fall away.
    let mut lost = 0.0;
    let tail = values.iter().rev().take_while(|value| {
        lost += *value * *value;
        lost <= allowed
    });
    values.len() - tail.count()
}

#[cfg(test)]
mod tests {
    use super::shorten;
    use crate::svd::Limit;
    use ndarray::{Array2, array};

    /// The matrices of reference numbers that research code gives in f64 (TSV, Iso-C and others were run on them too).
    fn stacked() -> (Array2<f64>, Array2<f64>) {
        let up = array![
            [2., 0., 1., 1.],
            [-1., 1., 0., -2.],
            [0., 3., 2., 1.],
            [1., 1., -1., 0.],
            [1., -2., 3., 1.],
            [0., 1., 1., -1.]
        ];
        let down = array![
            [1., 2., -1., 0., 1.],
            [0., 1., 3., -2., 1.],
            [2., -1., 0., 1., 1.],
            [1., 0., -2., 1., 3.]
        ];
        (up, down)
    }

    #[test]
    fn singular_values_and_the_best_rank_are_those_of_the_dense_product() {
        let (up, down) = stacked();
        let found = shorten(up.view(), down.view(), Limit::Rank(2)).unwrap();
        for (found, expected) in found.values.iter().zip([20.970920, 13.391196, 6.612400, 2.484464]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        // PEFT 0.21.2, `svd` with svd_rank 2.
        let expected = [5.258004, 0.475006, -3.104145, 2.572437, 6.18608];
        let product = found.up.dot(&found.down);
        for (found, expected) in product.row(0).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let distance = (&product - &up.dot(&down)).iter().map(|d| d * d).sum::<f64>().sqrt();
        let norm = up.dot(&down).iter().map(|d| d * d).sum::<f64>().sqrt();
        assert!((found.relative_error - distance / norm).abs() < 1e-12);
    }

    #[test]
    fn a_largest_error_takes_the_smallest_rank_within_it() {
        let (up, down) = stacked();
        for (relative, rank) in [(0.0, 4), (0.09, 4), (0.1, 3), (0.5, 2), (0.9, 1), (1.0, 1)] {
            let found = shorten(up.view(), down.view(), Limit::Error { relative, most: 4 }).unwrap();
            assert_eq!(found.up.ncols(), rank, "{relative}");
            assert!(found.relative_error <= relative.max(1e-15));
        }
    }

    #[test]
    fn dependent_and_empty_directions_fall_away() {
        let (up, down) = stacked();
        let twice =
            |a: &Array2<f64>, axis| ndarray::concatenate(ndarray::Axis(axis), &[a.view(), a.view()]).unwrap();
        let (wide, tall) = (twice(&up, 1), twice(&down, 0));
        let found = shorten(wide.view(), tall.view(), Limit::Rank(8)).unwrap();
        assert_eq!(found.up.ncols(), 4);
        let error = (found.up.dot(&found.down) - wide.dot(&tall)).iter().fold(0.0_f64, |l, d| l.max(d.abs()));
        assert!(error < 1e-12 && found.relative_error == 0.0);
        let zero =
            shorten(Array2::zeros((3, 2)).view(), Array2::zeros((2, 4)).view(), Limit::Rank(2)).unwrap();
        assert_eq!((zero.up.dim(), zero.relative_error), ((3, 1), 0.0));
    }
}
