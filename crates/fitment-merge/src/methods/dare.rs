//! DARE: elements dropped at random, the rest grown to make up for them.

use super::combine::{TaskArithmetic, sum};
use super::draws::{Draw, with_draws};
use super::sparse::{at_random, at_random_l1};
use super::{Dense, Failure, Method, Param, Run};

pub(super) const PAPER: Method = Method {
    name: "dare",
    what: "the weighted sum of updates of which each element stays by chance",
    formula: "Σ wᵢ·Δ̂ᵢ, Δ̂ᵢ = Δᵢ/density with probability density, else 0, element by element",
    source: "Yu et al. 2023 (arXiv 2311.03099), drop rate 1 − density",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Seed],
    run: Run::Dense(run),
};

pub(super) const PEFT: Method = Method {
    name: "dare:peft",
    what: "the same, by the name of PEFT's dare_linear; the draws are ours",
    source: "PEFT 0.21.2 `dare_linear` on dense updates (`dare_linear_svd`)",
    ..PAPER
};

pub(super) const MERGEKIT: Method = Method {
    name: "dare:mergekit",
    what: "DARE as mergekit has it: what stays is scaled to the absolute sum of the whole; the draws are ours",
    formula: "λ · Σ wᵢ·Δ̂ᵢ, Δ̂ᵢ = cᵢ·Δᵢ with probability density, else 0; cᵢ = Σ|Δᵢ| / Σ|Δᵢ that stays|",
    source: "mergekit 0.1.5 `dare_linear`, normalize false, rescale true, in f64",
    warning: None,
    params: &[Param::Density(1.0), Param::Lambda(1.0), Param::Seed],
    run: Run::Dense(|dense| Ok(with_draws(dense, mergekit))),
};

const DENSITY: f64 = 0.5;

pub(super) fn run(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    Ok(with_draws(dense, paper))
}

pub(super) fn paper(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    sum(&at_random(dense, dense.params.density.unwrap_or(DENSITY), draw), dense)
}

pub(super) fn mergekit(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    let lambda = dense.params.lambda.unwrap_or(1.0);
    let rule = TaskArithmetic { has_consensus: false, is_normalized: false, lambda };
    rule.merge(&at_random_l1(dense, dense.params.density.unwrap_or(1.0), draw), dense)
}
