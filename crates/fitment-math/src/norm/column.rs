use ndarray::{ArrayView2, ArrayViewMut2, Axis, Zip};

use super::check_length;
use crate::wide::canonical;
use crate::{Error, parallel};

/// Columns that one thread takes at a time.
const COLUMNS_PER_JOB: usize = 512;

/// Rows that one thread takes at a time.
const ROWS_PER_JOB: usize = 64;

/// Norms over the rows of a matrix that comes in blocks of rows, in order.
///
/// A tensor with the kept axis `a` is read as `[rows, kept · group]`: `rows` the product of the axes before `a`, `group`
/// of those after it.
///
/// ```
/// use fitment_math::ndarray::arr2;
/// use fitment_math::norm::{ColumnNorms, magnitude_factors, scale_columns};
///
/// // An embedding of three tokens, kept axis 1, in two blocks.
/// let (mut head, mut tail) = (arr2(&[[2.0, 0.0], [1.0, 3.0]]), arr2(&[[2.0, 4.0]]));
/// let mut norms = ColumnNorms::new(2, 1)?;
/// norms.add_rows(0, head.view())?;
/// norms.add_rows(2, tail.view())?;
/// let factors = magnitude_factors(0, &norms.finish(), &[6.0, 5.0], 0.0)?;
/// scale_columns(head.view_mut(), &factors)?;
/// scale_columns(tail.view_mut(), &factors)?;
/// assert_eq!((head, tail), (arr2(&[[4.0, 0.0], [2.0, 3.0]]), arr2(&[[4.0, 4.0]])));
/// # Ok::<(), fitment_math::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ColumnNorms {
    sums: Vec<f64>,
    group: usize,
    next_row: usize,
}

impl ColumnNorms {
    /// Norms of `columns / group` indices of the kept axis.
    ///
    /// # Errors
    /// [`Error::Length`] if `columns` is not a multiple of `group`, or `group` is zero and `columns` is not.
    pub fn new(columns: usize, group: usize) -> Result<Self, Error> {
        if columns != 0 && !columns.is_multiple_of(group) {
            let expected = columns.checked_div(group).unwrap_or(0) * group;
            return Err(Error::Length { what: "columns in whole groups", expected, found: columns });
        }
        Ok(ColumnNorms { sums: vec![0.0; columns], group: group.max(1), next_row: 0 })
    }

    /// Adds the squares of the rows from `first_row` on.
    ///
    /// # Errors
    /// [`Error::RowOrder`] if the block is not the next one, [`Error::Length`] if it has another number of columns.
    pub fn add_rows(&mut self, first_row: usize, block: ArrayView2<'_, f64>) -> Result<(), Error> {
        if first_row != self.next_row {
            return Err(Error::RowOrder { expected: self.next_row, found: first_row });
        }
        if block.ncols() != self.sums.len() {
            return Err(Error::Columns { expected: self.sums.len(), found: block.ncols() });
        }
        self.next_row += block.nrows();
        let jobs = self
            .sums
            .chunks_mut(COLUMNS_PER_JOB)
            .zip(block.axis_chunks_iter(Axis(1), COLUMNS_PER_JOB))
            .collect();
        parallel::for_each(jobs, |(sums, columns): (&mut [f64], ArrayView2<'_, f64>)| {
            for row in columns.rows() {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value * value;
                }
            }
        });
        Ok(())
    }

    /// The norm at each index of the kept axis.
    pub fn finish(self) -> Vec<f64> {
        self.sums
            .chunks(self.group)
            .map(|group| group.iter().fold(0.0, |sum, column| sum + column).sqrt())
            .collect()
    }
}

/// Multiplies the columns of `block` by `factors`, each of which covers `columns / factors` columns side by side.
///
/// # Errors
/// [`Error::Length`] if the columns do not divide evenly among the factors.
pub fn scale_columns(mut block: ArrayViewMut2<'_, f64>, factors: &[f64]) -> Result<(), Error> {
    let columns = block.ncols();
    let group = columns.checked_div(factors.len()).unwrap_or(0);
    check_length("columns in whole groups", group * factors.len(), columns)?;
    if block.is_empty() {
        return Ok(());
    }
    let wide: Vec<f64> = factors.iter().flat_map(|&factor| std::iter::repeat_n(factor, group)).collect();
    let jobs = block.axis_chunks_iter_mut(Axis(0), ROWS_PER_JOB).collect();
    parallel::for_each(jobs, |mut rows: ArrayViewMut2<'_, f64>| {
        for row in rows.rows_mut() {
            Zip::from(row).and(&wide).for_each(|value, factor| {
                *value = canonical(*value * factor);
            });
        }
    });
    Ok(())
}
