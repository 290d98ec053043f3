use super::shares::Angles;
use super::{Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "slerp",
    what: "between two updates along the arc from one to the other",
    formula: "(sin((1−t)φ)·w₁Δ₁ + sin(tφ)·w₂Δ₂) / sin φ, φ the angle between w₁Δ₁ and w₂Δ₂, each flattened; \
              (1−t)·w₁Δ₁ + t·w₂Δ₂ where |cos φ| > 0.9995; an update of 0 stands at a right angle to any",
    source: "mergekit 0.1.5 `slerp`, on updates instead of whole weights; it has no weights of adapters",
    warning: None,
    params: &[Param::T(0.5)],
    run: Run::Pair(run),
};

#[allow(clippy::unnecessary_wraps, reason = "the signature is that of all methods")]
fn run(angles: &Angles<'_>) -> Result<Vec<f64>, Failure> {
    let angles = angles.weighted();
    let cos = cosine(&angles);
    let (first, second) = arc(cos, angles.params.t.unwrap_or(0.5), cos.abs() > 0.9995);
    Ok(angles.of_updates(&[first, second]))
}

/// Between the first two updates; 0 where one of them is 0.
pub(super) fn cosine(angles: &Angles<'_>) -> f64 {
    let norms = angles.norm(0) * angles.norm(1);
    if norms > 0.0 { (angles.product(0, 1) / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

/// The shares of two vectors with this cosine.
pub(super) fn arc(cos: f64, t: f64, is_straight: bool) -> (f64, f64) {
    if is_straight {
        return (1.0 - t, t);
    }
    let angle = libm::acos(cos);
    let sin = libm::sin(angle);
    (libm::sin((1.0 - t) * angle) / sin, libm::sin(t * angle) / sin)
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, d, merged, models, vector};

    #[test]
    fn the_numbers_are_those_of_mergekit() {
        // Of the models B + d1 and B + d2, t = .3.
        let params = Params { t: Some(0.3), ..Params::default() };
        let found = merged(&METHOD, &models(), &params);
        assert_near(&found, &[1.007065, -0.993765, 1.200607, 2.320323, -1.506255, 0.339443], 1e-6);
    }

    #[test]
    fn nearly_parallel_updates_are_on_a_line_and_a_missing_one_at_a_right_angle() {
        let (first, second) = (vector(&d(0), 1.0), vector(&d(0), 2.0));
        let params = Params { t: Some(0.25), ..Params::default() };
        let found = merged(&METHOD, &[first.clone(), second.clone()], &params);
        assert_near(&found, &d(0).map(|value| 1.25 * value), 1e-12);
        let zero = vector(&d(0), 0.0);
        let found = merged(&METHOD, &[first, zero], &params);
        let factor = (0.75 * std::f64::consts::FRAC_PI_2).sin();
        assert_near(&found, &d(0).map(|value| factor * value), 1e-12);
    }
}
