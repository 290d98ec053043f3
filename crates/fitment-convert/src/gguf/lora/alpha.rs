//! One alpha for all tensors of a file, from which llama.cpp computes the scale of each as `alpha / rank`; or 0, and every scale is 1.
//!
//! Of all that can be said so, the alpha is taken that changes least: first one that gives every scale exactly, where need be with
//! exact multiples in `lora_b`; then one of larger ranks, padded with zeros; then one that gives the nearest number of 32 bits; at last
//! one with the fewest elements of `lora_b` rounded.

use crate::loss::Loss;
use crate::pass::pad::padded;
use crate::pass::sum::{Product, rescaled};
use std::collections::BTreeMap;

/// What is written for one tensor of the base.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    pub(super) stem: String,
    /// The first edit's.
    pub(super) target: String,
    pub(super) product: Product<'a>,
}

/// Alphas that are tried: of the most frequent ones.
const TRIED: usize = 8;

/// The scale that llama.cpp computes, but in doubles.
pub(super) fn scale(alpha: f32, rank: u64) -> f64 {
    // Ranks are extents of tensors in memory: far below 2^53.
    if alpha == 0.0 { 1.0 } else { f64::from(alpha) / rank as f64 }
}

/// An attempt.
struct Settled<'a> {
    units: Vec<Unit<'a>>,
    rounded: Vec<(usize, u64)>,
    near: Vec<usize>,
}

impl Settled<'_> {
    fn cost(&self) -> (u64, usize) {
        (self.rounded.iter().map(|(_, elements)| elements).sum(), self.near.len())
    }
}

/// Settles on an alpha: the units get the factors that go with it. `None` for factors that cannot be scaled so.
pub(super) fn settle<'a>(units: Vec<Unit<'a>>, losses: &mut Vec<Loss>) -> Option<(f32, Vec<Unit<'a>>)> {
    let mut best: Option<(f32, Settled<'a>)> = None;
    for alpha in candidates(&units) {
        let Some(settled) = with(alpha, &units) else { continue };
        let cost = settled.cost();
        if best.as_ref().is_none_or(|(_, best)| cost < best.cost()) {
            best = Some((alpha, settled));
        }
        if cost == (0, 0) {
            break;
        }
    }
    if best.as_ref().is_none_or(|(_, settled)| settled.cost() > (0, 0))
        && let Some((alpha, units)) = with_larger_ranks(&units, losses)
    {
        return Some((alpha, units));
    }
    let (alpha, settled) = best?;
    for (number, elements) in settled.rounded {
        let unit = settled.units.get(number)?;
        losses.push(Loss::Rounded { target: unit.target.clone(), to: unit.product.up.dtype(), elements });
    }
    if let Some(first) = settled.near.first().and_then(|number| settled.units.get(*number)) {
        let (target, targets) = (first.target.clone(), settled.near.len());
        losses.push(Loss::ScaleRounded { target, alpha, targets });
    }
    Some((alpha, settled.units))
}

/// The alphas that would serve, the most frequent first; then none.
fn candidates(units: &[Unit<'_>]) -> Vec<f32> {
    let mut counts: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for (number, unit) in units.iter().enumerate() {
        if let Some(alpha) = nearest(unit.product.scale * unit.product.rank() as f64) {
            let entry = counts.entry(alpha.to_bits()).or_insert((0, usize::MAX - number));
            entry.0 += 1;
        }
    }
    let mut sorted: Vec<(u32, (usize, usize))> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted.iter().take(TRIED).map(|(bits, _)| f32::from_bits(*bits)).chain([0.0]).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "the one rounding to the format's dtype")]
fn nearest(alpha: f64) -> Option<f32> {
    let near = alpha as f32;
    (near.is_finite() && near != 0.0).then_some(near)
}

fn with<'a>(alpha: f32, units: &[Unit<'a>]) -> Option<Settled<'a>> {
    let mut settled =
        Settled { units: Vec::with_capacity(units.len()), rounded: Vec::new(), near: Vec::new() };
    for (number, unit) in units.iter().enumerate() {
        let (from, to) = (unit.product.scale, scale(alpha, unit.product.rank()));
        let mut unit = unit.clone();
        // Half a unit of F32's 24 bits, twice for the rounding of the doubles.
        if from != to && (from - to).abs() <= from.abs() * 2f64.powi(-23) {
            settled.near.push(number);
        } else {
            let (up, elements) = rescaled(&unit.product.up, from, to)?;
            unit.product.up = up;
            settled.rounded.extend((elements > 0).then_some((number, elements)));
        }
        unit.product.scale = to;
        settled.units.push(unit);
    }
    Some(settled)
}

