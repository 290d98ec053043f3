use super::combine::{each, weighted};
use super::sparse::whole;
use super::{Dense, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "ram",
    what: "what one adapter alone changes as it is, the mean of what several change",
    formula: "mean of the wᵢ·Δᵢ with an absolute value above ε, element by element; 0 where there is none",
    source: "mergekit 0.1.5 `ram`, in f64; it knows no weights wᵢ",
    warning: None,
    params: &[Param::Epsilon(EPSILON)],
    run: Run::Dense(run),
};

pub(super) const EPSILON: f64 = 1e-5;

fn run(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let epsilon = dense.params.epsilon.unwrap_or(EPSILON);
    let parts = whole(dense);
    Ok(each(&parts, dense, |row| {
        let (mut sum, mut count) = (0.0, 0_usize);
        for delta in weighted(&parts, row).filter(|delta| delta.abs() > epsilon) {
            sum += delta;
            count += 1;
        }
        sum / count.max(1) as f64
    }))
}
