use super::cores::{Basis, Cores, first};
use super::{Core, Factors, Failure, Method, Param, Run};
use fitment_math::ndarray::Array2;

pub(super) const METHOD: Method = Method {
    name: "cart",
    what: "the mean of the updates, and of how each differs from it the strongest directions",
    formula: "M + λ·Σ SVD_k(wᵢΔᵢ − M), M the mean of the wᵢΔᵢ of the adapters that change the target, k = ⌈density·R⌉ of the \
              largest singular values, R the rank of all updates side by side",
    source: "CART 2024, as the research code of arXiv 2606.03723 has it, with R in place of min(out, in); it has no weights of adapters",
    warning: None,
    params: &[Param::Density(SHARE), Param::Lambda(1.0)],
    run: Run::Core(run),
};

/// The share of the paper.
const SHARE: f64 = 0.04;

fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    let cores = Cores::new(core, Basis::Any)?;
    let mean = cores.sum() / core.tasks.len() as f64;
    let (rows, columns) = cores.dim();
    let kept = (core.params.density.unwrap_or(SHARE) * rows.min(columns) as f64).ceil() as usize;
    let lambda = core.params.lambda.unwrap_or(1.0);
    let mut all = mean.clone();
    for core in &cores.cores {
        let part = first(&cores.svd(&(core - &mean))?, kept);
        let values = Array2::from_shape_fn((1, part.values.len()), |(_, of)| lambda * part.values[of]);
        all += &(&part.left * &values).dot(&part.right.t());
    }
    Ok(cores.factors(&all, 1.0)?)
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::cores::columns;
    use crate::methods::sample::{assert_near, dense, integers, merged, three};
    use fitment_math::ndarray::{Array1, Array2};
    use fitment_math::svd::thin_svd;

    #[test]
    fn the_numbers_are_those_of_the_research_code() {
        let expected = [
            2.5, 1.5, -2., 1., 3., -1.5, -0.5, 4., -2., -3., 2.5, 0.5, 3.5, -1.5, 4., -0.5, 2., 1., -1.5,
            0.5, 4., -1.5, -4.5, 4., 2.5, 0.5, 0., 2.5, -1., -0.5,
        ];
        let params = Params { lambda: Some(0.5), ..Params::default() };
        assert_near(&merged(&METHOD, &integers(), &params), &expected, 1e-6);
    }

    #[test]
    fn it_is_the_dense_definition() {
        let updates = dense(&three());
        let mean =
            updates.iter().fold(Array2::zeros(updates[0].dim()), |sum: Array2<f64>, one| sum + one) / 3.0;
        for (density, kept) in [(0.1, 1), (0.5, 3)] {
            let mut expected = mean.clone();
            for update in &updates {
                let svd = thin_svd((update - &mean).view()).unwrap();
                let values = Array2::from_diag(&Array1::from(svd.values[..kept].to_vec()));
                let part = columns(&svd.left, kept).dot(&values).dot(&columns(&svd.right, kept).t());
                expected = expected + part * 0.7;
            }
            let params = Params { density: Some(density), lambda: Some(0.7), ..Params::default() };
            assert_near(&merged(&METHOD, &three(), &params), &expected, 1e-10);
        }
    }
}
