//! Methods whose result is `Σ cᵢ·Δᵢ`, with the cᵢ from the lengths of the updates and the angles between them.
//!
//! Inner products of `Δᵢ = Bᵢ·Aᵢ`, flattened, are those of the small products: `⟨Δᵢ, Δⱼ⟩ = ⟨BᵢᵀBⱼ, AᵢAⱼᵀ⟩`. The factors stand
//! side by side as in the exact sum, so nothing is decomposed and the result has the same bytes on every machine.

use super::{Core, Dense, Factors, Failure, Params, Task};
use fitment_math::ndarray::Array2;

/// The lengths of the updates of all adapters and the angles between them, as inner products. An adapter that does not touch
/// the target has an update of 0.
pub(crate) struct Angles<'a> {
    /// `[k, k]`, row by row.
    products: Vec<f64>,
    /// What every update is multiplied by.
    factors: Vec<f64>,
    /// Of all adapters.
    pub(super) weights: &'a [f64],
    pub(super) params: &'a Params,
}

/// The `cᵢ` of a method, of all adapters.
pub(crate) type Shares = fn(&Angles<'_>) -> Result<Vec<f64>, Failure>;

impl<'a> Angles<'a> {
    /// # Errors
    /// For numbers that are not finite, or too large for their squares.
    fn new(
        places: &[usize],
        (weights, params): (&'a [f64], &'a Params),
        inner: impl Fn(usize, usize) -> f64,
    ) -> Result<Self, Failure> {
        let len = weights.len();
        let mut products = vec![0.0; len * len];
        for (a, place) in places.iter().enumerate() {
            for (b, other) in places.iter().enumerate().take(a + 1) {
                let product = finite(inner(a, b))?;
                products[place * len + other] = product;
                products[other * len + place] = product;
            }
        }
        Ok(Self { products, factors: vec![1.0; len], weights, params })
    }

    /// Those of the updates times their weights, for a method that has no weights itself.
    pub(super) fn weighted(&self) -> Self {
        let (len, weights) = (self.len(), self.weights);
        let product = |(at, product): (usize, &f64)| product * weights[at / len] * weights[at % len];
        let products = self.products.iter().enumerate().map(product).collect();
        Self { products, factors: weights.to_vec(), ..*self }
    }

    /// Shares of the updates as they are, from those of the updates times what they are multiplied by.
    pub(super) fn of_updates(&self, shares: &[f64]) -> Vec<f64> {
        shares.iter().zip(&self.factors).map(|(share, factor)| share * factor).collect()
    }

    /// The number of adapters.
    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    pub(super) fn product(&self, a: usize, b: usize) -> f64 {
        self.products[a * self.len() + b]
    }

    pub(super) fn norm(&self, of: usize) -> f64 {
        self.product(of, of).max(0.0).sqrt()
    }

    /// `⟨Δᵢ, Σ cⱼ·Δⱼ⟩`.
    pub(super) fn along(&self, of: usize, shares: &[f64]) -> f64 {
        shares.iter().enumerate().fold(0.0, |sum, (other, share)| sum + share * self.product(of, other))
    }

    /// `‖Σ cᵢ·Δᵢ‖`.
    pub(super) fn norm_of(&self, shares: &[f64]) -> f64 {
        let square =
            shares.iter().enumerate().fold(0.0, |sum, (of, share)| sum + share * self.along(of, shares));
        square.max(0.0).sqrt()
    }
}

/// `Σ cᵢ·Δᵢ` of low-rank updates: factors side by side.
///
/// # Errors
/// What the method has no result for; numbers that are not finite.
pub(super) fn of_factors(run: Shares, core: &Core<'_>) -> Result<Factors, Failure> {
    let inner = |a: usize, b: usize| inner(&core.tasks[a], &core.tasks[b]);
    let shares = all_finite(run(&Angles::new(core.places, (core.weights, core.params), inner)?)?)?;
    let task = |(task, place): (&Task, &usize)| Task { weight: shares[*place], ..task.clone() };
    let tasks: Vec<Task> = core.tasks.iter().zip(core.places).map(task).collect();
    Ok(Core { tasks: &tasks, ..*core }.weighted())
}

/// `Σ cᵢ·Δᵢ` of dense updates. The weights are those of all adapters.
///
/// # Errors
/// As [`of_factors`].
pub(super) fn of_elements(run: Shares, dense: &Dense<'_>, weights: &[f64]) -> Result<Vec<f32>, Failure> {
    let wide = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
    let inner = |a: usize, b: usize| {
        let pairs = dense.tasks[a].1.iter().zip(&dense.tasks[b].1);
        pairs.fold(0.0, |sum, pair| sum + wide(pair))
    };
    let shares = all_finite(run(&Angles::new(dense.places, (weights, dense.params), inner)?)?)?;
    let parts: Vec<(f64, &[f32])> = dense
        .tasks
        .iter()
        .zip(dense.places)
        .map(|((_, values), place)| (shares[*place], &values[..]))
        .collect();
    let sum = |at: usize| parts.iter().fold(0.0, |sum, (share, values)| sum + share * f64::from(values[at]));
    Ok((0..dense.elements()).map(|at| sum(at) as f32).collect())
}

fn all_finite(shares: Vec<f64>) -> Result<Vec<f64>, Failure> {
    shares.into_iter().map(finite).collect()
}

fn finite(number: f64) -> Result<f64, Failure> {
    let reason = "the updates are not finite, or too large or small for the angles between them";
    number.is_finite().then_some(number).ok_or_else(|| Failure::Undefined(reason.to_owned()))
}

/// `⟨B₁A₁, B₂A₂⟩` with the scales, without the weights.
fn inner(a: &Task, b: &Task) -> f64 {
    let ups = columns(&a.up, &b.up);
    let downs = columns(&a.down.t().to_owned(), &b.down.t().to_owned());
    let mut sum = 0.0;
    for ((i, j), up) in ups.indexed_iter() {
        sum += up * downs[(i, j)] * a.scales[i] * b.scales[j];
    }
    sum
}

/// `aᵀ·b`, row after row in order, so that the bytes do not depend on the machine.
fn columns(a: &Array2<f64>, b: &Array2<f64>) -> Array2<f64> {
    let mut sum = Array2::zeros((a.ncols(), b.ncols()));
    for (a, b) in a.rows().into_iter().zip(b.rows()) {
        for (mut sum, a) in sum.rows_mut().into_iter().zip(a) {
            sum.zip_mut_with(&b, |sum, b| *sum += a * b);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use crate::methods::sample::{assert_near, dense, merged, three, try_merged};
    use crate::methods::{Failure, Method, Params, Task, karcher, model_stock, multislerp, nuslerp, slerp};
    use fitment_math::ndarray::Array2;

    type Matrix = Array2<f64>;

    fn dot(a: &Matrix, b: &Matrix) -> f64 {
        (a * b).sum()
    }

    fn unit(a: &Matrix) -> Matrix {
        a / dot(a, a).sqrt()
    }

    fn arc(a: &Matrix, b: &Matrix, t: f64) -> Matrix {
        let angle = dot(&unit(a), &unit(b)).acos();
        (a * ((1.0 - t) * angle).sin() + b * (t * angle).sin()) / angle.sin()
    }

    fn sphere(updates: &[Matrix], weights: &[f64]) -> Matrix {
        let units: Vec<Matrix> =
            updates.iter().map(|update| update / (dot(update, update).sqrt() + 1e-8)).collect();
        let mut mean = Array2::zeros(updates[0].dim());
        units.iter().zip(weights).for_each(|(unit, weight)| mean.scaled_add(*weight, unit));
        let mean = unit(&mean);
        let mut tangent = Array2::zeros(mean.dim());
        for (unit, weight) in units.iter().zip(weights) {
            tangent.scaled_add(*weight, &(unit - &mean * dot(unit, &mean)));
        }
        let angle = dot(&tangent, &tangent).sqrt() + 1e-8;
        let size: f64 =
            updates.iter().zip(weights).map(|(update, weight)| weight * dot(update, update).sqrt()).sum();
        (mean * angle.cos() + tangent * (angle.sin() / angle)) * size
    }

    fn karcher_mean(updates: &[Matrix]) -> Matrix {
        let part = 1.0 / updates.len() as f64;
        let units: Vec<Matrix> = updates.iter().map(unit).collect();
        let mut mean =
            unit(&units.iter().fold(Array2::zeros(units[0].dim()), |sum: Matrix, unit| sum + unit));
        for _ in 0..10 {
            let mut step = Array2::zeros(mean.dim());
            for unit in &units {
                let cos = dot(unit, &mean);
                step = step + (unit - &mean * cos) * (part * cos.acos() / cos.acos().sin());
            }
            let length = dot(&step, &step).sqrt();
            if length < 1e-5 {
                break;
            }
            mean = unit(&(&mean * length.cos() + &step * (length.sin() / length)));
        }
        mean * (part * updates.iter().map(|update| dot(update, update).sqrt()).sum::<f64>())
    }

    fn stock(updates: &[Matrix]) -> Matrix {
        let cos = |a: usize, b: usize| dot(&unit(&updates[a]), &unit(&updates[b]));
        let cos = (cos(0, 1) + cos(0, 2) + cos(1, 2)) / 3.0;
        let t = 3.0 * cos / (1.0 + 2.0 * cos);
        updates.iter().fold(Array2::zeros(updates[0].dim()), |sum: Matrix, update| sum + update) * (t / 3.0)
    }

    #[test]
    fn numbers_that_are_not_finite_have_no_angles() {
        let mut tasks = three();
        tasks[1].up[(0, 0)] = f64::NAN;
        for method in [&multislerp::METHOD, &karcher::METHOD, &model_stock::METHOD] {
            let found = try_merged(method, &tasks, (&Params::default(), 2));
            assert!(matches!(found, Err(Failure::Undefined(reason)) if reason.contains("not finite")));
        }
    }

    fn assert_same(method: &Method, tasks: &[Task], expected: &Matrix) {
        assert_near(&merged(method, tasks, &Params::default()), expected, 1e-10);
    }

    #[test]
    fn methods_give_what_the_dense_definition_gives() {
        let tasks = three();
        let weighted = dense(&tasks);
        let apart = dense(&tasks.clone().map(|task| Task { weight: 1.0, ..task }));
        let (pair, second) = (&tasks[..2], 1.25 / 1.75);
        assert_same(&slerp::METHOD, pair, &arc(&weighted[0], &weighted[1], 0.5));
        assert_same(&nuslerp::METHOD, pair, &arc(&apart[0], &apart[1], second));
        assert_same(&multislerp::METHOD, &tasks, &sphere(&apart, &[0.2, 0.5, 0.3]));
        assert_same(&karcher::METHOD, &tasks, &karcher_mean(&weighted));
        assert_same(&model_stock::METHOD, &tasks, &stock(&weighted));
    }
}
