//! The singular values of a product of two factors, without the product and without its vectors.

use super::symmetric::eigenvalues;
use crate::Error;
use ndarray::ArrayView2;

/// Rows that one pass over a matrix takes in: enough that the arithmetic, not the memory, sets the pace.
const ROWS: usize = 8;

/// Values below this part of the largest are not told from rounding.
const RESOLUTION: f64 = 1e-7;

/// The singular values of `up·down`, `[out, r]` and `[r, in]`, descending; those below 1e-7 of the largest are left out.
///
/// They are the roots of the eigenvalues of `Lᵀ·(down·downᵀ)·L` with `upᵀ·up = L·Lᵀ`, all of it `[r, r]` and in f64: several times as
/// fast as QR of both factors, and its error is below 2e-8 of the largest value, less than what the rounding of factors
/// in F32 has done.
///
/// # Errors
/// [`Error::NotFinite`]; [`Error::NoConvergence`]; [`Error::Length`] when the factors do not share a rank.
pub fn product_values(up: ArrayView2<'_, f64>, down: ArrayView2<'_, f64>) -> Result<Vec<f64>, Error> {
    if down.nrows() != up.ncols() {
        return Err(Error::Length { what: "rows of down", expected: up.ncols(), found: down.nrows() });
    }
    if up.iter().chain(&down).any(|number| !number.is_finite()) {
        return Err(Error::NotFinite);
    }
    let rank = up.ncols();
    // So that no square leaves the range of doubles.
    let scale =
        |view: &ArrayView2<'_, f64>| view.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let (of_up, of_down) = (scale(&up), scale(&down));
    if of_up == 0.0 || of_down == 0.0 {
        return Ok(Vec::new());
    }
    let left = gram(up, 1.0 / of_up);
    let right = gram(down.reversed_axes(), 1.0 / of_down);
    let triangle = cholesky(left, rank);
    let core = congruent(&triangle, &right, rank);
    let mut squares = eigenvalues(core, rank).ok_or(Error::NoConvergence)?;
    squares.sort_by(|a, b| b.total_cmp(a));
    let values = squares.into_iter().map(|square| square.max(0.0).sqrt() * of_up * of_down);
    let values: Vec<f64> = values.collect();
    let floor = values.first().map_or(0.0, |first| first * RESOLUTION);
    Ok(values.into_iter().take_while(|value| *value > floor).collect())
}

/// Cosines of the principal angles between the column spaces of `first` `[n, a]` and `second` `[n, b]`, descending: singular values of
/// `Q₁ᵀQ₂` (Björck and Golub 1973), with `Qᵢ = Aᵢ·Rᵢ⁻¹` from the Cholesky factor of `AᵢᵀAᵢ`. Within 2e-8 where columns are
/// independent; columns that are not give fewer angles.
///
/// # Errors
/// [`Error::NotFinite`]; [`Error::NoConvergence`]; [`Error::Length`] when the numbers of rows differ.
pub fn principal_cosines(first: ArrayView2<'_, f64>, second: ArrayView2<'_, f64>) -> Result<Vec<f64>, Error> {
    if first.nrows() != second.nrows() {
        return Err(Error::Length { what: "rows", expected: first.nrows(), found: second.nrows() });
    }
    if first.iter().chain(&second).any(|number| !number.is_finite()) {
        return Err(Error::NotFinite);
    }
    let (a, b) = (first.ncols(), second.ncols());
    let triangles = [cholesky(gram(first, 1.0), a), cholesky(gram(second, 1.0), b)];
    let independent =
        |triangle: &[f64], side: usize| (0..side).filter(|at| triangle[at * side + at] > 0.0).count();
    let count = independent(&triangles[0], a).min(independent(&triangles[1], b));
    let cross: Vec<f64> = first.t().dot(&second).iter().copied().collect();
    let half = solved(&triangles[0], cross, [a, b]);
    let turned: Vec<f64> = (0..a * b).map(|at| half[(at % a.max(1)) * b + at / a.max(1)]).collect();
    let core = solved(&triangles[1], turned, [b, a]);
    let square: Vec<f64> = (0..b * b)
        .map(|at| {
            let (row, other) = (&core[at / b * a..][..a], &core[at % b * a..][..a]);
            row.iter().zip(other).map(|(x, y)| x * y).sum()
        })
        .collect();
    let mut squares = eigenvalues(square, b).ok_or(Error::NoConvergence)?;
    squares.sort_by(|a, b| b.total_cmp(a));
    Ok(squares.into_iter().take(count).map(|square| square.clamp(0.0, 1.0).sqrt()).collect())
}

