use super::shares::Angles;
use super::{Failure, Method, Run};

pub(super) const METHOD: Method = Method {
    name: "multislerp",
    what: "the weighted mean of directions on the sphere, at the weighted mean length",
    formula: "y·Σ vᵢ‖Δᵢ‖ with vᵢ = wᵢ/Σw, uᵢ = Δᵢ/(‖Δᵢ‖+ε), m = Σ vᵢuᵢ of length 1, z = Σ vᵢ(uᵢ − ⟨uᵢ,m⟩m), n = ‖z‖+ε, \
              y = cos(n)·m + sin(n)·z/n, ε = 1e-8; Σ vᵢΔᵢ of two that point in opposite directions. No update at all counts \
              as one of length 0",
    source: "mergekit 0.1.5 `multislerp` with a base, normalize_weights",
    warning: None,
    params: &[],
    run: Run::Shares(run),
};

const EPSILON: f64 = 1e-8;

fn run(angles: &Angles<'_>) -> Result<Vec<f64>, Failure> {
    let total: f64 = angles.weights.iter().sum();
    if total == 0.0 {
        return Err(Failure::Undefined("the weights add up to 0: their mean is undefined".to_owned()));
    }
    let weights: Vec<f64> = angles.weights.iter().map(|weight| weight / total).collect();
    if weights.iter().filter(|weight| **weight != 0.0).count() == 1 {
        return Ok(weights);
    }
    // uᵢ = Δᵢ·unit[i]; vectors are shares of the Δᵢ.
    let unit: Vec<f64> = (0..angles.len()).map(|of| 1.0 / (angles.norm(of) + EPSILON)).collect();
    let mut mean: Vec<f64> = weights.iter().zip(&unit).map(|(weight, unit)| weight * unit).collect();
    let length = angles.norm_of(&mean);
    if length < EPSILON {
        return match angles.len() {
            2 => Ok(weights),
            _ => Err(Failure::Undefined("the directions cancel: they have no mean".to_owned())),
        };
    }
    mean.iter_mut().for_each(|share| *share /= length);
    let mut tangent: Vec<f64> = weights.iter().zip(&unit).map(|(weight, unit)| weight * unit).collect();
    let towards =
        (0..angles.len()).fold(0.0, |sum, of| sum + weights[of] * unit[of] * angles.along(of, &mean));
    tangent.iter_mut().zip(&mean).for_each(|(share, mean)| *share -= towards * mean);
    let angle = angles.norm_of(&tangent) + EPSILON;
    let size = (0..angles.len()).fold(0.0, |sum, of| sum + weights[of] * angles.norm(of));
    let (cos, sin) = (libm::cos(angle), libm::sin(angle) / angle);
    Ok(mean.iter().zip(&tangent).map(|(mean, tangent)| size * (cos * mean + sin * tangent)).collect())
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, d, deltas, merged, models, vector, with_base};

    #[test]
    fn the_numbers_are_those_of_mergekit() {
        let mut models = models();
        (models[0].weight, models[1].weight) = (0.7, 0.3);
        let found = merged(&METHOD, &models, &Params::default());
        assert_near(&found, &[1.019751, -0.99173, 1.198532, 2.312508, -1.513322, 0.343058], 1e-6);
        let found = with_base(&merged(&METHOD, &deltas([0.7, 0.3]), &Params::default()));
        assert_near(&found, &[1.164416, -1.155929, 1.229774, 2.350886, -1.643477, 0.358661], 1e-6);
    }

    #[test]
    fn opposite_updates_are_on_a_line_and_one_alone_is_itself() {
        let (first, second) = (vector(&d(0), 1.0), vector(&d(0).map(|value| -value), 1.0));
        let found = merged(&METHOD, &[first.clone(), second], &Params::default());
        assert_near(&found, &[0.0; 6], 1e-12);
        assert_near(&merged(&METHOD, &[first], &Params::default()), &d(0), 1e-12);
    }
}
