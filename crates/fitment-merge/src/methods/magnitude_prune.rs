use super::combine::sum;
use super::sparse::by_magnitude;
use super::{Dense, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "magnitude-prune",
    what: "the weighted sum of the largest elements of each update",
    formula: "Σ wᵢ·Δ̂ᵢ, Δ̂ᵢ the ⌊density·n⌋ elements of Δᵢ with the largest absolute value, the first of equal ones",
    source: "PEFT 0.21.2 `magnitude_prune` on dense updates (`magnitude_prune_svd`)",
    warning: None,
    params: &[Param::Density(DENSITY)],
    run: Run::Dense(run),
};

const DENSITY: f64 = 0.5;

pub(super) fn run(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let density = dense.params.density.unwrap_or(DENSITY);
    Ok(sum(&by_magnitude(dense, density, 0), dense))
}
