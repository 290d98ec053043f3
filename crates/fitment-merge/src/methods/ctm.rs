//! Compress, then merge: the updates are brought into two bases of the wanted rank that suit all of them, and merged there.

use super::core_ties::ties;
use super::cores::{Basis, Cores, beside, columns};
use super::{Core, Factors, Failure, Method, Param, Run};
use fitment_math::ndarray::{Array2, ArrayView2};
use fitment_math::svd::thin_svd;

pub(super) const SUM: Method = Method {
    name: "ctm",
    what: "the weighted sum in two bases of a small rank that suit all updates",
    formula: "λ·U·Σ(Uᵀ·wᵢΔᵢ·V)·Vᵀ, U, V the r left and right vectors of the best Tucker-2 approximation (HOOI) of the stack of \
              wᵢΔᵢ/‖wᵢΔᵢ‖·(β‖wᵢΔᵢ‖ + (1−β)·the mean of ‖wᵢΔᵢ‖), r from --rank, else the largest of the updates",
    source: "He et al. 2026, Compress-then-Merge (arXiv 2606.03723), taken to convergence; it has no weights of adapters",
    warning: None,
    params: &[Param::Beta(BETA), Param::Lambda(1.0)],
    run: Run::Ranked(sum),
};

pub(super) const TIES: Method = Method {
    name: "ctm-ties",
    what: "TIES in two bases of a small rank that suit all updates",
    formula: "λ·U·ties(Uᵀ·wᵢΔᵢ·V)·Vᵀ, U, V and r as in ctm; ties: of each matrix of n elements the ⌊density·n⌋+1 largest and all equal \
              to the last, then the mean of those with the sign of their sum",
    source: "He et al. 2026, Compress-then-Merge (arXiv 2606.03723), taken to convergence; it has no weights of adapters",
    warning: None,
    params: &[Param::Beta(BETA), Param::Density(DENSITY), Param::Lambda(1.0)],
    run: Run::Ranked(with_ties),
};

/// The paper's example.
const BETA: f64 = 0.25;
const DENSITY: f64 = 0.25;
const ROUNDS: usize = 1000;
/// How far the bases may still turn, Frobenius, relative to √r.
const TOLERANCE: f64 = 1e-7;

fn sum(core: &Core<'_>, rank: usize) -> Result<Factors, Failure> {
    run(core, rank, &|cores| cores.iter().skip(1).fold(cores[0].clone(), |sum, core| sum + core))
}

fn with_ties(core: &Core<'_>, rank: usize) -> Result<Factors, Failure> {
    run(core, rank, &|cores| ties(cores, core.params.density.unwrap_or(DENSITY)))
}

fn run(
    core: &Core<'_>,
    rank: usize,
    merge: &dyn Fn(&[Array2<f64>]) -> Array2<f64>,
) -> Result<Factors, Failure> {
    let cores = Cores::new(core, Basis::Any)?;
    let (left, right) = bases(&balanced(&cores, core.params.beta.unwrap_or(BETA)), rank)?;
    let inner: Vec<Array2<f64>> = cores.cores.iter().map(|core| left.t().dot(core).dot(&right)).collect();
    let merged = left.dot(&merge(&inner)).dot(&right.t());
    Ok(cores.factors(&merged, core.params.lambda.unwrap_or(1.0))?)
}

/// The cores, their lengths brought nearer to each other.
fn balanced(cores: &Cores, beta: f64) -> Vec<Array2<f64>> {
    let norm = |core: &Array2<f64>| core.iter().fold(0.0, |sum, value| sum + value * value).sqrt();
    let norms: Vec<f64> = cores.cores.iter().map(norm).collect();
    let mean = norms.iter().sum::<f64>() / norms.len() as f64;
    let factor = |norm: f64| if norm > 0.0 { beta + (1.0 - beta) * mean / norm } else { 0.0 };
    cores.cores.iter().zip(norms).map(|(core, norm)| core * factor(norm)).collect()
}

