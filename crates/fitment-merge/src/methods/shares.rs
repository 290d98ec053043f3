//! Methods whose result is `Σ cᵢ·Δᵢ`, with the cᵢ from the lengths of the updates and the angles between them.
//!
//! Inner products of `Δᵢ = Bᵢ·Aᵢ`, flattened, are those of the small products: `⟨Δᵢ, Δⱼ⟩ = ⟨BᵢᵀBⱼ, AᵢAⱼᵀ⟩`. The factors stand
//! side by side as in the exact sum, so nothing is decomposed and the result has the same bytes on every machine.

use super::{Core, Factors, Failure, Task};
use fitment_math::ndarray::Array2;

/// Inner products of the updates of all adapters; those of an adapter that does not touch the target are 0.
pub(super) struct Gram {
    /// `[k, k]`, row by row.
    products: Vec<f64>,
    /// Number of adapters.
    pub(super) len: usize,
}

/// Whether an update is multiplied by its adapter's weight first, where the published method has no weights.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Weights {
    First,
    Apart,
}

impl Gram {
    /// # Errors
    /// For numbers that are not finite, or too large for their squares.
    pub(super) fn new(core: &Core<'_>, weights: Weights) -> Result<Self, Failure> {
        let len = core.weights.len();
        let mut products = vec![0.0; len * len];
        let factor = |task: &Task| if weights == Weights::First { task.weight } else { 1.0 };
        for (at, (a, &place)) in core.tasks.iter().zip(core.places).enumerate() {
            for (b, &other) in core.tasks.iter().zip(core.places).take(at + 1) {
                let product = finite(inner(a, b) * factor(a) * factor(b))?;
                products[place * len + other] = product;
                products[other * len + place] = product;
            }
        }
        Ok(Self { products, len })
    }

    pub(super) fn product(&self, a: usize, b: usize) -> f64 {
        self.products[a * self.len + b]
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

/// `Σ cᵢ·Δᵢ` with the share of each adapter of the command; the weight is multiplied in where it comes first.
///
/// # Errors
/// For shares that are not finite.
pub(super) fn combined(core: &Core<'_>, shares: &[f64], weights: Weights) -> Result<Factors, Failure> {
    for share in shares {
        finite(*share)?;
    }
    let share = |(task, &place): (&Task, &usize)| {
        let share = shares.get(place).copied().unwrap_or(0.0);
        let weight = if weights == Weights::First { task.weight * share } else { share };
        Task { weight, ..task.clone() }
    };
    let tasks: Vec<Task> = core.tasks.iter().zip(core.places).map(share).collect();
    Ok(Core { tasks: &tasks, ..*core }.weighted())
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
