use super::{Core, Factors, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "task-arithmetic",
    what: "the weighted sum, times lambda",
    formula: "λ · Σ wᵢ·Δᵢ",
    source: "Ilharco et al. 2023 (arXiv 2212.04089); mergekit 0.1.5 `task_arithmetic` without normalize",
    warning: None,
    params: &[Param::Lambda(1.0)],
    run: Run::Core(run),
};

#[allow(clippy::unnecessary_wraps, reason = "the signature is that of all methods")]
fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    let (up, down) = core.weighted();
    Ok((up * core.params.lambda.unwrap_or(1.0), down))
}
