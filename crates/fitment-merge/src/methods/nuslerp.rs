use super::shares::Angles;
use super::slerp::{arc, cosine};
use super::{Failure, Method, Run};

pub(super) const METHOD: Method = Method {
    name: "nuslerp",
    what: "between two updates along the arc, at the place that their weights say",
    formula: "(sin((1−t)φ)·Δ₁ + sin(tφ)·Δ₂) / sin φ, t = w₂/(w₁+w₂), φ the angle between Δ₁ and Δ₂, each flattened; \
              (1−t)·Δ₁ + t·Δ₂ where 1 − cos² φ ≤ 1e-16; an update of 0 stands at a right angle to any",
    source: "mergekit 0.1.5 `nuslerp` with a base, nuslerp_flatten",
    warning: None,
    params: &[],
    run: Run::Pair(run),
};

#[allow(clippy::unnecessary_wraps, reason = "the signature is that of all methods")]
fn run(angles: &Angles<'_>) -> Result<Vec<f64>, Failure> {
    let total: f64 = angles.weights.iter().sum();
    let second = angles.weights.get(1).copied().unwrap_or(0.0);
    let t = if total.abs() < 1e-6 { 0.5 } else { second / total };
    let cos = cosine(angles);
    let (first, second) = arc(cos, t, 1.0 - cos * cos <= 1e-16);
    Ok(vec![first, second])
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, deltas, merged, models, with_base};

    #[test]
    fn the_numbers_are_those_of_mergekit() {
        let mut models = models();
        (models[0].weight, models[1].weight) = (0.7, 0.3);
        let found = merged(&METHOD, &models, &Params::default());
        assert_near(&found, &[1.007065, -0.993765, 1.200607, 2.320323, -1.506255, 0.339443], 1e-6);
        let found = with_base(&merged(&METHOD, &deltas([0.7, 0.3]), &Params::default()));
        assert_near(&found, &[1.110241, -1.196695, 1.251794, 2.413977, -1.624124, 0.339612], 1e-6);
    }

    #[test]
    fn weights_that_cancel_mean_the_middle() {
        let middle = merged(&METHOD, &deltas([1.0, 1.0]), &Params::default());
        assert_near(&merged(&METHOD, &deltas([1.0, -1.0]), &Params::default()), &middle, 1e-15);
    }
}
