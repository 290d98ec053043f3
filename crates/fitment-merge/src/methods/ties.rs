//! TIES: trim, elect signs, mean of those that agree. Three tools, three meanings of the weights.

use super::combine::{TaskArithmetic, disjoint_mean, elected_mean};
use super::sparse::by_magnitude;
use super::{Dense, Failure, Method, Param, Run};

pub(super) const PAPER: Method = Method {
    name: "ties",
    what: "largest elements, signs elected, mean of those that agree; weights multiply the updates",
    formula: "λ · mean of the wᵢ·Δ̂ᵢ with the sign of Σ wᵢ·Δ̂ᵢ (where that is 0, with the sign of most sums), Δ̂ᵢ the ⌊density·n⌋ largest elements of Δᵢ",
    source: "Yadav et al. 2023 (arXiv 2306.01708) on each target by itself; with weights 1 the paper's",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Lambda(1.0)],
    run: Run::Dense(paper),
};

pub(super) const PEFT: Method = Method {
    name: "ties:peft",
    what: "TIES as PEFT has it: weights take no part in the election; divided by the number of those that agree",
    formula: "Σ wᵢ·Δ̂ᵢ / count, both over the Δ̂ᵢ with the sign of Σ Δ̂ᵢ (0 is plus), Δ̂ᵢ the ⌊density·n⌋ largest elements of Δᵢ",
    source: "PEFT 0.21.2 `ties` on dense updates (`ties_svd`), majority_sign_method total",
    warning: None,
    params: &[Param::Density(DENSITY)],
    run: Run::Dense(peft),
};

pub(super) const MERGEKIT: Method = Method {
    name: "ties:mergekit",
    what: "TIES as mergekit has it: weights take part in the election; divided by the weights of those that agree",
    formula: "λ · Σ wᵢ·Δ̂ᵢ / Σ wᵢ, both over the wᵢ·Δ̂ᵢ with the sign of Σ wᵢ·Δ̂ᵢ (0 is plus), Δ̂ᵢ the max(1, ⌊density·n⌋) largest elements of Δᵢ; weights that add up to 0 do not divide",
    source: "mergekit 0.1.5 `ties`, normalize true, in f64",
    warning: None,
    params: &[Param::Density(1.0), Param::Lambda(1.0)],
    run: Run::Dense(mergekit),
};

/// The paper's.
const DENSITY: f64 = 0.2;

fn paper(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let parts = by_magnitude(dense, dense.params.density.unwrap_or(DENSITY), 0);
    Ok(elected_mean(&parts, dense, dense.params.lambda.unwrap_or(1.0)))
}

pub(super) fn peft(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let parts = by_magnitude(dense, dense.params.density.unwrap_or(DENSITY), 0);
    Ok(disjoint_mean(&parts, dense))
}

fn mergekit(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let lambda = dense.params.lambda.unwrap_or(1.0);
    let rule = TaskArithmetic { has_consensus: true, is_normalized: true, lambda };
    Ok(rule.merge(&by_magnitude(dense, dense.params.density.unwrap_or(1.0), 1), dense))
}
