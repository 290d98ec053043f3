//! DELLA: elements dropped at random, small ones of a row more often than large ones.

use super::combine::TaskArithmetic;
use super::draws::{Draw, with_draws};
use super::sparse::by_rank;
use super::{Dense, Method, Param, Run};

pub(super) const ELECTED: Method = Method {
    name: "della",
    what: "elements by chance, larger ones of a row more likely; signs elected, weighted mean of those that agree",
    formula: "λ · Σ wᵢ·Δ̂ᵢ / Σ wᵢ, both over the wᵢ·Δ̂ᵢ with the sign of Σ wᵢ·Δ̂ᵢ (0 is plus); Δ̂ᵢ = cᵢ·Δᵢ with probability density − ε + 2ε·ν, else 0; ν from 0 to 1 by the rank of |Δᵢ| in its row (the first axis counts the rows); cᵢ = Σ|Δᵢ| / Σ|Δᵢ that stays|",
    source: "mergekit 0.1.5 `della`, normalize and rescale true, in f64; Deep et al. 2024 (arXiv 2406.11617) divide by the probability instead",
    warning: None,
    params: PARAMS,
    run: Run::Dense(|dense| Ok(with_draws(dense, elected))),
};

pub(super) const LINEAR: Method = Method {
    name: "della-linear",
    what: "elements by chance as in della, then the weighted sum",
    formula: "λ · Σ wᵢ·Δ̂ᵢ, Δ̂ᵢ as in della",
    source: "mergekit 0.1.5 `della_linear`, normalize false, rescale true, in f64",
    run: Run::Dense(|dense| Ok(with_draws(dense, linear))),
    ..ELECTED
};

const DENSITY: f64 = 0.5;
const EPSILON: f64 = 0.15;
const PARAMS: &[Param] = &[Param::Density(DENSITY), Param::Epsilon(EPSILON), Param::Lambda(1.0), Param::Seed];

pub(super) fn elected(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    merged(dense, draw, true)
}

pub(super) fn linear(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    merged(dense, draw, false)
}

fn merged(dense: &Dense<'_>, draw: &mut Draw<'_>, is_elected: bool) -> Vec<f32> {
    let params = dense.params;
    let shares = (params.density.unwrap_or(DENSITY), params.epsilon.unwrap_or(EPSILON));
    let lambda = params.lambda.unwrap_or(1.0);
    let rule = TaskArithmetic { has_consensus: is_elected, is_normalized: is_elected, lambda };
    rule.merge(&by_rank(dense, shares, draw), dense)
}
