use super::shares::Angles;
use super::{Failure, Method, Run};

pub(super) const METHOD: Method = Method {
    name: "karcher",
    what: "the mean direction on the sphere (Karcher's), at the mean length, all in equal parts",
    formula: "m·(1/k)Σ ‖wᵢΔᵢ‖, m the point of the sphere with the least sum of squared angles to the k directions wᵢΔᵢ/‖wᵢΔᵢ‖: \
              m ← cos‖v‖·m + sin‖v‖·v/‖v‖, v the mean of θᵢ/sin θᵢ·(uᵢ − ⟨uᵢ,m⟩m), at most 10 times, until ‖v‖ < 1e-5. No \
              update at all has no direction and the length 0",
    source: "mergekit 0.1.5 `karcher`, max_iter 10, tol 1e-5, on updates; it has no weights of adapters",
    warning: None,
    params: &[],
    run: Run::Shares(run),
};

const ROUNDS: usize = 10;
const TOLERANCE: f64 = 1e-5;

fn run(angles: &Angles<'_>) -> Result<Vec<f64>, Failure> {
    let angles = angles.weighted();
    let adapters = angles.weights.iter().filter(|weight| **weight != 0.0).count();
    let directed: Vec<usize> = (0..angles.len()).filter(|of| angles.norm(*of) > 0.0).collect();
    if directed.is_empty() {
        return Ok(vec![0.0; angles.len()]);
    }
    let part = 1.0 / directed.len() as f64;
    // Vectors are shares of the updates.
    let mut mean = vec![0.0; angles.len()];
    directed.iter().for_each(|of| mean[*of] = part / angles.norm(*of));
    if !scaled_to_one(&angles, &mut mean) {
        return Err(Failure::Undefined("the directions cancel: they have no mean".to_owned()));
    }
    for _ in 0..ROUNDS {
        let mut step = vec![0.0; angles.len()];
        for of in &directed {
            let cos = (angles.along(*of, &mean) / angles.norm(*of)).clamp(-1.0, 1.0);
            let angle = libm::acos(cos);
            if angle < TOLERANCE {
                continue;
            }
            let pull = part * angle / libm::sin(angle);
            step[*of] += pull / angles.norm(*of);
            step.iter_mut().zip(&mean).for_each(|(step, mean)| *step -= pull * cos * mean);
        }
        let length = angles.norm_of(&step);
        if length < TOLERANCE {
            break;
        }
        let (cos, sin) = (libm::cos(length), libm::sin(length) / length);
        mean.iter_mut().zip(&step).for_each(|(mean, step)| *mean = cos * *mean + sin * step);
        scaled_to_one(&angles, &mut mean);
    }
    let size = directed.iter().fold(0.0, |sum, of| sum + angles.norm(*of)) / adapters as f64;
    mean.iter_mut().for_each(|share| *share *= size);
    Ok(angles.of_updates(&mean))
}

/// Whether the vector has a direction.
fn scaled_to_one(angles: &Angles<'_>, shares: &mut [f64]) -> bool {
    let length = angles.norm_of(shares);
    shares.iter_mut().for_each(|share| *share /= length);
    length > TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, d, merged, models, vector};

    #[test]
    fn the_numbers_are_those_of_mergekit() {
        let found = merged(&METHOD, &models(), &Params::default());
        assert_near(&found, &[0.736351, -1.039783, 1.24796, 2.493711, -1.35757, 0.26243], 1e-6);
    }

    #[test]
    fn an_update_without_others_is_itself_times_its_part() {
        let (one, zero) = (vector(&d(0), 1.0), vector(&[0.0; 6], 1.0));
        let found = merged(&METHOD, &[one.clone(), zero.clone()], &Params::default());
        assert_near(&found, &d(0).map(|value| value / 2.0), 1e-12);
        assert_near(&merged(&METHOD, &[one], &Params::default()), &d(0), 1e-12);
        assert_near(&merged(&METHOD, &[zero.clone(), zero], &Params::default()), &[0.0; 6], 0.0);
    }
}
