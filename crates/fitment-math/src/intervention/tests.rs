use super::{Activation, Formula, Map, Rounding, State, activate};
use crate::Error;
use crate::round::Element;
use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayView2};
use proptest::prelude::*;
use serde_json::Value;

/// The roles of a formula, owned.
#[derive(Clone, Debug, Default)]
struct Roles {
    up: Option<Array2<f32>>,
    up_bias: Option<Array1<f32>>,
    source_weight: Option<Array2<f32>>,
    source_bias: Option<Array1<f32>>,
    proj: Option<Array2<f32>>,
    proj_bias: Option<Array1<f32>>,
}

impl Roles {
    fn formula(&self, width: usize) -> Formula<'_> {
        Formula {
            up: self.up.as_ref().map(|role| role.view()),
            up_bias: self.up_bias.as_ref().map(|role| role.view()),
            source_weight: self.source_weight.as_ref().map(|role| role.view()),
            source_bias: self.source_bias.as_ref().map(|role| role.view()),
            proj: self.proj.as_ref().map(|role| role.view()),
            proj_bias: self.proj_bias.as_ref().map(|role| role.view()),
            ..Formula::of_width(width)
        }
    }
}

fn wide(matrix: &Array2<f32>) -> Array2<f64> {
    matrix.mapv(f64::from)
}

/// The definition: `s·(U(act(W x + b) − [P h + p]) + c)` in f64, and the sum of the magnitudes that went into each number.
fn definition(formula: &Formula<'_>, h: ArrayView2<'_, f32>) -> (Array2<f64>, Array2<f64>) {
    let h = h.mapv(f64::from);
    let owned = |role: Option<ArrayView2<'_, f32>>| role.map(|role| wide(&role.to_owned()));
    let (up, weight, proj) = (owned(formula.up), owned(formula.source_weight), owned(formula.proj));
    let rank = up.as_ref().map_or(formula.width, |up| up.ncols());
    let bias = |role: Option<ndarray::ArrayView1<'_, f32>>, len: usize| {
        role.map_or(Array1::zeros(len), |role| role.mapv(f64::from))
    };
    let mut a = match &weight {
        Some(weight) => h.dot(&weight.t()),
        None => Array2::zeros((h.nrows(), rank)),
    } + bias(formula.source_bias, rank);
    if let Some(activation) = formula.activation {
        a.mapv_inplace(|a| f64::from(activate(activation, a as f32)));
    }
    let mut size = a.mapv(f64::abs) + h.mapv(f64::abs).sum() + 1.0;
    if formula.subtract {
        let proj = proj.or_else(|| up.as_ref().map(|up| up.t().to_owned()));
        let q = proj.map_or(h.clone(), |proj| h.dot(&proj.t())) + bias(formula.proj_bias, rank);
        size += &q.mapv(f64::abs);
        a -= &q;
    }
    let (y, size) = match &up {
        Some(up) => (a.dot(&up.t()), size.dot(&up.mapv(f64::abs).t())),
        None => (a, size),
    };
    let c = bias(formula.up_bias, formula.width);
    let scale = f64::from(formula.scale);
    ((y + &c) * scale, (size + c.mapv(f64::abs)) * scale.abs())
}

fn matrix(rows: usize, cols: usize) -> impl Strategy<Value = Array2<f32>> {
    proptest::collection::vec(-2.0_f32..2.0, rows * cols)
        .prop_map(move |numbers| Array2::from_shape_vec((rows, cols), numbers).unwrap())
}

fn vector(len: usize) -> impl Strategy<Value = Array1<f32>> {
    proptest::collection::vec(-2.0_f32..2.0, len).prop_map(Array1::from_vec)
}

fn maybe<T: std::fmt::Debug>(role: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    (any::<bool>(), role).prop_map(|(used, role)| used.then_some(role))
}

/// Any roles that fit each other; without `up` the rank is the width.
fn roles(width: usize, rank: usize) -> impl Strategy<Value = (Roles, usize)> {
    any::<bool>().prop_flat_map(move |up| {
        let rank = if up { rank } else { width };
        (
            matrix(width, rank).prop_map(move |matrix| up.then_some(matrix)),
            maybe(vector(width)),
            maybe(matrix(rank, width)),
            maybe(vector(rank)),
            maybe(matrix(rank, width)),
            maybe(vector(rank)),
        )
            .prop_map(move |(up, up_bias, source_weight, source_bias, proj, proj_bias)| {
                (Roles { up, up_bias, source_weight, source_bias, proj, proj_bias }, width)
            })
    })
}

proptest! {
    #[test]
    fn f32_follows_the_definition(
        (roles, width) in (1_usize..7, 1_usize..5).prop_flat_map(|(width, rank)| roles(width, rank)),
        states in matrix(3, 6),
        scale in -2.0_f32..2.0,
        subtract in any::<bool>(),
        activation in proptest::option::of(proptest::sample::select(Activation::ALL)),
    ) {
        let formula = Formula { scale, subtract, activation, ..roles.formula(width) };
        let states = states.slice_move(ndarray::s![.., ..width]);
        let mut change = Array2::zeros(states.raw_dim());
        Map::new(&formula).unwrap().change(states.view(), states.view(), Element::F32, change.view_mut()).unwrap();
        let (expected, size) = definition(&formula, states.view());
        for ((found, expected), size) in change.iter().zip(&expected).zip(&size) {
            prop_assert!((f64::from(*found) - expected).abs() <= 1e-5 * size, "{found} {expected}");
        }
    }
}

