use super::cores::{Basis, Cores, first, joined, polar};
use super::{Core, Factors, Failure, Method, Param, Run};
use fitment_math::svd::Svd;

pub(super) const METHOD: Method = Method {
    name: "tsv",
    what: "the singular vectors of each update, made orthogonal to those of the others",
    formula: "λ·U⊥·Σ·V⊥ᵀ, U, Σ, V the first k singular vectors and values of every wᵢΔᵢ side by side, k = min(rᵢ, \
              ⌊min(out, in)/T⌋) for the T adapters of the target, X⊥ = P·Qᵀ of X = P·S·Qᵀ",
    source: "Gargiulo et al. 2025, TSV-M (arXiv 2412.00081); no direction beyond an update's own rank; it has no weights of adapters",
    warning: None,
    params: &[Param::Lambda(1.0)],
    run: Run::Core(run),
};

fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    let cores = Cores::new(core, Basis::Any)?;
    let (side, tasks) = (cores.side(), core.tasks.len());
    let most = side / tasks;
    if most == 0 {
        let reason = format!("{tasks} adapters share the {side} directions of a side: none is left for each");
        return Err(Failure::Undefined(reason));
    }
    let parts = cores.cores.iter().map(|core| Ok(first(&cores.svd(core)?, most)));
    let all = joined(&parts.collect::<Result<Vec<Svd>, Failure>>()?)?;
    let straight = Svd { left: polar(&all.left)?, right: polar(&all.right)?, values: all.values };
    Ok(cores.product(&straight, core.params.lambda.unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::cores::columns;
    use crate::methods::sample::{assert_near, dense, integers, merged, random, three, try_merged};
    use crate::methods::{Failure, Params};
    use fitment_math::ndarray::{Array1, Array2, Axis, concatenate};
    use fitment_math::svd::thin_svd;

    #[test]
    fn the_numbers_are_those_of_the_research_code() {
        let expected = [
            3.413115, 3.835337, -1.74514, 0.51244, 1.614371, -1.212162, 1.374482, 4.768741, -2.646927,
            -5.65948, 3.811477, -2.502933, 8.053465, -3.188706, 12.239022, -1.318232, 5.72278, 2.131475,
            -3.498315, -1.662415, 6.687405, -3.966338, -6.600465, 6.949231, 2.769246, 1.563125, 1.565935,
            3.615974, -1.574646, -1.875153,
        ];
        assert_near(&merged(&METHOD, &integers(), &Params::default()), &expected, 1e-6);
    }

    #[test]
    fn it_is_the_dense_definition() {
        let tasks = three();
        let (mut left, mut values, mut right) = (Vec::new(), Vec::new(), Vec::new());
        for (update, task) in dense(&tasks).iter().zip(&tasks) {
            let svd = thin_svd(update.view()).unwrap();
            let k = task.up.ncols().min(9 / 3);
            left.push(columns(&svd.left, k));
            right.push(columns(&svd.right, k));
            values.extend_from_slice(&svd.values[..k]);
        }
        let polar = |parts: &[Array2<f64>]| {
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let svd = thin_svd(concatenate(Axis(1), &views).unwrap().view()).unwrap();
            svd.left.dot(&svd.right.t())
        };
        let (left, right) = (polar(&left), polar(&right));
        let identity = left.t().dot(&left) - Array2::<f64>::eye(values.len());
        assert_near(&identity, &vec![0.0; values.len().pow(2)], 1e-12);
        let expected = left.dot(&Array2::from_diag(&Array1::from(values))).dot(&right.t());
        assert_near(&merged(&METHOD, &tasks, &Params::default()), &expected, 1e-10);
    }

    #[test]
    fn an_update_with_itself_is_itself() {
        let task = random(7, (8, 2, 6), (2.0, 0.5));
        let found = merged(&METHOD, &[task.clone(), task.clone()], &Params::default());
        assert_near(&found, &dense(&[task])[0], 1e-12);
    }

    #[test]
    fn more_adapters_than_directions_have_no_result() {
        let tasks = [1, 2, 3].map(|seed| random(seed, (2, 1, 6), (1.0, 1.0)));
        let found = try_merged(&METHOD, &tasks, (&Params::default(), 1));
        assert!(
            matches!(found, Err(Failure::Undefined(reason)) if reason.contains("3 adapters share the 2"))
        );
    }
}
