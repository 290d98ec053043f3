//! Methods of elements against the tools they are named after, with the tools' own draws.

use super::draws::Draw;
use super::{Dense, METHODS, Method, Params, Run, dare, dare_ties, della, method};
use super::{combine, sparse};
use serde_json::Value;
use std::collections::BTreeSet;

/// The merge of a method whose draws are given.
fn with_given_draws(name: &str, dense: &Dense<'_>, draw: &mut Draw<'_>) -> Vec<f32> {
    let drawn: fn(&Dense<'_>, &mut Draw<'_>) -> Vec<f32> = match name {
        "dare" | "dare:peft" => dare::paper,
        "dare:mergekit" => dare::mergekit,
        "dare-ties" => dare_ties::paper,
        "dare-ties:peft" => dare_ties::peft,
        "dare-ties:mergekit" => dare_ties::mergekit,
        "della" => della::elected,
        "della-linear" => della::linear,
        _ => {
            let Some(Method { run: Run::Dense(run), .. }) = method(name) else { panic!("{name}") };
            return run(dense).unwrap();
        }
    };
    drawn(dense, draw)
}

fn assert_near(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let allowed = 1e-6 * expected.abs().max(1.0);
        assert!((f64::from(*found) - expected).abs() <= allowed, "{what}: {found} {expected}");
    }
}

/// Two updates of six elements, and the first draws of torch's generator with seed 0.
const PAIR: [[f32; 6]; 2] = [[0.9, -0.4, 0.1, 0., -0.7, 0.2], [-0.5, -0.6, 0.3, 0.8, 0.1, -0.2]];
const SEED_0: [[f64; 6]; 2] =
    [[0.4963, 0.7682, 0.0885, 0.1320, 0.3074, 0.6341], [0.4901, 0.8964, 0.4556, 0.6323, 0.3489, 0.4017]];

