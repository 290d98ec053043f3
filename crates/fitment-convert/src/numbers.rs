//! Matrices of numbers.

/// The transpose of a row-major matrix with rows of `columns` elements.
pub(crate) fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns.max(1)).copied()).collect()
}
