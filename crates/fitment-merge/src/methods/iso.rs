//! Iso-C and Iso-CTS: all directions as strong as each other.

use super::cores::{Basis, Cores, first, joined, polar};
use super::{Core, Factors, Failure, Method, Param, Run};
use fitment_math::svd::Svd;

pub(super) const ISO_C: Method = Method {
    name: "iso-c",
    what: "the weighted sum with all its singular values made equal",
    formula: "λ·σ̄·U·Vᵀ, U, V the singular vectors of Σ wᵢΔᵢ and σ̄ the mean of its singular values, those of rounding left out",
    source: "Marczak et al. 2025 (arXiv 2502.04959), on the numerical rank as for LoRA in arXiv 2606.03723; it has no weights of adapters",
    warning: None,
    params: &[Param::Lambda(1.0)],
    run: Run::Core(iso_c),
};

pub(super) const ISO_CTS: Method = Method {
    name: "iso-cts",
    what: "the strongest directions of the sum, and some of each update beside them, all equally strong",
    formula: "λ·σ̄·U⊥·V⊥ᵀ, U, V the first c singular vectors of S = Σ wᵢΔᵢ beside the first (n−c)/T of each wᵢΔᵢ without those, n \
              the rank of S, n−c the multiple of T nearest to n − ⌊0.8·n⌋, σ̄ the mean of their singular values, X⊥ = P·Qᵀ of \
              X = P·S·Qᵀ",
    source: "Marczak et al. 2025 (arXiv 2502.04959), with the rank of the sum in place of min(out, in); it has no weights of adapters",
    warning: None,
    params: &[Param::Lambda(1.0)],
    run: Run::Core(iso_cts),
};

/// Share of the directions that are those of the sum.
const COMMON: f64 = 0.8;

fn iso_c(core: &Core<'_>) -> Result<Factors, Failure> {
    let cores = Cores::new(core, Basis::Any)?;
    let svd = cores.svd(&cores.sum())?;
    Ok(cores.product(&level(svd), core.params.lambda.unwrap_or(1.0)))
}

fn iso_cts(core: &Core<'_>) -> Result<Factors, Failure> {
    let cores = Cores::new(core, Basis::Any)?;
    let sum = cores.svd(&cores.sum())?;
    let each = each(sum.values.len(), core.tasks.len());
    let common = first(&sum, sum.values.len().saturating_sub(each * core.tasks.len()));
    let mut parts = Vec::with_capacity(core.tasks.len() + 1);
    for core in &cores.cores {
        let rest = core - &common.left.dot(&common.left.t().dot(core));
        parts.push(first(&cores.svd(&rest)?, each));
    }
    parts.push(common);
    let all = level(joined(&parts)?);
    let straight = Svd { left: polar(&all.left)?, right: polar(&all.right)?, values: all.values };
    Ok(cores.product(&straight, core.params.lambda.unwrap_or(1.0)))
}

/// How many of `rank` directions each of `tasks` has for itself, rounded half to even as Python does.
fn each(rank: usize, tasks: usize) -> usize {
    let rest = rank - (COMMON * rank as f64) as usize;
    (rest as f64 / tasks as f64).round_ties_even() as usize
}

/// Every singular value becomes the mean of all.
fn level(mut svd: Svd) -> Svd {
    let mean = svd.values.iter().sum::<f64>() / svd.values.len().max(1) as f64;
    svd.values.fill(mean);
    svd
}

#[cfg(test)]
mod tests {
    use super::{ISO_C, ISO_CTS, each};
    use crate::methods::cores::columns;
    use crate::methods::sample::{assert_near, dense, integers, merged, random, three};
    use crate::methods::{Params, Task};
    use fitment_math::ndarray::{Array2, Axis, concatenate};
    use fitment_math::svd::thin_svd;

    const EXPECTED: [f64; 30] = [
        4.870816, 6.489157, -2.304638, 0.323616, 1.774602, 2.294438, -0.58965, 5.505581, -0.892579,
        -6.229424, 2.720459, -1.825898, 5.962403, -2.280978, 8.037284, 0.166144, 7.152864, 0.03807,
        -2.648215, 0.073282, 6.948358, -3.022478, -3.294933, 5.341408, 0.360973, 4.755425, 1.105414,
        4.115097, -0.290325, -3.187756,
    ];

    #[test]
    fn the_numbers_are_those_of_the_research_code() {
        assert_near(&merged(&ISO_C, &integers(), &Params::default()), &EXPECTED, 1e-6);
        // Of rank 4 and two adapters no direction is left for one alone.
        assert_eq!(each(4, 2), 0);
        assert_near(&merged(&ISO_CTS, &integers(), &Params::default()), &EXPECTED, 1e-6);
    }

    #[test]
    fn the_singular_values_are_equal_and_their_mean_stays() {
        let tasks = three();
        let whole = dense(&tasks).into_iter().reduce(|sum, update| sum + update).unwrap();
        let sum = thin_svd(whole.view()).unwrap();
        let mean = sum.values[..6].iter().sum::<f64>() / 6.0;
        let found = merged(&ISO_C, &tasks, &Params::default());
        let values = thin_svd(found.view()).unwrap().values;
        assert_near(
            &Array2::from_shape_vec((1, 9), values).unwrap(),
            &[[mean; 6].as_slice(), &[0.0; 3]].concat(),
            1e-10,
        );
        let expected = columns(&sum.left, 6).dot(&columns(&sum.right, 6).t()) * mean;
        assert_near(&found, &expected, 1e-10);
    }

    #[test]
    fn directions_of_each_beside_those_of_all_are_the_dense_definition() {
        let tasks: Vec<Task> =
            [(1, 0.5), (2, 1.25)].map(|(seed, weight)| random(seed, (15, 5, 11), (2.0, weight))).to_vec();
        let updates = dense(&tasks);
        let sum = thin_svd((&updates[0] + &updates[1]).view()).unwrap();
        // n = 10: 8 of all, 1 of each.
        let common = columns(&sum.left, 8);
        let (mut left, mut right) = (vec![common.clone()], vec![columns(&sum.right, 8)]);
        let mut values = sum.values[..8].to_vec();
        for update in &updates {
            let rest = thin_svd((update - &common.dot(&common.t().dot(update))).view()).unwrap();
            left.push(columns(&rest.left, 1));
            right.push(columns(&rest.right, 1));
            values.push(rest.values[0]);
        }
        let polar = |parts: &[Array2<f64>]| {
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let svd = thin_svd(concatenate(Axis(1), &views).unwrap().view()).unwrap();
            svd.left.dot(&svd.right.t())
        };
        let expected = polar(&left).dot(&polar(&right).t()) * (values.iter().sum::<f64>() / 10.0);
        assert_near(&merged(&ISO_CTS, &tasks, &Params::default()), &expected, 1e-10);
    }

    #[test]
    fn counts_are_rounded_half_to_even() {
        assert_eq!([each(32, 2), each(128, 8), each(10, 2), each(7, 1), each(0, 3)], [4, 3, 1, 2, 0]);
    }
}
