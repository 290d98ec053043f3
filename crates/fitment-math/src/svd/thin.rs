//! Thin decompositions of matrices in memory, in f64.

use crate::Error;
use faer::Mat;
use ndarray::{Array2, ArrayView2};

/// `A = left · diag(values) · rightᵀ`, with `k` the smaller side of `A`.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// `[rows, k]`, orthonormal columns; of each the element with the largest absolute value is positive, the first of
    /// equal ones.
    pub left: Array2<f64>,
    /// `k` singular values, descending.
    pub values: Vec<f64>,
    /// `[columns, k]`, orthonormal columns.
    pub right: Array2<f64>,
}

/// The thin singular value decomposition.
///
/// # Errors
/// [`Error::NotFinite`]; [`Error::NoConvergence`].
pub fn thin_svd(matrix: ArrayView2<'_, f64>) -> Result<Svd, Error> {
    let svd = faer_of(matrix)?.thin_svd().map_err(|_| Error::NoConvergence)?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let (mut left, mut right) = (ndarray_of(svd.U()), ndarray_of(svd.V()));
    for of in 0..values.len() {
        let larger = |largest: f64, value: &f64| if value.abs() > largest.abs() { *value } else { largest };
        if left.column(of).iter().fold(0.0, larger) < 0.0 {
            left.column_mut(of).mapv_inplace(|value| -value);
            right.column_mut(of).mapv_inplace(|value| -value);
        }
    }
    Ok(Svd { left, values, right })
}

/// `[rows, min(rows, columns)]`: orthonormal columns whose span holds the columns of the matrix, by Householder
/// reflections. The span is wider than theirs where they depend on each other.
///
/// # Errors
/// [`Error::NotFinite`].
pub fn orthonormal(matrix: ArrayView2<'_, f64>) -> Result<Array2<f64>, Error> {
    Ok(ndarray_of(faer_of(matrix)?.qr().compute_thin_Q().as_ref()))
}

fn faer_of(matrix: ArrayView2<'_, f64>) -> Result<Mat<f64>, Error> {
    if matrix.iter().any(|number| !number.is_finite()) {
        return Err(Error::NotFinite);
    }
    Ok(Mat::from_fn(matrix.nrows(), matrix.ncols(), |row, column| matrix[(row, column)]))
}

fn ndarray_of(matrix: faer::MatRef<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |(row, column)| matrix[(row, column)])
}

#[cfg(test)]
mod tests {
    use super::{Svd, orthonormal, thin_svd};
    use crate::Error;
    use ndarray::{Array2, array};

    fn largest(matrix: &Array2<f64>) -> f64 {
        matrix.iter().fold(0.0, |largest, value| largest.max(value.abs()))
    }

    #[test]
    fn the_factors_give_the_matrix_back_and_are_orthonormal() {
        let tall = array![[1., 2.], [0., 1.], [-3., 2.]];
        let flat = array![[0., 0., 5.], [1., -1., 0.]];
        let dependent = array![[1., 2., 2.], [2., 4., 4.], [3., 6., 6.]];
        for matrix in [tall, flat, dependent, Array2::zeros((3, 2))] {
            let Svd { left, values, right } = thin_svd(matrix.view()).unwrap();
            let again =
                (&left * &Array2::from_shape_fn((1, values.len()), |(_, of)| values[of])).dot(&right.t());
            assert!(largest(&(again - &matrix)) < 1e-14);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
            let q = orthonormal(matrix.view()).unwrap();
            assert!(largest(&(q.dot(&q.t().dot(&matrix)) - &matrix)) < 1e-14, "the span holds the columns");
            for columns in [left, right, q] {
                let identity = Array2::<f64>::eye(columns.ncols());
                assert!(largest(&(columns.t().dot(&columns) - identity)) < 1e-14);
            }
        }
        assert_eq!(thin_svd(array![[f64::NAN]].view()), Err(Error::NotFinite));
    }

    #[test]
    fn the_largest_element_of_a_left_vector_is_positive() {
        let found = thin_svd(array![[-3., 0.], [0., -2.]].view()).unwrap();
        assert_eq!((found.left, found.right), (array![[1., 0.], [0., 1.]], array![[-1., 0.], [0., -1.]]));
    }
}
