//! Updates that reference numbers were made of, and what tests of methods share.

use super::{Core, Failure, Method, Params, Run, Task, shares};
use fitment_math::ndarray::{Array2, array};

/// d1 and d2 of the elementwise reference numbers.
pub(super) fn d(which: usize) -> [f64; 6] {
    [[0.9, -0.4, 0.1, 0.0, -0.7, 0.2], [-0.5, -0.6, 0.3, 0.8, 0.1, -0.2]][which]
}

const BASE: [f64; 6] = [0.5, -0.5, 1.0, 2.0, -1.0, 0.25];

/// A row vector as an update of rank 1.
pub(super) fn vector(values: &[f64; 6], weight: f64) -> Task {
    let (up, down) = (Array2::ones((1, 1)), Array2::from_shape_fn((1, 6), |(_, column)| values[column]));
    Task { weight, up, scales: vec![1.0], down }
}

/// d1 and d2 with weights.
pub(super) fn deltas(weights: [f64; 2]) -> [Task; 2] {
    [vector(&d(0), weights[0]), vector(&d(1), weights[1])]
}

/// The base with d1, and with d2.
pub(super) fn models() -> [Task; 2] {
    [0, 1].map(|which| vector(&std::array::from_fn(|at| BASE[at] + d(which)[at]), 1.0))
}

/// The base with a row vector.
pub(super) fn with_base(update: &Array2<f64>) -> Array2<f64> {
    Array2::from_shape_fn((1, 6), |(_, column)| BASE[column] + update[(0, column)])
}

/// The dense result of adapters that all touch the target.
pub(super) fn merged(method: &Method, tasks: &[Task], params: &Params) -> Array2<f64> {
    try_merged(method, tasks, (params, 2)).expect("the updates are sound")
}

/// The same with a rank, for a method that has one.
pub(super) fn try_merged(
    method: &Method,
    tasks: &[Task],
    (params, rank): (&Params, usize),
) -> Result<Array2<f64>, Failure> {
    let places: Vec<usize> = (0..tasks.len()).collect();
    let weights: Vec<f64> = tasks.iter().map(|task| task.weight).collect();
    let core = Core { tasks, places: &places, weights: &weights, params };
    let (up, down) = match method.run {
        Run::Core(run) | Run::Either(run, _) => run(&core)?,
        Run::Shares(run) | Run::Pair(run) => shares::of_factors(run, &core)?,
        Run::Ranked(run) => run(&core, rank)?,
        Run::Dense(_) | Run::EachFactor(_) | Run::Best => panic!("{} is of another kind", method.name),
    };
    Ok(up.dot(&down))
}

pub(super) fn assert_near<'e>(
    found: &Array2<f64>,
    expected: impl IntoIterator<Item = &'e f64>,
    tolerance: f64,
) {
    let expected: Vec<f64> = expected.into_iter().copied().collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{found} {expected}");
    }
}

/// A random update of this shape, rank and scale; the same for the same seed.
pub(super) fn random(seed: u64, shape: (usize, usize, usize), (scale, weight): (f64, f64)) -> Task {
    let (rows, rank, columns) = shape;
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    let up = Array2::from_shape_fn((rows, rank), |_| next());
    let down = Array2::from_shape_fn((rank, columns), |_| next());
    Task { weight, up, scales: vec![scale; rank], down }
}

/// Three random updates of other ranks, scales and weights.
pub(super) fn three() -> [Task; 3] {
    [
        random(1, (13, 2, 9), (2.0, 0.5)),
        random(2, (13, 3, 9), (0.5, 1.25)),
        random(3, (13, 1, 9), (1.0, 0.75)),
    ]
}

/// `wᵢ·Δᵢ`, dense.
pub(super) fn dense(tasks: &[Task]) -> Vec<Array2<f64>> {
    tasks.iter().map(|task| task.scaled_up(task.weight).dot(&task.down)).collect()
}

/// The updates of the low-rank reference numbers, which research code gave in f64 on bare matrices.
pub(super) fn integers() -> [Task; 2] {
    let a1 = array![[1., 2., -1., 0., 1.], [0., 1., 3., -2., 1.]];
    let b1 = array![[2., 0.], [-1., 1.], [0., 3.], [1., 1.], [1., -2.], [0., 1.]];
    let a2 = array![[2., -1., 0., 1., 1.], [1., 0., -2., 1., 3.]];
    let b2 = array![[1., 1.], [0., -2.], [2., 1.], [-1., 0.], [3., 1.], [1., -1.]];
    [(b1, a1), (b2, a2)].map(|(up, down)| Task { weight: 1.0, up, scales: vec![1.0; 2], down })
}
