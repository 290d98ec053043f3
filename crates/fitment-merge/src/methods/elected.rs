//! TIES as the codes of KnOTS, core space and Compress-then-Merge have it, on numbers in f64.

/// The mean, per position, of the largest elements that have the sign of most.
///
/// Of each vector of `n` elements those stay whose absolute value is at least the `(n − ⌊density·n⌋)`-th smallest: one more than
/// `⌊density·n⌋`, and all equal ones. The sign is that of their sum; where that is 0, that of the sum of all signs.
pub(super) fn elected(vectors: &[Vec<f64>], density: f64) -> Vec<f64> {
    let trimmed: Vec<Vec<f64>> = vectors.iter().map(|vector| trimmed(vector, density)).collect();
    let len = trimmed.first().map_or(0, Vec::len);
    let sign = |value: f64| if value == 0.0 { 0.0 } else { value.signum() };
    let signs: Vec<f64> =
        (0..len).map(|at| sign(trimmed.iter().fold(0.0, |sum, vector| sum + vector[at]))).collect();
    let most = sign(signs.iter().sum());
    let mean = |(at, own): (usize, &f64)| {
        let wanted = if *own == 0.0 { most } else { *own };
        let agreed = trimmed.iter().map(|vector| vector[at]).filter(|value| value * wanted > 0.0);
        let (count, sum) = agreed.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
        if count > 0.0 { sum / count } else { 0.0 }
    };
    signs.iter().enumerate().map(mean).collect()
}

fn trimmed(vector: &[f64], density: f64) -> Vec<f64> {
    let count = ((density * vector.len() as f64) as usize).min(vector.len());
    let Some(at) = (vector.len() - count).checked_sub(1) else { return vector.to_vec() };
    let mut magnitudes: Vec<f64> = vector.iter().map(|value| value.abs()).collect();
    let (_, threshold, _) = magnitudes.select_nth_unstable_by(at, f64::total_cmp);
    let threshold = *threshold;
    vector.iter().map(|value| if value.abs() >= threshold { *value } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::elected;
    use crate::methods::sample::{dense, integers};

    #[test]
    fn the_numbers_are_those_of_the_research_code_on_dense_updates() {
        let vectors: Vec<Vec<f64>> =
            dense(&integers()).iter().map(|update| update.iter().copied().collect()).collect();
        let expected = [
            2.5, 4., -2., 2., 3., -2., 0., 4., -2., -6., 5., 3., 9., -6., 4., -2., 3., 2., -2., 2., 7., -3.,
            -4.5, 4., 6., 0., 0., 2.5, -2., -2.,
        ];
        assert_eq!(elected(&vectors, 0.5), expected);
    }

    #[test]
    fn one_more_than_the_share_stays_and_all_equal_ones_and_everything_at_one() {
        let alone = |density| elected(&[vec![4.0, -1.0, 3.0, 2.0, 1.0]], density);
        assert_eq!(alone(0.2), [4.0, 0.0, 3.0, 0.0, 0.0]);
        assert_eq!(alone(0.6), [4.0, -1.0, 3.0, 2.0, 1.0]);
        assert_eq!(alone(1.0), [4.0, -1.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn where_values_cancel_the_sign_of_most_positions_decides() {
        assert_eq!(elected(&[vec![1.0, 2.0], vec![-1.0, 2.0]], 1.0), [1.0, 2.0]);
        assert_eq!(elected(&[vec![1.0, -2.0], vec![-1.0, -2.0]], 1.0), [-1.0, -2.0]);
        assert_eq!(elected(&[vec![1.0], vec![-1.0]], 1.0), [0.0]);
    }
}