/// The largest alpha that one of them asks for, where every scale is that by some rank; no rank grows beyond twice the largest.
fn with_larger_ranks<'a>(units: &[Unit<'a>], losses: &mut Vec<Loss>) -> Option<(f32, Vec<Unit<'a>>)> {
    let asked = |unit: &Unit<'_>| unit.product.scale * unit.product.rank() as f64;
    let largest = units.iter().map(asked).fold(0.0, f64::max);
    let alpha = nearest(largest)?;
    let bound = units.iter().map(|unit| unit.product.rank()).max()?.checked_mul(2)?;
    let mut grown = Vec::with_capacity(units.len());
    let mut padded_ranks = Vec::new();
    for unit in units {
        let wanted = rank_for(alpha, unit.product.scale).filter(|rank| *rank <= bound)?;
        let from = unit.product.rank();
        let Product { up, down, .. } = &unit.product;
        if wanted < from || (wanted > from && up.dims().len() != 2) {
            return None;
        }
        let (up, down) = padded(up, down, wanted)?;
        if wanted > from {
            padded_ranks.push(Loss::RankPadded { target: unit.target.clone(), from, to: wanted });
        }
        grown.push(Unit { product: Product { up, down, scale: unit.product.scale }, ..unit.clone() });
    }
    losses.extend(padded_ranks);
    Some((alpha, grown))
}

/// The rank at which an alpha gives a scale exactly.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion that saturates, and is checked"
)]
fn rank_for(alpha: f32, wanted: f64) -> Option<u64> {
    let rank = (f64::from(alpha) / wanted).round() as u64;
    (rank > 0 && scale(alpha, rank) == wanted).then_some(rank)
}

#[cfg(test)]
mod tests {
    use super::{Unit, scale, settle};
    use crate::loss::Loss;
    use crate::pass::sum::Product;
    use fitment_core::tensor::Dtype;
    use fitment_math::round::{narrowed, widened};

    fn settled(units: &[(f64, u64)]) -> (f32, Vec<Unit<'static>>, Vec<Loss>) {
        let unit = |(scale, rank): &(f64, u64)| Unit {
            stem: "blk.0.ffn_up".to_owned(),
            target: "up".to_owned(),
            product: Product {
                up: narrowed(Dtype::F32, &[1, *rank], &vec![0.7f32.into(); *rank as usize]).unwrap(),
                down: narrowed(Dtype::F32, &[*rank, 1], &vec![1.0; *rank as usize]).unwrap(),
                scale: *scale,
            },
        };
        let mut losses = Vec::new();
        let (alpha, units) = settle(units.iter().map(unit).collect(), &mut losses).unwrap();
        (alpha, units, losses)
    }

    #[test]
    fn one_alpha_for_ranks_that_go_with_it_changes_nothing() {
        let (alpha, units, losses) = settled(&[(2.0, 3), (3.0, 2), (6.0, 1)]);
        assert_eq!((alpha, losses), (6.0, vec![]));
        assert!(units.iter().all(|unit| scale(alpha, unit.product.rank()) == unit.product.scale));
    }

    #[test]
    fn powers_of_two_go_into_b_without_a_word() {
        let (alpha, units, losses) = settled(&[(2.0, 4), (2.0, 4), (0.5, 4)]);
        assert_eq!((alpha, losses), (8.0, vec![]));
        assert_eq!(widened(&units[2].product.up).unwrap()[0], f64::from(0.7f32) / 4.0);
    }

    #[test]
    fn one_scale_of_several_ranks_is_met_by_padding() {
        let (alpha, units, losses) = settled(&[(1.5, 3), (1.5, 2)]);
        assert_eq!((alpha, units[1].product.rank()), (4.5, 3));
        assert!(matches!(losses[..], [Loss::RankPadded { from: 2, to: 3, .. }]));
    }

    #[test]
    fn without_an_alpha_every_scale_is_one() {
        let (alpha, units, losses) = settled(&[(2.0, 3), (2.0, 2)]);
        assert_eq!((alpha, losses), (0.0, vec![]));
        assert!(units.iter().all(|unit| widened(&unit.product.up).unwrap()[0] == 2.0 * f64::from(0.7f32)));
    }

    #[test]
    fn a_scale_that_no_alpha_of_32_bits_gives_is_the_nearest() {
        let root = 8f64.sqrt();
        let (alpha, units, losses) = settled(&[(root, 4), (root, 4)]);
        assert!(matches!(losses[..], [Loss::ScaleRounded { targets: 2, .. }]), "{losses:?}");
        assert!((scale(alpha, 4) / root - 1.0).abs() < 1e-7);
        assert_eq!(widened(&units[0].product.up).unwrap()[0], f64::from(0.7f32));
    }

    #[test]
    fn the_rest_is_rounded_and_counted() {
        let (alpha, units, losses) = settled(&[(2.0, 3), (2.0, 3), (0.7, 5)]);
        assert!(matches!(losses[..], [Loss::Rounded { elements: 5, .. }]), "{losses:?}");
        assert_eq!(alpha, 6.0);
        let folded = widened(&units[2].product.up).unwrap()[0] * scale(alpha, 5);
        assert!((folded / (0.7 * f64::from(0.7f32)) - 1.0).abs() < 1e-7);
    }

    #[test]
    fn a_scale_of_zero_is_zeros_in_b() {
        let (_, units, losses) = settled(&[(0.0, 2), (1.0, 2)]);
        assert_eq!(losses, []);
        assert_eq!(widened(&units[0].product.up).unwrap(), [0.0, 0.0]);
    }
}
