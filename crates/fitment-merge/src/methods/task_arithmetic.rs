use super::{Core, Dense, Factors, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "task-arithmetic",
    what: "the weighted sum, times lambda",
    formula: "λ · Σ wᵢ·Δᵢ",
    source: "Ilharco et al. 2023 (arXiv 2212.04089); mergekit 0.1.5 `task_arithmetic` without normalize",
    warning: None,
    params: &[Param::Lambda(1.0)],
    run: Run::Either(run, dense),
};

#[allow(clippy::unnecessary_wraps, reason = "the signature is that of all methods")]
fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    let (up, down) = core.weighted();
    Ok((up * core.params.lambda.unwrap_or(1.0), down))
}

#[allow(clippy::unnecessary_wraps, reason = "the signature is that of all methods")]
fn dense(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let lambda = dense.params.lambda.unwrap_or(1.0);
    let elements = dense.tasks.first().map_or(0, |(_, values)| values.len());
    let sum =
        |at: usize| dense.tasks.iter().map(|(weight, values)| weight * f64::from(values[at])).sum::<f64>();
    Ok((0..elements).map(|at| (lambda * sum(at)) as f32).collect())
}
