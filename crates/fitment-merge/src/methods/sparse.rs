//! Which elements of an update stay, and by what factor those grow.

use super::Dense;
use super::draws::Draw;

/// An update of which some elements are left.
pub(super) struct Sparse<'d> {
    /// `wᵢ`.
    pub(super) weight: f64,
    values: &'d [f32],
    pub(super) is_kept: Vec<bool>,
    /// Multiplies what is left.
    factor: f64,
}

impl Sparse<'_> {
    /// `Δ̂ᵢ`, without the weight.
    pub(super) fn at(&self, element: usize) -> f64 {
        if self.is_kept[element] { self.factor * f64::from(self.values[element]) } else { 0.0 }
    }
}

/// Every update with the elements that `keep` marks, and the factor that it gives.
fn each<'d>(dense: &Dense<'d>, mut keep: impl FnMut(usize, &[f32]) -> (Vec<bool>, f64)) -> Vec<Sparse<'d>> {
    let tasks: &'d [(f64, Vec<f32>)] = dense.tasks;
    let sparse = |(index, (weight, values)): (usize, &'d (f64, Vec<f32>))| {
        let (is_kept, factor) = keep(index, values);
        Sparse { weight: *weight, values, is_kept, factor }
    };
    tasks.iter().enumerate().map(sparse).collect()
}

/// Updates as they are.
pub(super) fn whole<'d>(dense: &Dense<'d>) -> Vec<Sparse<'d>> {
    each(dense, |_, values| (vec![true; values.len()], 1.0))
}

/// The `⌊density·n⌋` elements of the largest absolute value, at least so many.
pub(super) fn by_magnitude<'d>(dense: &Dense<'d>, density: f64, at_least: usize) -> Vec<Sparse<'d>> {
    each(dense, |_, values| {
        let count = count(values.len(), density).max(at_least);
        (largest(values.len(), count, |element| values[element].abs().to_bits()), 1.0)
    })
}

/// Elements below the `⌊gamma·n⌋` of the largest absolute value: `⌊density·n⌋` of them, where there are so many.
pub(super) fn below_outliers<'d>(dense: &Dense<'d>, density: f64, gamma: f64) -> Vec<Sparse<'d>> {
    each(dense, |_, values| {
        let magnitude = |element: usize| values[element].abs().to_bits();
        let (kept, top) = (count(values.len(), density), count(values.len(), gamma));
        let bottom = (values.len() - kept).saturating_sub(top);
        let mut is_kept = largest(values.len(), values.len() - bottom, magnitude);
        let above = largest(values.len(), values.len() - bottom - kept, magnitude);
        is_kept.iter_mut().zip(above).for_each(|(is_kept, is_above)| *is_kept &= !is_above);
        (is_kept, 1.0)
    })
}

/// Each element with probability `density`, times `1/density`.
pub(super) fn at_random<'d>(dense: &Dense<'d>, density: f64, draw: &mut Draw<'_>) -> Vec<Sparse<'d>> {
    each(dense, |task, values| (values.iter().map(|_| draw(task) < density).collect(), 1.0 / density))
}

/// The same, times what the absolute values add up to by what those of the kept ones do.
pub(super) fn at_random_l1<'d>(dense: &Dense<'d>, density: f64, draw: &mut Draw<'_>) -> Vec<Sparse<'d>> {
    if density >= 1.0 {
        return whole(dense);
    }
    each(dense, |task, values| {
        let is_kept: Vec<bool> = values.iter().map(|_| draw(task) < density).collect();
        let factor = l1(values, &is_kept);
        (is_kept, factor)
    })
}

/// Each element of a row of `columns` with a probability that grows with its rank from `density − epsilon` to
/// `density + epsilon`, scaled as [`at_random_l1`] does it.
pub(super) fn by_rank<'d>(
    dense: &Dense<'d>,
    (density, epsilon): (f64, f64),
    draw: &mut Draw<'_>,
) -> Vec<Sparse<'d>> {
    if density >= 1.0 {
        return whole(dense);
    }
    let rows = if dense.dims.len() < 2 { 1 } else { dense.dims[0] };
    each(dense, |task, values| {
        let columns = usize::try_from(rows).map_or(1, |rows| values.len() / rows.max(1)).max(1);
        let mut is_kept = Vec::with_capacity(values.len());
        let mut order: Vec<usize> = Vec::with_capacity(columns);
        let mut probability = vec![density; columns];
        for row in values.chunks(columns) {
            order.clear();
            order.extend(0..row.len());
            // Of equal elements the first count as larger.
            order.sort_by_key(|column| (row[*column].abs().to_bits(), usize::MAX - column));
            for (rank, column) in order.iter().enumerate().filter(|_| row.len() > 1) {
                let place = rank as f64 / (row.len() - 1) as f64;
                probability[*column] = density - epsilon + 2.0 * epsilon * place;
            }
            is_kept.extend(probability[..row.len()].iter().map(|probability| draw(task) < *probability));
        }
        let factor = l1(values, &is_kept);
        (is_kept, factor)
    })
}