/// `T⁻ᵀ·C` of an upper triangular `T` `[n, n]` and `C` `[n, m]`; rows of directions that `T` lacks are 0.
fn solved(triangle: &[f64], mut matrix: Vec<f64>, [side, columns]: [usize; 2]) -> Vec<f64> {
    for row in 0..side {
        let (above, rest) = matrix.split_at_mut(row * columns);
        let line = &mut rest[..columns];
        let pivot = triangle[row * side + row];
        if pivot == 0.0 {
            line.fill(0.0);
            continue;
        }
        for (k, solved) in above.chunks_exact(columns.max(1)).enumerate() {
            let factor = triangle[k * side + row];
            line.iter_mut().zip(solved).for_each(|(cell, value)| *cell -= factor * value);
        }
        line.iter_mut().for_each(|cell| *cell /= pivot);
    }
    matrix
}

/// `out += Σ factors[k] · rows[k]`, rows one behind the other in `rows`, each with `stride` numbers of which the first
/// `skip` are passed over.
fn add_rows(out: &mut [f64], factors: [f64; ROWS], rows: &[f64], (stride, skip): (usize, usize)) {
    let row = |k: usize| &rows[k * stride + skip..k * stride + skip + out.len()];
    let [a, b, c, d, e, f, g, h] = [0, 1, 2, 3, 4, 5, 6, 7].map(row);
    for (index, cell) in out.iter_mut().enumerate() {
        *cell += ((factors[0] * a[index] + factors[1] * b[index])
            + (factors[2] * c[index] + factors[3] * d[index]))
            + ((factors[4] * e[index] + factors[5] * f[index])
                + (factors[6] * g[index] + factors[7] * h[index]));
    }
}

/// `scale² · XᵀX` of `X` `[n, r]`: the upper triangle, in rows of `r`.
fn gram(matrix: ArrayView2<'_, f64>, scale: f64) -> Vec<f64> {
    let (count, rank) = matrix.dim();
    let mut gram = vec![0.0; rank * rank];
    let mut block = vec![0.0; ROWS * rank];
    for first in (0..count).step_by(ROWS) {
        block.fill(0.0);
        for (row, into) in (first..count).zip(block.chunks_exact_mut(rank)) {
            into.iter_mut().zip(matrix.row(row)).for_each(|(to, from)| *to = from * scale);
        }
        for column in 0..rank {
            let factors = [0, 1, 2, 3, 4, 5, 6, 7].map(|k| block[k * rank + column]);
            let out = &mut gram[column * rank + column..(column + 1) * rank];
            add_rows(out, factors, &block, (rank, column));
        }
    }
    gram
}

/// `Lᵀ` of a positive semidefinite `L·Lᵀ`, of which the upper triangle is given: upper triangular, in rows of `rank`.
/// Directions that are rounding become zero.
fn cholesky(mut matrix: Vec<f64>, rank: usize) -> Vec<f64> {
    let largest = (0..rank).map(|at| matrix[at * rank + at]).fold(0.0f64, f64::max);
    let floor = rank as f64 * f64::EPSILON * largest;
    for at in 0..rank {
        let (head, tail) = matrix.split_at_mut((at + 1) * rank);
        let row = &mut head[at * rank..];
        row[..at].fill(0.0);
        let pivot = row[at];
        if pivot <= floor {
            row[at..].fill(0.0);
            continue;
        }
        let root = pivot.sqrt();
        row[at..].iter_mut().for_each(|value| *value /= root);
        for (below, rest) in (at + 1..rank).zip(tail.chunks_exact_mut(rank)) {
            let factor = row[below];
            let cells = rest[below..].iter_mut().zip(&row[below..]);
            cells.for_each(|(cell, value)| *cell -= factor * value);
        }
    }
    matrix
}

/// `T·G·Tᵀ` of an upper triangular `T` and a symmetric `G` of which the upper triangle is given: all of it.
fn congruent(triangle: &[f64], gram: &[f64], rank: usize) -> Vec<f64> {
    let full = mirrored(gram.to_vec(), rank);
    let half = product(triangle, &full, rank);
    // `(T·G)ᵀ = G·Tᵀ`, and `T` times that is what is wanted.
    let turned: Vec<f64> = (0..rank * rank).map(|at| half[(at % rank) * rank + at / rank]).collect();
    let mut whole = product(triangle, &turned, rank);
    // Rounding leaves the two halves a hair apart.
    for row in 0..rank {
        for column in 0..row {
            whole[row * rank + column] = whole[column * rank + row];
        }
    }
    whole
}

fn mirrored(mut upper: Vec<f64>, rank: usize) -> Vec<f64> {
    for row in 0..rank {
        for column in 0..row {
            upper[row * rank + column] = upper[column * rank + row];
        }
    }
    upper
}

