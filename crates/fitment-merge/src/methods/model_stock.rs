use super::shares::Angles;
use super::{Failure, Method, Run};

pub(super) const METHOD: Method = Method {
    name: "model-stock",
    what: "the mean update, the shorter the less the updates agree",
    formula: "t·(1/N)Σ wᵢΔᵢ with t = N·c/(1+(N−1)·c), c the mean cosine of two of the N updates wᵢΔᵢ. No update at all has the \
              cosine 0 to any, so what one adapter alone changes becomes 0",
    source: "Jang et al. 2024 (arXiv 2403.19522); mergekit 0.1.5 `model_stock` without filter_wise; it has no weights of adapters",
    warning: None,
    params: &[],
    run: Run::Shares(run),
};

/// Below this product of lengths a cosine counts as if the product were this, as in mergekit.
const LEAST: f64 = 1e-6;

fn run(angles: &Angles<'_>) -> Result<Vec<f64>, Failure> {
    let angles = angles.weighted();
    let members: Vec<usize> = (0..angles.len()).filter(|of| angles.weights[*of] != 0.0).collect();
    if members.len() < 2 {
        return Err(Failure::Undefined("model-stock is of 2 adapters or more, 1 named here".to_owned()));
    }
    let (mut sum, mut pairs) = (0.0, 0.0);
    for (at, a) in members.iter().enumerate() {
        for b in &members[..at] {
            sum += angles.product(*a, *b) / (angles.norm(*a) * angles.norm(*b)).max(LEAST);
            pairs += 1.0;
        }
    }
    let (cos, count) = (sum / pairs, members.len() as f64);
    let divisor = 1.0 + (count - 1.0) * cos;
    let t = if divisor.abs() < LEAST { 0.0 } else { count * cos / divisor };
    Ok(angles.of_updates(&vec![t / count; angles.len()]))
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, d, deltas, merged, vector, with_base};

    #[test]
    fn the_numbers_are_those_of_mergekit() {
        let found = with_base(&merged(&METHOD, &deltas([1.0, 1.0]), &Params::default()));
        assert_near(&found, &[0.399893, -0.249732, 0.899893, 1.799786, -0.849839, 0.25], 1e-6);
    }

    #[test]
    fn updates_that_agree_are_kept_and_what_one_alone_does_is_not() {
        let (one, zero) = (vector(&d(0), 1.0), vector(&[0.0; 6], 1.0));
        assert_near(&merged(&METHOD, &[one.clone(), one.clone()], &Params::default()), &d(0), 1e-12);
        assert_near(&merged(&METHOD, &[one, zero], &Params::default()), &[0.0; 6], 0.0);
    }
}
