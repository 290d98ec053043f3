use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};

use super::check_length;
use crate::dispatch::{Isa, Kernel, Level};
use crate::wide::canonical;
use crate::{Error, parallel};

/// Partial sums of a row: as many f64 as the widest register holds.
const PARTS: usize = 8;

/// Rows that one thread takes at a time.
const ROWS_PER_JOB: usize = 64;

/// The Euclidean norm of every row of `block`, any strides.
pub fn row_norms(block: ArrayView2<'_, f64>) -> Vec<f64> {
    row_norms_at(Level::detect(), block)
}

pub(super) fn row_norms_at(level: Level, block: ArrayView2<'_, f64>) -> Vec<f64> {
    let mut norms = vec![0.0; block.nrows()];
    let jobs = block.axis_chunks_iter(Axis(0), ROWS_PER_JOB).zip(norms.chunks_mut(ROWS_PER_JOB)).collect();
    parallel::for_each(jobs, |(rows, norms): (ArrayView2<'_, f64>, &mut [f64])| {
        for (row, norm) in rows.rows().into_iter().zip(norms) {
            *norm = row_norm(level, row);
        }
    });
    norms
}

fn row_norm(level: Level, row: ArrayView1<'_, f64>) -> f64 {
    match row.to_slice() {
        Some(row) => level.run(SumOfSquares { row }),
        None => level.run(SumOfSquares { row: &row.to_vec() }),
    }
    .sqrt()
}

struct SumOfSquares<'a> {
    row: &'a [f64],
}

impl Kernel for SumOfSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa, const R32: usize, const R64: usize, const C: usize>(self, _: I) -> f64 {
        let (whole, rest) = self.row.as_chunks::<PARTS>();
        let mut sums = [0.0_f64; PARTS];
        for part in whole {
            for (sum, &value) in sums.iter_mut().zip(part) {
                *sum += value * value;
            }
        }
        for (sum, &value) in sums.iter_mut().zip(rest) {
            *sum += value * value;
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
        ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    }
}

/// Multiplies row `i` of `block` by `factors[i]`.
///
/// # Errors
/// [`Error::Length`] if there are not as many factors as rows.
pub fn scale_rows(mut block: ArrayViewMut2<'_, f64>, factors: &[f64]) -> Result<(), Error> {
    check_length("factors of the rows", block.nrows(), factors.len())?;
    let jobs = block.axis_chunks_iter_mut(Axis(0), ROWS_PER_JOB).zip(factors.chunks(ROWS_PER_JOB)).collect();
    parallel::for_each(jobs, |(mut rows, factors): (ArrayViewMut2<'_, f64>, &[f64])| {
        for (mut row, &factor) in rows.rows_mut().into_iter().zip(factors) {
            row.map_inplace(|value| *value = canonical(*value * factor));
        }
    });
    Ok(())
}
