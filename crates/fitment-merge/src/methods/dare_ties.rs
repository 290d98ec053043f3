//! DARE's random choice with TIES's election. Nothing is trimmed by magnitude.

use super::combine::{TaskArithmetic, disjoint_mean, elected_mean};
use super::draws::{Draw, with_draws};
use super::sparse::{at_random, at_random_l1};
use super::{Dense, Failure, Method, Param, Run};

pub(super) const PAPER: Method = Method {
    name: "dare-ties",
    what: "elements by chance as in dare, then signs and mean as in ties",
    formula: "λ · mean of the wᵢ·Δ̂ᵢ with the sign of Σ wᵢ·Δ̂ᵢ (where that is 0, with the sign of most sums), Δ̂ᵢ = Δᵢ/density with probability density, else 0",
    source: "Yu et al. 2023 (arXiv 2311.03099) before Yadav et al. 2023 (arXiv 2306.01708), without its trimming",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Lambda(1.0), Param::Seed],
    run: Run::Dense(|dense| Ok(with_draws(dense, paper))),
};

pub(super) const PEFT: Method = Method {
    name: "dare-ties:peft",
    what: "elements by chance as in dare:peft, then signs and mean as in ties:peft; the draws are ours",
    formula: "Σ wᵢ·Δ̂ᵢ / count, both over the Δ̂ᵢ with the sign of Σ Δ̂ᵢ (0 is plus), Δ̂ᵢ = Δᵢ/density with probability density, else 0",
    source: "PEFT 0.21.2 `dare_ties` on dense updates (`dare_ties_svd`), majority_sign_method total",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Seed],
    run: Run::Dense(run_peft),
};

pub(super) const MERGEKIT: Method = Method {
    name: "dare-ties:mergekit",
    what: "elements by chance as in dare:mergekit, then the sum of those with the elected sign; the draws are ours",
    formula: "λ · Σ of the wᵢ·Δ̂ᵢ with the sign of Σ wᵢ·Δ̂ᵢ (0 is plus), Δ̂ᵢ = cᵢ·Δᵢ with probability density, else 0; cᵢ = Σ|Δᵢ| / Σ|Δᵢ that stays|",
    source: "mergekit 0.1.5 `dare_ties`, normalize false, rescale true, in f64",
    warning: None,
    params: &[Param::Density(1.0), Param::Lambda(1.0), Param::Seed],
    run: Run::Dense(|dense| Ok(with_draws(dense, mergekit))),
};

const DENSITY: f64 = 0.5;

pub(super) fn run_peft(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    Ok(with_draws(dense, peft))
}

pub(super) fn paper(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    let parts = at_random(dense, dense.params.density.unwrap_or(DENSITY), draw);
    elected_mean(&parts, dense, dense.params.lambda.unwrap_or(1.0))
}

pub(super) fn peft(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    disjoint_mean(&at_random(dense, dense.params.density.unwrap_or(DENSITY), draw), dense)
}

pub(super) fn mergekit(dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    let lambda = dense.params.lambda.unwrap_or(1.0);
    let rule = TaskArithmetic { has_consensus: true, is_normalized: false, lambda };
    rule.merge(&at_random_l1(dense, dense.params.density.unwrap_or(1.0), draw), dense)
}