fn pair<T>(weights: [f64; 2], params: Params, take: impl FnOnce(&Dense<'_>) -> T) -> T {
    let tasks = [(weights[0], PAIR[0].to_vec()), (weights[1], PAIR[1].to_vec())];
    take(&Dense { tasks: &tasks, places: &[0, 1], dims: &[6], name: "w", params: &params })
}

fn seed_0() -> impl FnMut(usize) -> f64 {
    let mut at = [0, 0];
    move |task| {
        at[task] += 1;
        SEED_0[task][at[task] - 1]
    }
}

#[test]
fn reference_numbers() {
    let (peft, both, less) = ([0.6, 0.4], [1.0, 1.0], [1.0, -1.0]);
    let half = Params { density: Some(0.5), ..Params::default() };
    let twice = Params { lambda: Some(2.0), ..half };
    let della = Params { epsilon: Some(0.15), ..half };
    let crumbs = Params { gamma: Some(0.17), ..half };
    // PEFT 0.21.2 and mergekit 0.1.5.
    for (name, weights, params, expected) in [
        ("magnitude-prune", peft, half, [0.34, -0.48, 0., 0.32, -0.42, 0.]),
        ("ties:peft", peft, half, [0.54, -0.24, 0., 0.32, -0.42, 0.]),
        ("ties:peft", less, half, [0.9, 0.1, 0., -0.8, -0.7, 0.]),
        ("dare:peft", peft, half, [0.68, 0., 0.36, 0., -0.76, -0.16]),
        ("dare-ties:peft", peft, half, [1.08, 0., 0.18, 0., -0.84, -0.16]),
        ("ties:mergekit", peft, half, [0.9, -0.48, 0., 0.8, -0.7, 0.]),
        ("ties:mergekit", peft, twice, [1.8, -0.96, 0., 1.6, -1.4, 0.]),
        ("ties:mergekit", less, half, [1.4, -0.6, 0., 0.8, -0.7, 0.]),
        ("breadcrumbs", peft, crumbs, [-0.2, -0.48, 0.12, 0., -0.42, 0.12]),
        ("breadcrumbs-ties", peft, crumbs, [-0.2, -0.48, 0.12, 0., -0.42, 0.12]),
        ("dare:mergekit", peft, half, [0.276043, 0., 0.353904, 0., -0.477326, -0.181818]),
        ("dare-ties:mergekit", peft, half, [0.730588, 0., 0.353904, 0., -0.568235, -0.181818]),
        ("della", peft, della, [1.217647, 0., 0.239071, 1.052632, -0.947059, -0.263158]),
        ("della-linear", peft, della, [0.46743, 0., 0.239071, 0.421053, -0.515604, -0.105263]),
        ("sce", both, Params::default(), [0.9, -0.495862, 0.195862, 0.8, -0.7, 0.2]),
        ("sce", both, half, [0.9, 0., 0., 0.8, -0.7, 0.]),
        ("ram", both, Params::default(), [0.2, -0.5, 0.2, 0.8, -0.3, 0.]),
        ("ramplus-tl", both, Params::default(), [0.2, -0.5, 0.2, 0.816, -0.3, 0.]),
        // The paper's mean, and the same of weighted updates.
        ("ties", both, half, [0.9, -0.5, 0., 0.8, -0.7, 0.]),
        ("ties", peft, half, [0.54, -0.24, 0., 0.32, -0.42, 0.]),
        ("ties", less, half, [0.7, 0.6, 0., -0.8, -0.7, 0.]),
        ("dare-ties", both, half, [1.8, 0., 0.4, 0., -1.4, -0.4]),
        ("dare", both, half, [0.8, 0., 0.8, 0., -1.2, -0.4]),
    ] {
        let found = pair(weights, params, |dense| with_given_draws(name, dense, &mut seed_0()));
        assert_near(&found, &expected, name);
    }
}

#[test]
fn reference_numbers_of_the_family_with_other_defaults() {
    let rule =
        |has_consensus, is_normalized| combine::TaskArithmetic { has_consensus, is_normalized, lambda: 1.0 };
    let whole = |weights, rule: combine::TaskArithmetic| {
        pair(weights, Params::default(), |dense| rule.merge(&sparse::whole(dense), dense))
    };
    assert_near(&whole([0.6, 0.4], rule(false, false)), &[0.34, -0.48, 0.18, 0.32, -0.38, 0.04], "sum");
    assert_near(&whole([0.6, 0.6], rule(false, true)), &[0.2, -0.5, 0.2, 0.4, -0.3, 0.], "normalized");
    // Weights that add up to 0 do not divide.
    assert_near(&whole([1.0, -1.0], rule(false, true)), &[1.4, 0.2, -0.2, -0.8, -0.8, 0.4], "difference");
    let trimmed = pair([0.6, 0.4], Params::default(), |dense| {
        rule(true, false).merge(&sparse::by_magnitude(dense, 0.5, 1), dense)
    });
    assert_near(&trimmed, &[0.54, -0.48, 0., 0.32, -0.42, 0.], "ties without normalize");
}

#[test]
fn fixtures_of_peft_and_mergekit() {
    let facts: Value =
        serde_json::from_slice(include_bytes!("../../../../fixtures/merge/elements.json")).unwrap();
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let tensors: Vec<Vec<f64>> = facts["tasks"].as_array().unwrap().iter().map(numbers).collect();
    let draws = numbers(&facts["draws"]);
    let dims: Vec<u64> = facts["dims"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
    let elements = tensors[0].len();
    let cases = facts["cases"].as_array().unwrap();
    for case in cases {
        let name = case["method"].as_str().unwrap();
        let tasks: Vec<(f64, Vec<f32>)> = numbers(&case["weights"])
            .into_iter()
            .zip(&tensors)
            .map(|(weight, values)| (weight, values.iter().map(|value| *value as f32).collect()))
            .collect();
        let param = |name: &str| case["params"][name].as_f64();
        let params = Params {
            density: param("density"),
            lambda: param("lambda"),
            epsilon: param("epsilon"),
            gamma: param("gamma"),
            ..Params::default()
        };
        let dense = Dense {
            tasks: &tasks,
            places: &[0, 1, 2][..tasks.len()],
            dims: &dims,
            name: "w",
            params: &params,
        };
        let mut at = [0; 3];
        let found = with_given_draws(name, &dense, &mut |task| {
            at[task] += 1;
            draws[task * elements + at[task] - 1]
        });
        assert_near(&found, &numbers(&case["result"]), &format!("{name} {}", case["params"]));
    }
    assert!(cases.len() > 50);
}

/// Numbers in (−1, 1) that repeat themselves only after long.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn dense_methods() -> impl Iterator<Item = (&'static Method, super::Elementwise)> {
    METHODS.iter().filter_map(|method| match method.run {
        Run::Dense(run) | Run::Either(_, run) => Some((*method, run)),
        Run::Core(_) | Run::Shares(_) | Run::Pair(_) | Run::Ranked(_) | Run::EachFactor(_) | Run::Best => {
            None
        }
    })
}

#[test]
fn the_order_of_adapters_changes_nothing_and_the_seed_what_is_drawn() {
    let numbers = [noise(240, 1), noise(240, 2), noise(240, 3)];
    let merged = |run: super::Elementwise, order: &[usize], params: &Params, name: &str| {
        let tasks: Vec<(f64, Vec<f32>)> =
            order.iter().map(|place| ([0.5, 0.25, 1.0][*place], numbers[*place].clone())).collect();
        run(&Dense { tasks: &tasks, places: order, dims: &[12, 20], name, params }).unwrap()
    };
    for (method, run) in dense_methods() {
        let is_taken = |name: &str| method.params.iter().any(|param| param.name() == name);
        let params = Params { density: is_taken("density").then_some(0.5), seed: 3, ..Params::default() };
        let first = merged(run, &[0, 1, 2], &params, "w");
        for order in [[2, 0, 1], [1, 2, 0]] {
            let off = merged(run, &order, &params, "w");
            let off = off.iter().zip(&first).fold(0.0_f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(off < 1e-6, "{}: {off}", method.name);
        }
        assert_eq!(merged(run, &[0, 1, 2], &params, "w"), first, "{}", method.name);
        let reseeded = merged(run, &[0, 1, 2], &Params { seed: 4, ..params }, "w");
        assert_eq!(reseeded != first, is_taken("seed"), "{}", method.name);
        assert_eq!(merged(run, &[0, 1, 2], &params, "v") != first, is_taken("seed"), "{}", method.name);
    }
}

#[test]
fn zeros_one_element_and_nothing_are_finite() {
    for (method, run) in dense_methods() {
        for values in [vec![], vec![0.0], vec![0.0; 6], vec![f32::MAX, -1e-45, 0.0, -0.0]] {
            let tasks = [(1.0, values.clone()), (-1.0, values.clone())];
            for dims in
                [vec![values.len() as u64], vec![values.len() as u64, 1], vec![1, values.len() as u64]]
            {
                let params = Params::default();
                let dense = Dense { tasks: &tasks, places: &[0, 1], dims: &dims, name: "w", params: &params };
                let found = run(&dense).unwrap();
                assert_eq!(found.len(), values.len(), "{}", method.name);
                assert!(found.iter().all(|value| !value.is_nan()), "{} {values:?}: {found:?}", method.name);
            }
        }
    }
}

#[test]
fn all_elements_of_a_sum_are_the_sum() {
    let numbers = [noise(60, 1), noise(60, 2)];
    let tasks = [(0.5, numbers[0].clone()), (-2.0, numbers[1].clone())];
    let sum: Vec<f64> =
        numbers[0].iter().zip(&numbers[1]).map(|(a, b)| 0.5 * f64::from(*a) - 2.0 * f64::from(*b)).collect();
    for name in ["magnitude-prune", "dare", "dare:peft", "dare:mergekit", "della-linear", "breadcrumbs"] {
        let Some(Method { run: Run::Dense(run), .. }) = method(name) else { panic!("{name}") };
        let params = Params { density: Some(1.0), ..Params::default() };
        let dense = Dense { tasks: &tasks, places: &[0, 1], dims: &[6, 10], name: "w", params: &params };
        assert_near(&run(&dense).unwrap(), &sum, name);
    }
}

/// Research code of KnOTS and its kin keeps every element that is not below the threshold; election and mean are those of
/// `ties`.
#[test]
fn election_and_mean_are_those_of_the_papers_code() {
    let up = [[2., 0.], [-1., 1.], [0., 3.], [1., 1.], [1., -2.], [0., 1.]];
    let down = [[1., 2., -1., 0., 1.], [0., 1., 3., -2., 1.]];
    let other_up = [[1., 1.], [0., -2.], [2., 1.], [-1., 0.], [3., 1.], [1., -1.]];
    let other_down = [[2., -1., 0., 1., 1.], [1., 0., -2., 1., 3.]];
    let product = |up: [[f32; 2]; 6], down: [[f32; 5]; 2]| -> Vec<f32> {
        let row = |row: [f32; 2]| (0..5).map(move |at| row[0] * down[0][at] + row[1] * down[1][at]);
        let values: Vec<f32> = up.into_iter().flat_map(row).collect();
        let mut sorted: Vec<f32> = values.iter().map(|value| value.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        // The (n − ⌊K·n⌋)-th smallest, K one half.
        values.iter().map(|value| if value.abs() >= sorted[14] { *value } else { 0.0 }).collect()
    };
    let tasks = [(1.0, product(up, down)), (1.0, product(other_up, other_down))];
    let params = Params::default();
    let dense = Dense { tasks: &tasks, places: &[0, 1], dims: &[6, 5], name: "w", params: &params };
    let found = combine::elected_mean(&sparse::whole(&dense), &dense, 1.0);
    let expected = [
        2.5, 4., -2., 2., 3., -2., 0., 4., -2., -6., 5., 3., 9., -6., 4., -2., 3., 2., -2., 2., 7., -3.,
        -4.5, 4., 6., 0., 0., 2.5, -2., -2.,
    ];
    assert_near(&found, &expected, "TIES of KnOTS");
}

#[test]
fn names_are_unique_and_told_in_the_style_of_the_field() {
    let names: BTreeSet<&str> = METHODS.iter().map(|method| method.name).collect();
    assert_eq!(names.len(), METHODS.len());
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == ':';
    for method in METHODS {
        assert!(method.name.chars().all(is_plain), "{}", method.name);
        assert!(!method.formula.is_empty() && !method.source.is_empty(), "{}", method.name);
    }
}

#[test]
fn probabilities_stay_within_0_and_1() {
    let fault = |density, epsilon| {
        let params = Params { density, epsilon, ..Params::default() };
        params.fault("della", della::ELECTED.params)
    };
    assert_eq!(fault(None, None), None);
    assert_eq!(fault(Some(1.0), Some(0.5)), None);
    assert_eq!(
        fault(Some(0.75), Some(0.25)).as_deref(),
        Some("density 0.75 and epsilon 0.25 give probabilities from 0.5 to 1: they are between 0 and 1")
    );
    assert!(fault(Some(0.1), Some(-0.2)).is_some() && fault(None, Some(f64::NAN)).is_some());
}
