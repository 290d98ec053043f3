use super::core_ties::ties;
use super::cores::{beside, first};
use super::{Core, Factors, Failure, Method, Param, Run};
use fitment_math::ndarray::{Array2, ArrayView2};
use fitment_math::svd::{orthonormal, thin_svd};

pub(super) const METHOD: Method = Method {
    name: "knots-ties",
    what: "TIES on the updates as their common left singular vectors see them",
    formula: "λ·U·ties(Σ·Vᵢᵀ) of [w₁Δ₁ | w₂Δ₂ | …] = U·Σ·[V₁ᵀ | V₂ᵀ | …] (the form Σ·V, not V alone), singular values of rounding \
              left out; ties, of each target by itself: of each Σ·Vᵢᵀ of n elements the ⌊density·n⌋+1 largest and all equal to \
              the last, then the mean of those with the sign of their sum",
    source: "Stoica et al. 2025, KnOTS (arXiv 2410.19735), its published class per matrix; its TIES is over all layers at once, and it has \
             no scales and weights of adapters",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Lambda(1.0)],
    run: Run::Core(run),
};

const DENSITY: f64 = 0.2;

fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    let (left, seen) = aligned(core)?;
    let merged = ties(&seen, core.params.density.unwrap_or(DENSITY));
    Ok((left * core.params.lambda.unwrap_or(1.0), merged))
}

/// `U` `[out, r]` of all updates side by side, and `Uᵀ·wᵢΔᵢ = Σ·Vᵢᵀ` `[r, in]` of each; at least one direction.
fn aligned(core: &Core<'_>) -> Result<(Array2<f64>, Vec<Array2<f64>>), Failure> {
    let ups: Vec<ArrayView2<'_, f64>> = core.tasks.iter().map(|task| task.up.view()).collect();
    let basis = orthonormal(beside(&ups)?.view())?;
    let small: Vec<Array2<f64>> =
        core.tasks.iter().map(|task| basis.t().dot(&task.scaled_up(task.weight))).collect();
    // The left vectors of [C₁A₁ | …] are those of [C₁R₁ᵀ | …] with Aᵢᵀ = QᵢRᵢ, as the Qᵢ are orthonormal.
    let mut short = Vec::with_capacity(small.len());
    for (small, task) in small.iter().zip(core.tasks) {
        short.push(small.dot(&task.down.dot(&orthonormal(task.down.t())?)));
    }
    let short: Vec<ArrayView2<'_, f64>> = short.iter().map(|short| short.view()).collect();
    let svd = thin_svd(beside(&short)?.view())?;
    let columns: usize = core.tasks.iter().map(|task| task.down.ncols()).sum();
    let floor = basis.nrows().max(columns) as f64 * f64::EPSILON * svd.values.first().unwrap_or(&0.0);
    let rank = svd.values.iter().take_while(|value| **value > floor).count().max(1);
    let directions = first(&svd, rank).left;
    let seen = small.iter().zip(core.tasks).map(|(small, task)| directions.t().dot(small).dot(&task.down));
    let seen = seen.collect();
    Ok((basis.dot(&directions), seen))
}

#[cfg(test)]
mod tests {
    use super::{METHOD, aligned};
    use crate::methods::sample::{assert_near, dense, integers, merged, three};
    use crate::methods::{Core, Params};
    use fitment_math::ndarray::{Array2, Axis, concatenate};
    use fitment_math::svd::thin_svd;

    #[test]
    fn the_numbers_are_those_of_the_research_code() {
        let expected = [
            1.265559, 2.085016, 0.618302, 0.309848, 5.229323, -1.122354, 1.391621, 4.209017, -2.366126,
            -5.423025, 5.044082, 2.750273, 8.158175, -6.003988, 4.26753, -1.843518, 3.347583, 3.30235,
            -1.934541, -0.016739, 4.303982, -3.001942, -5.304893, 4.278196, 6.260374, 0.791818, 1.868431,
            4.145814, -2.155542, -1.191275,
        ];
        let params = Params { density: Some(0.5), ..Params::default() };
        assert_near(&merged(&METHOD, &integers(), &params), &expected, 1e-6);
    }

    #[test]
    fn what_is_merged_is_what_the_dense_definition_merges() {
        let tasks = three();
        let (places, weights) = ([0, 1, 2], [0.5, 1.25, 0.75]);
        let core = Core { tasks: &tasks, places: &places, weights: &weights, params: &Params::default() };
        let (left, seen) = aligned(&core).unwrap();
        let updates = dense(&tasks);
        let beside =
            concatenate(Axis(1), &[updates[0].view(), updates[1].view(), updates[2].view()]).unwrap();
        let svd = thin_svd(beside.view()).unwrap();
        assert_eq!(left.dim(), (13, 6));
        for of in 0..6 {
            let row: f64 = seen.iter().map(|seen| seen.row(of).dot(&seen.row(of))).sum();
            assert!((row.sqrt() - svd.values[of]).abs() < 1e-10, "the rows of Σ·V have the length σ");
        }
        // The sum of what is merged is the sum of the updates.
        let sum = left.dot(&seen.iter().fold(Array2::zeros((6, 9)), |sum: Array2<f64>, seen| sum + seen));
        let expected = updates.into_iter().reduce(|sum, update| sum + update).unwrap();
        assert_near(&sum, &expected, 1e-10);
    }
}
