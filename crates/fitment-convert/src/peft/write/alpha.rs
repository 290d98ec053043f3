//! An alpha from which PEFT computes a scale exactly.

/// Alpha and rank with `alpha / rank == scale` in doubles; the rank may have to grow, padded with zeros.
///
/// `None` for a scale that no finite alpha gives.
pub(super) fn exact(scale: f64, rank: u64) -> Option<(f64, u64)> {
    // Ranks are extents of tensors in memory, far below 2^53.
    let divisor = rank as f64;
    let product = scale * divisor;
    let near = [product, product.next_up(), product.next_down()];
    if let Some(alpha) = near.into_iter().find(|alpha| alpha.is_finite() && alpha / divisor == scale) {
        return Some((alpha, rank));
    }
    // A power of two only moves the exponent.
    let padded = rank.checked_next_power_of_two()?;
    let alpha = scale * padded as f64;
    (alpha.is_finite() && alpha / padded as f64 == scale).then_some((alpha, padded))
}

#[cfg(test)]
mod tests {
    use super::exact;
    use proptest::prelude::{ProptestConfig, any, prop_assert_eq, prop_assume, proptest};

    #[test]
    fn plain_scales_keep_their_rank() {
        assert_eq!(exact(2.0, 8), Some((16.0, 8)));
        assert_eq!(exact(0.0, 8), Some((0.0, 8)));
        assert_eq!(exact(f64::NAN, 8), None);
        assert_eq!(exact(f64::MAX, 8), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_usual_scale_is_met_exactly(scale in any::<f64>(), rank in 1u64..5000) {
            prop_assume!(scale.is_finite() && scale.abs() < 1e290 && (scale == 0.0 || scale.abs() > 1e-290));
            let (alpha, rank) = exact(scale, rank).unwrap();
            prop_assert_eq!(alpha / rank as f64, scale);
        }
    }
}
