//! Sums of squares along an axis.

use candle_core::{Result, Tensor};

/// Numbers that are added one after the other; their sums are added in the same way. Keeps the error of a long sum in f32 near that of one
/// addition.
const GROUP: usize = 64;

/// The sum of squares of each row of a matrix.
pub(super) fn of_rows(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let squares = matrix.sqr()?;
    let even = columns / GROUP * GROUP;
    let head = match even {
        0 => return squares.sum(1),
        even => {
            squares.narrow(1, 0, even)?.contiguous()?.reshape((rows, even / GROUP, GROUP))?.sum(2)?.sum(1)?
        }
    };
    if even == columns { Ok(head) } else { head + squares.narrow(1, even, columns - even)?.sum(1)? }
}

/// The sum of squares of each column of a matrix.
pub(super) fn of_columns(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let squares = matrix.sqr()?;
    let even = rows / GROUP * GROUP;
    let head = match even {
        0 => return squares.sum(0),
        even => squares.narrow(0, 0, even)?.reshape((even / GROUP, GROUP, columns))?.sum(1)?.sum(0)?,
    };
    if even == rows { Ok(head) } else { head + squares.narrow(0, even, rows - even)?.sum(0)? }
}