/// `T·M` of an upper triangular `T`.
fn product(triangle: &[f64], matrix: &[f64], rank: usize) -> Vec<f64> {
    // Whole blocks of rows, so that none is cut short.
    let padded = rank.next_multiple_of(ROWS);
    let mut rows = matrix.to_vec();
    rows.resize(padded * rank, 0.0);
    let mut out = vec![0.0; rank * rank];
    for (row, into) in out.chunks_exact_mut(rank).enumerate() {
        for first in (row / ROWS * ROWS..padded).step_by(ROWS) {
            let factor = |k: usize| if first + k < rank { triangle[row * rank + first + k] } else { 0.0 };
            add_rows(into, [0, 1, 2, 3, 4, 5, 6, 7].map(factor), &rows[first * rank..], (rank, 0));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{principal_cosines, product_values};
    use crate::Error;
    use ndarray::{Array2, array};

    fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Array2::from_shape_simple_fn((rows, columns), || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
    }

    #[test]
    fn of_a_product_whose_values_are_known() {
        // Orthogonal columns on one side, orthogonal rows on the other: the values are the products of their norms.
        let up = array![[3.0, 0.0], [4.0, 0.0], [0.0, 2.0]];
        let down = array![[0.0, 1.0, 0.0], [6.0, 0.0, 8.0]];
        let found = product_values(up.view(), down.view()).unwrap();
        assert!((found[0] - 20.0).abs() < 1e-13 && (found[1] - 5.0).abs() < 1e-13, "{found:?}");
    }

    #[test]
    fn angles_between_planes_are_found() {
        let (cosine, sine) = (0.6, 0.8);
        // The first two axes, and a plane that shares the first and leans away from the second.
        let first = array![[1.0, 5.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]];
        let second = array![[7.0, 0.0], [0.0, cosine], [0.0, sine], [0.0, 0.0]];
        let found = principal_cosines(first.view(), second.view()).unwrap();
        assert!((found[0] - 1.0).abs() < 1e-9 && (found[1] - cosine).abs() < 1e-9, "{found:?}");
        let doubled = array![[1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]];
        assert_eq!(principal_cosines(first.view(), doubled.view()).unwrap().len(), 1);
        assert!(principal_cosines(first.view(), Array2::zeros((4, 2)).view()).unwrap().is_empty());
        let same = numbers(40, 7, 1);
        let found = principal_cosines(same.view(), same.dot(&numbers(7, 7, 2)).view()).unwrap();
        assert!(found.len() == 7 && found.iter().all(|cosine| (cosine - 1.0).abs() < 1e-9), "{found:?}");
        assert!(matches!(principal_cosines(first.view(), same.view()), Err(Error::Length { .. })));
    }

    #[cfg(feature = "svd")]
    #[test]
    fn they_are_those_of_the_whole_decomposition() {
        for (rows, rank, columns) in
            [(1, 1, 1), (9, 3, 7), (40, 16, 33), (70, 50, 20), (5, 12, 6), (200, 64, 130)]
        {
            let (up, down) = (numbers(rows, rank, 3), numbers(rank, columns, 5));
            let found = product_values(up.view(), down.view()).unwrap();
            let wanted =
                crate::svd::shorten(up.view(), down.view(), crate::svd::Limit::Rank(rank)).unwrap().values;
            assert_eq!(found.len(), wanted.len(), "{rows} {rank} {columns}");
            for (found, value) in found.iter().zip(&wanted) {
                assert!((found - value).abs() < 1e-11 * wanted[0], "{found} is not {value}");
            }
        }
    }

    #[cfg(feature = "svd")]
    #[test]
    fn values_that_fall_off_quickly_keep_their_digits() {
        let rank = 12;
        let mut up = numbers(30, rank, 7);
        for (at, mut column) in up.columns_mut().into_iter().enumerate() {
            column *= 0.3f64.powi(at as i32);
        }
        let down = numbers(rank, 25, 9);
        let found = product_values(up.view(), down.view()).unwrap();
        let wanted =
            crate::svd::shorten(up.view(), down.view(), crate::svd::Limit::Rank(rank)).unwrap().values;
        for (found, value) in found.iter().zip(&wanted) {
            assert!((found - value).abs() < 2e-8 * wanted[0], "{found} is not {value}");
        }
        assert_eq!(found.len(), rank);
    }

    #[test]
    fn factors_that_are_short_of_their_rank_have_fewer_values() {
        let up = array![[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]];
        let down = array![[1.0, 0.0], [0.0, 1.0], [3.0, 5.0]];
        assert_eq!(product_values(up.view(), down.view()).unwrap().len(), 1);
        assert!(product_values((&up * 0.0).view(), down.view()).unwrap().is_empty());
        let tiny = product_values((&up * 1e-200).view(), (&down * 1e-180).view()).unwrap();
        assert!(tiny.is_empty() || tiny[0] >= 0.0);
        assert!(matches!(product_values(up.view(), up.view()), Err(Error::Length { .. })));
        let broken = array![[f64::NAN], [1.0]];
        assert!(matches!(product_values(broken.view(), array![[1.0]].view()), Err(Error::NotFinite)));
    }
}
