//! Orthonormal matrices as torch's `parametrizations.orthogonal` keeps them (torch 2.15, `nn/utils/parametrizations.py`),
//! computed in f64.
//!
//! With trivialisation, its default, a matrix `Q` is `base · E(original)`. For a tall `original` `[n, k]`, `k < n`, `E` is a
//! product of Householder reflections; for a square one the exponential of the skew-symmetric `tril(X) − tril(X)ᵀ`.

/// Rows of a square matrix whose exponential is computed: the work grows with the cube.
pub const MAX_EXPONENTIAL: usize = 1024;

/// `Q` `[rows, columns]`, row by row, `columns ≤ rows`; `base` is `[rows, rows]`, the identity when `None`.
///
/// `None` when lengths do not go with the extents, `columns` is above `rows`, or a square matrix is too large.
pub fn rotation(original: &[f64], base: Option<&[f64]>, [rows, columns]: [usize; 2]) -> Option<Vec<f64>> {
    let fits = original.len() == rows.checked_mul(columns)? && columns <= rows && columns > 0;
    if !fits || base.is_some_and(|base| Some(base.len()) != rows.checked_mul(rows)) {
        return None;
    }
    let q = if rows == columns {
        if rows > MAX_EXPONENTIAL {
            return None;
        }
        exponential(&skew(original, rows), rows)
    } else {
        householder(original, rows, columns)
    };
    Some(match base {
        None => q,
        Some(base) => product(base, &q, [rows, rows, columns]),
    })
}

/// The largest element of `|UᵀU − I|` of a matrix `[rows, columns]`.
pub fn departure(u: &[f64], columns: usize) -> f64 {
    let mut far = 0.0f64;
    for i in 0..columns {
        for j in i..columns {
            let dot: f64 = u.chunks_exact(columns).map(|row| row[i] * row[j]).sum();
            far = far.max((dot - f64::from(u8::from(i == j))).abs());
        }
    }
    far
}

/// `H₁ · … · H_k` applied to the first columns of the identity; column `j` has the sign of the diagonal's integer part.
fn householder(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut e = vec![0.0; rows * columns];
    (0..columns).for_each(|column| e[column * columns + column] = 1.0);
    for i in (0..columns).rev() {
        // v is 0 above i, 1 at i, and the original below.
        let v = |row: usize| if row == i { 1.0 } else { x[row * columns + i] };
        let square: f64 = (i + 1..rows).map(|row| x[row * columns + i].powi(2)).sum();
        let tau = 2.0 / (1.0 + square);
        for column in 0..columns {
            let dot: f64 = (i..rows).map(|row| v(row) * e[row * columns + column]).sum();
            (i..rows).for_each(|row| e[row * columns + column] -= tau * v(row) * dot);
        }
    }
    for row in e.chunks_exact_mut(columns) {
        for (column, element) in row.iter_mut().enumerate() {
            *element *= x[column * columns + column].trunc();
        }
    }
    e
}

fn skew(x: &[f64], n: usize) -> Vec<f64> {
    let lower = |row: usize, column: usize| if row >= column { x[row * n + column] } else { 0.0 };
    (0..n * n).map(|at| lower(at / n, at % n) - lower(at % n, at / n)).collect()
}

/// Scaling and squaring with a Taylor series: below a norm of 1/2, 18 terms leave less than 1e-16.
fn exponential(a: &[f64], n: usize) -> Vec<f64> {
    let norm =
        a.chunks_exact(n).map(|row| row.iter().map(|element| element.abs()).sum::<f64>()).fold(0.0, f64::max);
    let squarings = if norm > 0.5 { (norm / 0.5).log2().ceil() as i32 } else { 0 };
    let scaled: Vec<f64> = a.iter().map(|element| element / 2f64.powi(squarings)).collect();
    let mut sum = vec![0.0; n * n];
    (0..n).for_each(|at| sum[at * n + at] = 1.0);
    let mut term = sum.clone();
    for order in 1..=18 {
        term = product(&term, &scaled, [n, n, n]);
        term.iter_mut().for_each(|element| *element /= f64::from(order));
        sum.iter_mut().zip(&term).for_each(|(sum, term)| *sum += term);
    }
    for _ in 0..squarings {
        sum = product(&sum, &sum, [n, n, n]);
    }
    sum
}

fn product(a: &[f64], b: &[f64], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let mut out = vec![0.0; rows * columns];
    for (row, line) in out.chunks_exact_mut(columns).enumerate() {
        for (a, b) in a[row * inner..(row + 1) * inner].iter().zip(b.chunks_exact(columns)) {
            line.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{departure, rotation};

    #[test]
    fn both_maps_are_orthonormal_whatever_the_parameters() {
        let x =
            |count: usize| (0..count).map(|at| ((at * 7919 % 101) as f64 - 50.0) / 37.0).collect::<Vec<_>>();
        for [rows, columns] in [[5, 5], [9, 1], [9, 4], [30, 29], [1, 1]] {
            let mut original = x(rows * columns);
            if rows > columns {
                (0..columns).for_each(|at| original[at * columns + at] = -1.0);
            }
            let q = rotation(&original, None, [rows, columns]).expect("sound");
            assert!(departure(&q, columns) < 1e-12, "{rows} {columns}");
            let base = rotation(&x(rows * rows), None, [rows, rows]).expect("sound");
            let q = rotation(&original, Some(&base), [rows, columns]).expect("sound");
            assert!(departure(&q, columns) < 1e-12);
        }
        assert!(rotation(&x(6), None, [2, 3]).is_none());
        assert!(rotation(&x(5), None, [3, 2]).is_none());
        assert!(rotation(&x(6), Some(&x(4)), [3, 2]).is_none());
    }
}
