//! Eigenvalues of small symmetric matrices, without the vectors.

/// Sweeps after which the search for one eigenvalue is given up; three are usual.
const MOST_SWEEPS: usize = 60;

/// The eigenvalues, in no order, of a symmetric matrix given whole in rows of `side`: Householder reflections to a
/// tridiagonal matrix, then implicit QL with Wilkinson's shift (Golub and Van Loan, Matrix Computations, 8.3). `None` when
/// that does not end.
pub(super) fn eigenvalues(matrix: Vec<f64>, side: usize) -> Option<Vec<f64>> {
    let (mut diagonal, mut beside) = tridiagonal(matrix, side);
    ql(&mut diagonal, &mut beside)?;
    Some(diagonal)
}

/// Diagonal, and the numbers beside it: `beside[i]` joins `i` and `i + 1`; the last is 0.
fn tridiagonal(mut matrix: Vec<f64>, side: usize) -> (Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; side];
    let (mut reflector, mut image) = (vec![0.0; side], vec![0.0; side]);
    for at in 0..side.saturating_sub(2) {
        let rest = side - at - 1;
        let (v, p) = (&mut reflector[..rest], &mut image[..rest]);
        v.copy_from_slice(&matrix[at * side + at + 1..(at + 1) * side]);
        let tail: f64 = v[1..].iter().map(|value| value * value).sum();
        if tail == 0.0 {
            beside[at] = v[0];
            continue;
        }
        let norm = (v[0] * v[0] + tail).sqrt();
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        beside[at] = alpha;
        v[0] -= alpha;
        // `H = I − v·vᵀ/h`, of which `H·A·H = A − v·qᵀ − q·vᵀ`.
        let h = 0.5 * (v[0] * v[0] + tail);
        for (row, image) in p.iter_mut().enumerate() {
            let line = &matrix[(at + 1 + row) * side + at + 1..(at + 2 + row) * side];
            *image = dot(line, v) / h;
        }
        let half = dot(p, v) / (2.0 * h);
        p.iter_mut().zip(&*v).for_each(|(p, v)| *p -= half * v);
        for row in 0..rest {
            let line = &mut matrix[(at + 1 + row) * side + at + 1..(at + 2 + row) * side];
            let (a, b) = (v[row], p[row]);
            for ((cell, p), v) in line.iter_mut().zip(&*p).zip(&*v) {
                *cell -= a * p + b * v;
            }
        }
    }
    if side > 1 {
        beside[side - 2] = matrix[(side - 2) * side + side - 1];
    }
    ((0..side).map(|at| matrix[at * side + at]).collect(), beside)
}

/// In eight sums, so that it need not wait for each.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (wide, rest) = a.as_chunks::<8>();
    let (others, last) = b.as_chunks::<8>();
    for (a, b) in wide.iter().zip(others) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let tail: f64 = rest.iter().zip(last).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + tail
}

fn ql(diagonal: &mut [f64], beside: &mut [f64]) -> Option<()> {
    let side = diagonal.len();
    for first in 0..side {
        let mut sweeps = 0;
        loop {
            let small = |at: &usize| {
                let around = diagonal[*at].abs() + diagonal[*at + 1].abs();
                beside[*at].abs() <= f64::EPSILON * around
            };
            let last = (first..side - 1).find(small).unwrap_or(side - 1);
            if last == first {
                break;
            }
            sweeps += 1;
            if sweeps > MOST_SWEEPS {
                return None;
            }
            sweep(diagonal, beside, first, last);
        }
    }
    Some(())
}

/// One implicit step on the block `first..=last`.
fn sweep(diagonal: &mut [f64], beside: &mut [f64], first: usize, last: usize) {
    let g = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
    let root = g.hypot(1.0);
    let mut g = diagonal[last] - diagonal[first] + beside[first] / (g + root.copysign(g));
    let (mut sine, mut cosine, mut taken) = (1.0, 1.0, 0.0);
    for at in (first..last).rev() {
        let (f, b) = (sine * beside[at], cosine * beside[at]);
        let r = f.hypot(g);
        beside[at + 1] = r;
        if r == 0.0 {
            diagonal[at + 1] -= taken;
            beside[last] = 0.0;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        let back = diagonal[at + 1] - taken;
        let r = (diagonal[at] - back) * sine + 2.0 * cosine * b;
        taken = sine * r;
        diagonal[at + 1] = back + taken;
        g = cosine * r - b;
    }
    diagonal[first] -= taken;
    beside[first] = g;
    beside[last] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::eigenvalues;

    fn sorted(matrix: &[f64], side: usize) -> Vec<f64> {
        let mut values = eigenvalues(matrix.to_vec(), side).unwrap();
        values.sort_by(f64::total_cmp);
        values
    }

    #[test]
    fn of_matrices_whose_values_are_known() {
        assert_eq!(sorted(&[], 0), Vec::<f64>::new());
        assert_eq!(sorted(&[3.0], 1), [3.0]);
        assert_eq!(sorted(&[2.0, 1.0, 1.0, 2.0], 2).map_near(), [1.0, 3.0]);
        assert_eq!(sorted(&[0.0; 16], 4), [0.0; 4]);
        // The second difference on n points: 2 − 2·cos(πk/(n+1)).
        let side = 50;
        let mut matrix = vec![0.0; side * side];
        for at in 0..side {
            matrix[at * side + at] = 2.0;
            if at + 1 < side {
                matrix[at * side + at + 1] = -1.0;
                matrix[(at + 1) * side + at] = -1.0;
            }
        }
        for (k, value) in sorted(&matrix, side).into_iter().enumerate() {
            let wanted = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / (side + 1) as f64).cos();
            assert!((value - wanted).abs() < 1e-13, "{value} is not {wanted}");
        }
    }

    #[test]
    fn of_a_matrix_of_rank_one() {
        let v: Vec<f64> = (1..=9).map(f64::from).collect();
        let matrix: Vec<f64> = v.iter().flat_map(|a| v.iter().map(move |b| a * b)).collect();
        let values = sorted(&matrix, 9);
        assert!((values[8] - 285.0).abs() < 1e-11 && values[..8].iter().all(|value| value.abs() < 1e-11));
    }

    trait Near {
        fn map_near(self) -> Vec<f64>;
    }

    impl Near for Vec<f64> {
        fn map_near(self) -> Vec<f64> {
            self.into_iter().map(|value| (value * 1e12).round() / 1e12).collect()
        }
    }
}