/// `[p, r]` and `[q, r]`: of a stack of matrices those bases in which most of its energy is, from the left vectors of its
/// unfoldings on, in turns, until they stay (De Lathauwer, De Moor and Vandewalle 2000).
fn bases(stack: &[Array2<f64>], rank: usize) -> Result<(Array2<f64>, Array2<f64>), Failure> {
    let turned: Vec<Array2<f64>> = stack.iter().map(|core| core.t().to_owned()).collect();
    let (mut left, mut right) = (first_vectors(stack, rank)?, first_vectors(&turned, rank)?);
    for _ in 0..ROUNDS {
        let seen: Vec<Array2<f64>> = stack.iter().map(|core| core.dot(&right)).collect();
        let next = first_vectors(&seen, rank)?;
        let seen: Vec<Array2<f64>> = turned.iter().map(|core| core.dot(&next)).collect();
        let next = (next, first_vectors(&seen, rank)?);
        let change = turn(&left, &next.0).max(turn(&right, &next.1));
        (left, right) = next;
        if change <= TOLERANCE {
            break;
        }
    }
    Ok((left, right))
}

/// The first left vectors of matrices side by side.
fn first_vectors(parts: &[Array2<f64>], rank: usize) -> Result<Array2<f64>, Failure> {
    let views: Vec<ArrayView2<'_, f64>> = parts.iter().map(|part| part.view()).collect();
    let left = thin_svd(beside(&views)?.view())?.left;
    let rank = rank.min(left.ncols());
    Ok(columns(&left, rank))
}

/// What of one basis lies outside of the span of another.
fn turn(from: &Array2<f64>, to: &Array2<f64>) -> f64 {
    let outside = to - &from.dot(&from.t().dot(to));
    (outside.iter().fold(0.0, |sum, value| sum + value * value) / to.ncols().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::{SUM, TIES, bases};
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, dense, integers, merged, three, try_merged};
    use fitment_math::ndarray::Array2;
    use fitment_math::svd::{Limit, shorten, thin_svd};

    #[test]
    fn the_numbers_are_the_converged_ones_of_the_research_code() {
        let expected = [
            3.816793, -1.241847, -2.256698, 2.476934, 4.387241, -4.557691, 2.125848, 5.539036, -4.739268,
            -4.29262, 4.809775, 0.635743, 6.891667, -2.976508, 8.767489, -1.443863, 1.09584, 3.623294,
            -2.671754, -0.738251, 6.796055, -3.502438, -9.730506, 7.988266, 5.911371, -0.832434, 0.952912,
            3.509559, -2.430158, 0.046993,
        ];
        assert_near(&merged(&SUM, &integers(), &Params::default()), &expected, 1e-5);
    }

    #[test]
    fn the_rank_is_the_one_asked_for_and_enough_of_it_is_the_sum() {
        let tasks = three();
        let params = Params::default();
        for method in [&SUM, &TIES] {
            let values = thin_svd(try_merged(method, &tasks, (&params, 2)).unwrap().view()).unwrap().values;
            assert!(values[1] > 1e-3 && values[2] < 1e-12);
        }
        let whole = dense(&tasks).into_iter().reduce(|sum, update| sum + update).unwrap();
        assert_near(&try_merged(&SUM, &tasks, (&params, usize::MAX)).unwrap(), &whole, 1e-10);
    }

    #[test]
    fn one_update_is_cut_to_the_nearest_of_the_rank() {
        let task = three()[1].clone();
        let nearest = shorten(task.scaled_up(task.weight).view(), task.down.view(), Limit::Rank(2)).unwrap();
        let found = try_merged(&SUM, &[task], (&Params::default(), 2)).unwrap();
        assert_near(&found, &nearest.up.dot(&nearest.down), 1e-10);
    }

    #[test]
    fn no_turn_of_the_bases_holds_more_energy() {
        let stack = dense(&three());
        let (left, right) = bases(&stack, 2).unwrap();
        let energy = |left: &Array2<f64>, right: &Array2<f64>| {
            stack
                .iter()
                .map(|core| left.t().dot(core).dot(right).mapv(|value| value * value).sum())
                .sum::<f64>()
        };
        let best = energy(&left, &right);
        for at in 0..left.len() {
            let mut moved = left.clone();
            moved.as_slice_mut().unwrap()[at] += 1e-3;
            let moved = fitment_math::svd::orthonormal(moved.view()).unwrap();
            assert!(energy(&moved, &right) <= best + 1e-12);
        }
    }
}
