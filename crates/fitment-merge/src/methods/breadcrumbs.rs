//! Model breadcrumbs: neither the largest elements nor the small ones.

use super::combine::TaskArithmetic;
use super::sparse::below_outliers;
use super::{Dense, Failure, Method, Param, Run};

pub(super) const SUM: Method = Method {
    name: "breadcrumbs",
    what: "the weighted sum of the elements below the very largest of each update",
    formula: "λ · Σ wᵢ·Δ̂ᵢ, Δ̂ᵢ the ⌊density·n⌋ elements of Δᵢ with the largest absolute value below the ⌊gamma·n⌋ that are larger",
    source: "mergekit 0.1.5 `breadcrumbs`, in f64; Davari and Belilovsky 2023 (arXiv 2312.06795)",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Gamma(GAMMA), Param::Lambda(1.0)],
    run: Run::Dense(sum),
};

pub(super) const ELECTED: Method = Method {
    name: "breadcrumbs-ties",
    what: "the same elements, of which those with the elected sign are added",
    formula: "λ · Σ of the wᵢ·Δ̂ᵢ with the sign of Σ wᵢ·Δ̂ᵢ (0 is plus), Δ̂ᵢ as in breadcrumbs",
    source: "mergekit 0.1.5 `breadcrumbs_ties`, in f64",
    run: Run::Dense(elected),
    ..SUM
};

const DENSITY: f64 = 0.5;
const GAMMA: f64 = 0.01;

fn sum(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    Ok(merged(dense, false))
}

fn elected(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    Ok(merged(dense, true))
}

fn merged(dense: &Dense<'_>, has_consensus: bool) -> Vec<f32> {
    let params = dense.params;
    let parts = below_outliers(dense, params.density.unwrap_or(DENSITY), params.gamma.unwrap_or(GAMMA));
    let rule = TaskArithmetic { has_consensus, is_normalized: false, lambda: params.lambda.unwrap_or(1.0) };
    rule.merge(&parts, dense)
}