#[test]
fn a_formula_without_roles_changes_nothing_and_one_that_subtracts_sets_to_zero() {
    let states = Array2::from_elem((2, 3), 1.5_f32);
    for (subtract, expected) in [(false, 0.0), (true, -1.5)] {
        let map = Map::new(&Formula { subtract, ..Formula::of_width(3) }).unwrap();
        let mut change = Array2::from_elem((2, 3), f32::NAN);
        map.change(states.view(), states.view(), Element::F32, change.view_mut()).unwrap();
        assert!(change.iter().all(|change| *change == expected));
    }
}

#[test]
fn roles_that_do_not_fit_are_refused() {
    let roles = Roles { up: Some(Array2::zeros((4, 2))), ..Roles::default() };
    assert!(Map::new(&roles.formula(4)).is_ok());
    assert!(matches!(Map::new(&roles.formula(5)), Err(Error::Shape { what: "up", .. })));
    let with = Roles { source_bias: Some(Array1::zeros(3)), ..roles.clone() };
    assert!(matches!(Map::new(&with.formula(4)), Err(Error::Length { expected: 2, found: 3, .. })));
    let alone = Roles { source_weight: Some(Array2::zeros((3, 4))), ..Roles::default() };
    assert!(matches!(Map::new(&alone.formula(4)), Err(Error::Rank { up: 4, found: 3, .. })));
    let map = Map::new(&roles.formula(4)).unwrap();
    let (h, mut out) = (Array2::zeros((2, 4)), Array2::zeros((3, 4)));
    assert!(map.change(h.view(), h.view(), Element::F32, out.view_mut()).is_err());
}

#[test]
fn extreme_inputs_of_activations() {
    for activation in Activation::ALL {
        let at = |x: f32| activate(*activation, x);
        assert!(at(f32::NAN).is_nan(), "{activation:?}");
        assert!(at(1e30).is_infinite() || at(1e30) >= 1.0, "{activation:?}");
        assert!(at(-100.0).abs() <= 1.0, "{activation:?}");
    }
}

fn element(stored: &Value) -> Element {
    match stored["dtype"].as_str().unwrap() {
        "BF16" => Element::Bf16,
        "F16" => Element::F16,
        _ => Element::F32,
    }
}

/// The numbers of a stored tensor, a row for each index of its first axis.
fn stored(stored: &Value) -> Array2<f32> {
    let text = stored["data"].as_str().unwrap();
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    let shape: Vec<usize> =
        stored["shape"].as_array().unwrap().iter().map(|extent| extent.as_u64().unwrap() as usize).collect();
    let mut numbers = vec![0.0_f32; shape.iter().product()];
    crate::round::decode(element(stored), &bytes, &mut numbers).unwrap();
    let rows = if shape.len() == 1 { 1 } else { shape[0] };
    Array2::from_shape_vec((rows, numbers.len() / rows), numbers).unwrap()
}

/// `h + change`, rounded to the states' dtype.
fn add<S: State>(h: &Array2<f32>, change: &Array2<f32>) -> Array2<f32> {
    (h + change).mapv(|sum| S::narrow(sum).widen())
}

#[test]
fn states_are_those_of_pyreft() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/pyreft-forward/cases.json");
    let cases: Vec<Value> =
        serde_json::from_slice(include_bytes!("../../../../fixtures/pyreft-forward/cases.json"))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(cases.len(), 37);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let role = |role: &str| case["roles"].get(role).map(stored);
        let row = |name: &str| role(name).map(|matrix| matrix.row(0).to_owned());
        let roles = Roles {
            up: role("up"),
            source_weight: role("source.weight"),
            source_bias: row("source.bias"),
            proj_bias: row("proj.bias"),
            ..Roles::default()
        };
        let formula = Formula {
            subtract: case["subtract"].as_bool().unwrap(),
            activation: case["activation"].as_str().map(|word| Activation::from_name(word).unwrap()),
            rounding: Rounding::from_name(case["rounding"].as_str().unwrap()).unwrap(),
            source: case["roles"].get("source.weight").map_or(Element::F32, element),
            ..roles.formula(16)
        };
        let (before, after) = (stored(&case["before"]), stored(&case["after"]));
        let states = element(&case["before"]);
        let map = Map::new(&formula).unwrap();
        assert!(map.follows_rounding(states), "{name}");
        let mut change = Array2::zeros(before.raw_dim());
        map.change(before.view(), before.view(), states, change.view_mut()).unwrap();
        let found = match states {
            Element::Bf16 => add::<bf16>(&before, &change),
            Element::F16 => add::<f16>(&before, &change),
            Element::F32 | Element::F64 => add::<f32>(&before, &change),
        };
        match states {
            Element::F32 | Element::F64 => {
                let largest = after.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
                let error = (&found - &after).iter().fold(0.0_f32, |error, number| error.max(number.abs()));
                assert!(error <= 1e-6 * largest, "{name}: {error}");
            }
            Element::Bf16 | Element::F16 => assert_eq!(found, after, "{name}"),
        }
    }
}
