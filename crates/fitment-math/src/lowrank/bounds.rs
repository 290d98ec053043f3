//! bf16 results, computed in f32 where that cannot change how they round.
//!
//! Let `w` be the f32 result, `x` the f64 one, and `t` the tie between the two bf16 numbers around `w`. With
//! `u = 2^-24` and `T = Σ_p |s_p| Σ_k |up·down|`, the usual analysis of a sum (Higham, *Accuracy and Stability of
//! Numerical Algorithms*, 2nd ed., section 3.1) gives `|w − x| ≤ B + ulp(w)/2`, `B = n·u·T / (1 − n·u)`, `n` the longest
//! chain of roundings that a summand passes. By Cauchy and Schwarz, `T` is at most a number of the row times one of the
//! column. If `|w − t| > 2.01·B`, then `w` and `x` round to the same bf16:
//! * `|w − t|` is a whole number of units in the last place of `w`, and not zero, so `B + ulp(w)/2 < |w − t|`: `x` is on
//!   the same side of `t`;
//! * the next tie beyond the neighbour is at least a quarter of a bf16 unit away from it, while `|w − t|` is at most half
//!   a unit, so `B + ulp(w)/2` less than a quarter: `x` does not reach that one either.
//!
//! The other results are computed again in f64.

use super::product::Part;

/// Products added in one run of f32: longer sums are added up from such runs, which keeps the chain of roundings short.
pub(super) const RUN: usize = 16;

/// Scales that leave a factor in the range of f32.
const SCALES: std::ops::RangeInclusive<f64> = 1e-30..=1e30;

/// Chains of roundings for which the estimate of `B` holds with room to spare.
const CHAINS: std::ops::RangeInclusive<usize> = 1..=100_000;

/// What the fast path needs beside the product.
#[derive(Clone, Debug)]
pub(super) struct Fast {
    /// The right factors of the parts, in f32.
    pub(super) rights: Vec<Vec<f32>>,
    /// `2.01 · B` of row and column is at most the product of these two.
    pub(super) row_bounds: Vec<f32>,
    pub(super) column_bounds: Vec<f32>,
}

impl Fast {
    /// None where f32 does not hold a factor, or a scale is out of the ordinary.
    pub(super) fn of(parts: &[Part], columns: usize, width: usize) -> Option<Self> {
        let ordinary = |part: &Part| part.scale == 0.0 || SCALES.contains(&part.scale.abs());
        let narrow = |value: &f64| f64::from(*value as f32) == *value;
        let fits = |part: &Part| ordinary(part) && part.left.iter().chain(&part.right).all(narrow);
        // A scale, a product, the additions of a run, and those of the runs.
        let runs: usize = parts.iter().map(|part| part.rank.div_ceil(RUN)).sum();
        let chain = parts.iter().map(|part| part.rank.min(RUN)).max().unwrap_or(0) + runs;
        if parts.is_empty() || !CHAINS.contains(&chain) || !parts.iter().all(fits) {
            return None;
        }
        // A hundredth more than needed covers the denominator, the roundings of this computation, and underflow.
        let factor = 2.01 * 1.01 * chain as f64 * 2.0_f64.powi(-24);
        // Products that underflow are off by 2^-150 each, and so is a factor: far below these floors' product.
        let summands: f64 = parts.iter().map(|part| 1.0 + part.scale.abs() * part.rank as f64).sum();
        let floor = 2.0_f64.powi(-60);
        let row_bounds =
            row_squares(parts).into_iter().map(|sum| (factor * sum.sqrt()).max(floor * summands) as f32);
        let column_bounds =
            column_squares(parts, columns, width).into_iter().map(|sum| sum.sqrt().max(floor) as f32);
        Some(Fast {
            rights: parts.iter().map(|part| part.right.iter().map(|&value| value as f32).collect()).collect(),
            row_bounds: row_bounds.collect(),
            column_bounds: column_bounds.collect(),
        })
    }
}

/// `Σ_p s_p² Σ_k up[i,k]²` for every row.
fn row_squares(parts: &[Part]) -> Vec<f64> {
    let rows = parts.iter().map(|part| part.left.len() / part.rank).max().unwrap_or(0);
    let mut sums = vec![0.0; rows];
    for part in parts {
        for (sum, row) in sums.iter_mut().zip(part.left.chunks_exact(part.rank)) {
            *sum += part.scale * part.scale * row.iter().map(|value| value * value).sum::<f64>();
        }
    }
    sums
}

/// `Σ_p Σ_k down[k,j]²` for every column.
fn column_squares(parts: &[Part], columns: usize, width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns.next_multiple_of(width)];
    for part in parts {
        for (sums, panel) in sums.chunks_exact_mut(width).zip(part.right.chunks_exact(part.rank * width)) {
            for row in panel.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
            }
        }
    }
    sums
}
