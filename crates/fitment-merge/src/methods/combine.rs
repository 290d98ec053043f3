//! What several updates make of each element, in f64 with one rounding at the end.

use super::Dense;
use super::sparse::Sparse;

/// What `rule` makes of `Δ̂` of every adapter, element by element.
pub(super) fn each(parts: &[Sparse<'_>], dense: &Dense<'_>, mut rule: impl FnMut(&[f64]) -> f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(dense.elements());
    visit(parts, dense, |row| values.push(rule(row) as f32));
    values
}

/// Calls `take` with `Δ̂` of every adapter, element by element.
pub(super) fn visit(parts: &[Sparse<'_>], dense: &Dense<'_>, mut take: impl FnMut(&[f64])) {
    let mut row = vec![0.0; parts.len()];
    for element in 0..dense.elements() {
        row.iter_mut().zip(parts).for_each(|(value, part)| *value = part.at(element));
        take(&row);
    }
}

/// `Σ wᵢ·Δ̂ᵢ`.
pub(super) fn sum(parts: &[Sparse<'_>], dense: &Dense<'_>) -> Vec<f32> {
    each(parts, dense, |row| weighted(parts, row).sum())
}

/// `wᵢ·Δ̂ᵢ` of an element.
pub(super) fn weighted<'r>(parts: &'r [Sparse<'_>], row: &'r [f64]) -> impl Iterator<Item = f64> + 'r {
    row.iter().zip(parts).map(|(value, part)| part.weight * value)
}

/// `λ` times the mean of those `wᵢ·Δ̂ᵢ` whose sign is that of their sum; where the sum is 0, that of most of the sums.
pub(super) fn elected_mean(parts: &[Sparse<'_>], dense: &Dense<'_>, lambda: f64) -> Vec<f32> {
    let mut balance = 0_i64;
    visit(parts, dense, |row| balance += i64::from(sign(weighted(parts, row).sum())));
    let majority = sign(balance as f64);
    each(parts, dense, |row| {
        let own = sign(weighted(parts, row).sum());
        let elected = if own == 0 { majority } else { own };
        let (mut sum, mut count) = (0.0, 0_usize);
        for value in weighted(parts, row).filter(|value| elected != 0 && sign(*value) == elected) {
            sum += value;
            count += 1;
        }
        lambda * sum / count.max(1) as f64
    })
}

/// PEFT's disjoint mean: signs by `Σ Δ̂ᵢ` with 0 for plus, `Σ wᵢ·Δ̂ᵢ` of those that agree by their number.
pub(super) fn disjoint_mean(parts: &[Sparse<'_>], dense: &Dense<'_>) -> Vec<f32> {
    each(parts, dense, |row| {
        let elected = sign_or_plus(row.iter().sum());
        let (mut sum, mut count) = (0.0, 0_usize);
        for (value, part) in row.iter().zip(parts).filter(|(value, _)| sign(**value) == elected) {
            sum += part.weight * value;
            count += 1;
        }
        sum / count.max(1) as f64
    })
}

/// How mergekit's family of task arithmetic puts updates together.
#[derive(Clone, Copy)]
pub(super) struct TaskArithmetic {
    /// Only those whose sign is that of the weighted sum, with 0 for plus.
    pub(super) has_consensus: bool,
    /// Divided by the sum of the weights of those that take part.
    pub(super) is_normalized: bool,
    pub(super) lambda: f64,
}

impl TaskArithmetic {
    pub(super) fn merge(self, parts: &[Sparse<'_>], dense: &Dense<'_>) -> Vec<f32> {
        each(parts, dense, |row| {
            let elected = sign_or_plus(weighted(parts, row).sum());
            let (mut sum, mut divisor) = (0.0, 0.0);
            for (value, part) in weighted(parts, row).zip(parts) {
                if !self.has_consensus || sign(value) == elected {
                    sum += value;
                    divisor += part.weight;
                }
            }
            if self.is_normalized {
                let is_none = if self.has_consensus { divisor == 0.0 } else { f64::abs(divisor) < 1e-8 };
                sum /= if is_none { 1.0 } else { divisor };
            }
            self.lambda * sum
        })
    }
}

/// −1, 0 or 1.
pub(super) fn sign(value: f64) -> i8 {
    i8::from(value > 0.0) - i8::from(value < 0.0)
}

/// The same with 1 for 0.
pub(super) fn sign_or_plus(value: f64) -> i8 {
    if value < 0.0 { -1 } else { 1 }
}
