use super::{Dense, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "magnitude-prune",
    what: "the weighted sum of the largest elements of each update",
    formula: "Σ wᵢ·Δ̂ᵢ, Δ̂ᵢ the ⌊density·n⌋ elements of Δᵢ with the largest absolute value, the first of equal ones",
    source: "PEFT 0.21.2 `magnitude_prune` on dense updates (`magnitude_prune_svd`)",
    warning: None,
    params: &[Param::Density(0.5)],
    run: Run::Dense(run),
};

#[allow(clippy::unnecessary_wraps, reason = "the signature is that of all methods")]
fn run(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let density = dense.params.density.unwrap_or(0.5);
    let mut sum = vec![0.0_f32; dense.tasks.first().map_or(0, |(_, values)| values.len())];
    for (weight, values) in dense.tasks {
        let kept = largest(values, count(values.len(), density));
        for ((sum, value), is_kept) in sum.iter_mut().zip(values).zip(kept) {
            if is_kept {
                *sum += (*weight * f64::from(*value)) as f32;
            }
        }
    }
    Ok(sum)
}

/// `⌊density·n⌋`, computed in binary64 as Python does: of 0.29 and 100 it is 28.
pub(super) fn count(elements: usize, density: f64) -> usize {
    ((density * elements as f64) as usize).min(elements)
}

/// Which elements are among the `count` of the largest absolute value; of equal ones the first are.
pub(super) fn largest(values: &[f32], count: usize) -> Vec<bool> {
    if count >= values.len() {
        return vec![true; values.len()];
    }
    if count == 0 {
        return vec![false; values.len()];
    }
    // Absolute values have the order of their bits.
    let mut magnitudes: Vec<u32> = values.iter().map(|value| value.abs().to_bits()).collect();
    let at = magnitudes.len() - count;
    let (_, threshold, above) = magnitudes.select_nth_unstable(at);
    let threshold = *threshold;
    let above = above.iter().filter(|magnitude| **magnitude > threshold).count();
    let mut equal = count - above;
    let mut is_kept = |value: &f32| {
        let magnitude = value.abs().to_bits();
        if magnitude == threshold && equal > 0 {
            equal -= 1;
            return true;
        }
        magnitude > threshold
    };
    values.iter().map(&mut is_kept).collect()
}

#[cfg(test)]
mod tests {
    use super::{count, largest, run};
    use crate::methods::{Dense, Params};

    #[test]
    fn the_elements_are_those_of_peft() {
        // Weights .6 and .4, density .5: PEFT 0.21.2.
        let tasks =
            [(0.6, vec![0.9, -0.4, 0.1, 0., -0.7, 0.2]), (0.4, vec![-0.5, -0.6, 0.3, 0.8, 0.1, -0.2])];
        let params = Params { density: Some(0.5), ..Params::default() };
        let dense = Dense { tasks: &tasks, places: &[0, 1], dims: &[6], name: "w", params: &params };
        let found = run(&dense).unwrap();
        for (found, expected) in found.iter().zip([0.34, -0.48, 0.0, 0.32, -0.42, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn of_equal_elements_the_first_are_kept() {
        assert_eq!(largest(&[1.0, -1.0, 1.0, 0.5], 2), [true, true, false, false]);
        assert_eq!((largest(&[1.0], 0), largest(&[1.0], 5)), (vec![false], vec![true]));
        assert_eq!(count(100, 0.29), 28);
    }
}