/// `Σ|x| / Σ|kept x|`; 1 where either is as good as nothing.
fn l1(values: &[f32], is_kept: &[bool]) -> f64 {
    const NOTHING: f64 = 1e-7;
    let sum = |values: &mut dyn Iterator<Item = &f32>| -> f64 { values.map(|x| f64::from(x.abs())).sum() };
    let all = sum(&mut values.iter());
    let kept = sum(&mut values.iter().zip(is_kept).filter(|(_, is_kept)| **is_kept).map(|(x, _)| x));
    if all < NOTHING || kept < NOTHING { 1.0 } else { all / kept }
}

/// `⌊density·n⌋`, computed in binary64 as Python does: of 0.29 and 100 it is 28.
pub(super) fn count(elements: usize, density: f64) -> usize {
    ((density * elements as f64) as usize).min(elements)
}

/// Which elements have the `count` largest keys; of equal ones the first are taken.
pub(super) fn largest<K: Ord + Copy>(elements: usize, count: usize, key: impl Fn(usize) -> K) -> Vec<bool> {
    if count >= elements {
        return vec![true; elements];
    }
    if count == 0 {
        return vec![false; elements];
    }
    let mut keys: Vec<K> = (0..elements).map(&key).collect();
    let (_, threshold, above) = keys.select_nth_unstable(elements - count);
    let threshold = *threshold;
    let mut equal = count - above.iter().filter(|key| **key > threshold).count();
    let mut is_kept = |element: usize| {
        let key = key(element);
        if key == threshold && equal > 0 {
            equal -= 1;
            return true;
        }
        key > threshold
    };
    (0..elements).map(&mut is_kept).collect()
}

#[cfg(test)]
mod tests {
    use super::{below_outliers, by_rank, count, largest};
    use crate::methods::{Dense, Params};

    #[test]
    fn of_equal_elements_the_first_are_kept() {
        let of = |values: &[f32], count| largest(values.len(), count, |at| values[at].abs().to_bits());
        assert_eq!(of(&[1.0, -1.0, 1.0, 0.5], 2), [true, true, false, false]);
        assert_eq!((of(&[1.0], 0), of(&[1.0], 5), of(&[], 3)), (vec![false], vec![true], vec![]));
        assert_eq!(count(100, 0.29), 28);
    }

    fn kept(values: &[f32], dims: &[u64], rule: impl Fn(&Dense<'_>) -> Vec<f64>) -> Vec<f64> {
        let (tasks, params) = ([(1.0, values.to_vec())], Params::default());
        rule(&Dense { tasks: &tasks, places: &[0], dims, name: "w", params: &params })
    }

    #[test]
    fn outliers_and_small_elements_fall_away() {
        let values = [5.0, 1.0, -2.0, 3.0, -4.0];
        let of = |density, gamma| {
            kept(&values, &[5], |dense| {
                let sparse = below_outliers(dense, density, gamma);
                (0..5).map(|at| sparse[0].at(at)).collect()
            })
        };
        assert_eq!(of(0.4, 0.2), [0.0, 0.0, 0.0, 3.0, -4.0]);
        // Where too few are left below the outliers, the smallest are kept, outliers among them if need be.
        assert_eq!(of(0.8, 0.4), [0.0, 1.0, -2.0, 3.0, -4.0]);
        assert_eq!(of(1.0, 0.5), [5.0, 1.0, -2.0, 3.0, -4.0]);
    }

    #[test]
    fn ranks_are_those_of_a_row_and_one_column_has_none() {
        let of = |values: &[f32], dims: &[u64], draw: f64| {
            kept(values, dims, |dense| {
                let sparse = by_rank(dense, (0.5, 0.25), &mut |_| draw);
                (0..values.len()).map(|at| sparse[0].at(at)).collect()
            })
        };
        // Probabilities .25, .5, .75 in each row; a draw of .6 keeps the largest, times 12/8.
        assert_eq!(of(&[1.0, 3.0, -2.0, 5.0, 0.5, 0.5], &[2, 3], 0.6), [0.0, 4.5, 0.0, 7.5, 0.0, 0.0]);
        assert_eq!(of(&[1.0, 3.0], &[2, 1], 0.4), [1.0, 3.0]);
        assert_eq!(of(&[], &[0], 0.4), [0.0_f64; 0]);
    }
}
