//! Edits of every kind under methods by name: experts, convolutions with a core, factors beside differences, rows.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::Adapter;
use fitment_core::checkpoint::MemoryCheckpoint;
use fitment_core::model::{
    Add, Edit, ExpertRange, Lora, LoraForm, Magnitude, NormOf, Origin, Set, SetDtype, Target, TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_merge::{
    Error, Input, Limit, Merged, Note, Options, Params, SiteRule, Values, WeightRule, Weights,
};
use fitment_merge::{METHODS, merge, method};

const SCALE: f64 = 0.5;

fn tensor(dims: &[u64], seed: u64) -> Tensor<'static> {
    let mut state = seed;
    let count = dims.iter().product::<u64>();
    let values = (0..count).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).to_le_bytes()
    });
    Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), values.collect::<Vec<u8>>()).unwrap()
}

fn numbers(tensor: &Tensor<'_>) -> Vec<f64> {
    tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect()
}

fn target(name: &str) -> Target {
    Target::whole(TensorName::new(name).unwrap())
}

fn lora(form: LoraForm, up: Tensor<'static>, down: Tensor<'static>) -> Lora<'static> {
    let (target, origin) = (target("w"), Origin::default());
    Lora { target, form, transposed: false, scale: SCALE, up, down, mid: None, magnitude: None, origin }
}

fn add(value: Tensor<'static>) -> Edit<'static> {
    Edit::Add(Add { target: target("w"), scale: 1.0, value, exceptions: None, origin: Origin::default() })
}

fn adapter(edits: Vec<Edit<'static>>) -> Adapter<'static> {
    Adapter { edits, ..Adapter::default() }
}

fn merged<'a>(adapters: &'a [Adapter<'_>], options: &Options<'_>) -> Result<Merged<'a>, Error> {
    let weights = [0.75, -0.5];
    let inputs = adapters.iter().zip(weights).enumerate();
    let input = |(at, (adapter, weight))| Input { adapter, weight, name: format!("{at}"), id: None };
    merge(&inputs.map(input).collect::<Vec<_>>(), options)
}

fn by(name: &str, density: Option<f64>) -> Options<'static> {
    let params = Params { density, ..Params::default() };
    Options { method: Some(method(name).unwrap()), params, ..Options::default() }
}

/// What the only edit of a result adds, in the axes of its tensor.
fn added(merged: &Merged<'_>) -> (Vec<u64>, Vec<f64>) {
    let [edit] = &merged.adapter.edits[..] else { panic!("{} edits", merged.adapter.edits.len()) };
    fitment_core::to_bytes(&merged.adapter).unwrap();
    match edit {
        Edit::Add(add) => (add.value.dims().to_vec(), numbers(&add.value)),
        Edit::Lora(lora) => {
            let lead = usize::from(lora.has_expert_axis());
            let experts = if lead == 1 { lora.up.dims()[0] as usize } else { 1 };
            let rank = lora.rank() as usize;
            let (up, down) = (numbers(&lora.up), numbers(&lora.down));
            let (rows, columns) = (up.len() / experts / rank, down.len() / experts / rank);
            let mut all = Vec::new();
            for expert in 0..experts {
                for row in 0..rows {
                    for column in 0..columns {
                        let term = |of: usize| {
                            up[(expert * rows + row) * rank + of]
                                * down[(expert * rank + of) * columns + column]
                        };
                        all.push((0..rank).map(term).sum::<f64>() * lora.scale);
                    }
                }
            }
            let dims = [&lora.up.dims()[..=lead], &lora.down.dims()[lead + 1..]].concat();
            (dims[..lead + 1].iter().chain(&dims[lead + 1..]).copied().collect(), all)
        }
        other => panic!("a {}", other.kind()),
    }
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-9_f64, |largest, value| largest.max(value.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 2e-5 * largest, "{what}: {a} {b}");
    }
}

/// One expert of a stacked update, as an update of a matrix.
fn expert(stacked: &Lora<'static>, at: u64) -> Lora<'static> {
    let part = |tensor: &Tensor<'static>| {
        let len = tensor.bytes().len() / tensor.dims()[0] as usize;
        let bytes = tensor.bytes()[at as usize * len..][..len].to_vec();
        Tensor::owned(Dtype::F32, Shape::new(&tensor.dims()[1..]).unwrap(), bytes).unwrap()
    };
    Lora {
        form: LoraForm::Matrix,
        target: target(&format!("w[{at}]")),
        up: part(&stacked.up),
        down: part(&stacked.down),
        ..stacked.clone()
    }
}

#[test]
fn every_expert_is_merged_as_if_it_were_alone() {
    let stacked =
        |seed, rank| lora(LoraForm::Stacked, tensor(&[3, 6, rank], seed), tensor(&[3, rank, 5], seed + 9));
    let both = [stacked(1, 2), stacked(2, 2)];
    let whole = both.clone().map(|lora| adapter(vec![Edit::Lora(lora)]));
    let methods =
        METHODS.iter().filter(|method| !method.name.contains("factors") && method.name != "linear:peft");
    for method in methods.filter(|method| !method.name.contains("svd:peft")) {
        let options = Options { method: Some(method), ..Options::default() };
        let (dims, found) = added(&merged(&whole, &options).unwrap());
        assert_eq!(dims, [3, 6, 5], "{}", method.name);
        for at in 0..3 {
            let alone = both.clone().map(|lora| adapter(vec![Edit::Lora(expert(&lora, at))]));
            let (_, expected) = added(&merged(&alone, &options).unwrap());
            assert_near(&found[at as usize * 30..][..30], &expected, method.name);
        }
    }
    let alone = Lora { target: target("e.5.w"), ..expert(&both[0], 1) };
    // A bundle's experts are called what they are called in the base, also where a rank is asked for.
    let bundle = both.map(|lora| {
        let (name, experts) = ("e.{e}.w", Some(ExpertRange { start: 4, end: 7 }));
        let target = Target { experts, ..target(name) };
        adapter(vec![Edit::Lora(Lora { form: LoraForm::Matrix, target, ..lora })])
    });
    let cut = Options { limit: Some(Limit::Rank(2)), ..by("ties", Some(0.6)) };
    let result = merged(&bundle, &cut).unwrap();
    assert_eq!(added(&result).0, [3, 6, 5]);
    assert_eq!((result.truncated.len(), result.truncated[0].to), (1, 2));
    let dense = added(&merged(&bundle, &by("ties", Some(0.6))).unwrap()).1;
    // One expert by its own name is not merged beside the bundle as if it were another tensor.
    let apart = [bundle[0].clone(), adapter(vec![Edit::Lora(alone)])];
    for name in ["ties", "iso-c", "slerp", "svd:peft"] {
        let error = merged(&apart, &by(name, None)).unwrap_err().to_string();
        assert!(error.contains("one expert by its own name"), "{name}: {error}");
    }
    assert!(merged(&apart, &Options::default()).unwrap_err().to_string().contains("by its own name"));
    // In one form, that expert has the sum.
    let leveled = fitment_merge::level(&[&apart[0], &apart[1]]).unwrap();
    assert_eq!(leveled[0].edits.len(), 3);
    let leveled: [_; 2] = leveled.try_into().unwrap();
    let sum = merged(&leveled, &Options::default()).unwrap();
    let ranks =
        |edit: &Edit<'_>| if let Edit::Lora(lora) = edit { Some((edit.label()?, lora.rank())) } else { None };
    let mut found: Vec<(String, u64)> = sum.adapter.edits.iter().filter_map(ranks).collect();
    found.sort();
    let rank = |number: u64, rank: u64| (format!("e.{number}.w"), rank);
    let own = found[0].1;
    assert_eq!(found, [rank(4, own), rank(5, found[1].1), rank(6, own)]);
    assert!(found[1].1 > own && fitment_merge::level(&[&leveled[0], &leveled[1]]).is_none());
    let near = added(&result).1;
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let off = norm(&mut dense.iter().zip(&near).map(|(a, b)| a - b)) / norm(&mut dense.iter().copied());
    assert!((off - result.truncated[0].relative_error).abs() < 1e-5, "{off}");
}

#[test]
fn a_core_is_merged_as_the_plain_factors_that_it_makes() {
    let cored = |seed| Lora {
        mid: Some(tensor(&[2, 2, 3, 3], seed + 20)),
        ..lora(LoraForm::Conv, tensor(&[4, 2, 1, 1], seed), tensor(&[2, 3, 1, 1], seed + 10))
    };
    // `down` with the core in it, by its definition.
    let plain = |cored: &Lora<'static>| {
        let (mid, down) = (numbers(cored.mid.as_ref().unwrap()), numbers(&cored.down));
        let mut folded = Vec::new();
        for p in 0..2 {
            for i in 0..3 {
                for k in 0..9 {
                    let term = |q: usize| mid[(p * 2 + q) * 9 + k] * down[q * 3 + i];
                    folded.extend(((term(0) + term(1)) as f32).to_le_bytes());
                }
            }
        }
        let down = Tensor::owned(Dtype::F32, Shape::new(&[2, 3, 3, 3]).unwrap(), folded).unwrap();
        Lora { mid: None, down, ..cored.clone() }
    };
    let both = [cored(1), cored(2)];
    let folded = [plain(&both[0]), plain(&both[1])].map(|lora| adapter(vec![Edit::Lora(lora)]));
    let both = both.map(|lora| adapter(vec![Edit::Lora(lora)]));
    for name in ["task-arithmetic", "ties", "magnitude-prune", "iso-c", "tsv", "slerp", "core-ties", "ctm"] {
        let (dims, found) = added(&merged(&both, &by(name, None)).unwrap());
        let (same, expected) = added(&merged(&folded, &by(name, None)).unwrap());
        assert_eq!((&dims, &same), (&vec![4, 3, 3, 3], &dims), "{name}");
        assert_near(&found, &expected, name);
    }
    let error = merged(&both, &by("linear:peft", None)).unwrap_err().to_string();
    assert!(error.contains("a convolution with a core"), "{error}");
}

fn base(value: &Tensor<'_>) -> Vec<u8> {
    let [rows, columns] = value.dims() else { panic!() };
    let len = value.bytes().len();
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{rows},{columns}],"data_offsets":[0,{len}]}}}}"#);
    [&80_u64.to_le_bytes()[..], format!("{header:<80}").as_bytes(), value.bytes()].concat()
}

#[test]
fn factors_beside_a_difference_and_rows_are_the_updates_that_they_are() {
    let factors = lora(LoraForm::Matrix, tensor(&[6, 2], 1), tensor(&[2, 5], 2));
    let product = added(
        &merged(&[adapter(vec![Edit::Lora(factors.clone())])], &by("magnitude-prune", Some(1.0))).unwrap(),
    )
    .1;
    let difference = tensor(&[6, 5], 3);
    let pair = [adapter(vec![Edit::Lora(factors.clone())]), adapter(vec![add(difference.clone())])];
    for name in ["magnitude-prune", "task-arithmetic", "dare", "breadcrumbs"] {
        let density = (name != "task-arithmetic").then_some(1.0);
        let gamma = (name == "breadcrumbs").then_some(0.0);
        let params = Params { density, gamma, ..Params::default() };
        let (dims, found) = added(&merged(&pair, &Options { params, ..by(name, None) }).unwrap());
        let expected: Vec<f64> = product.iter().zip(numbers(&difference)).map(|(a, b)| a - 0.5 * b).collect();
        assert_eq!(dims, [6, 5]);
        assert_near(&found, &expected, name);
    }
    // A method of factors alone sums nothing in passing.
    for name in ["tsv", "iso-c", "knots-ties", "ctm", "linear:peft"] {
        let error = merged(&pair, &by(name, None)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("(add) stands beside low-rank updates: {name} is")),
            "{error}"
        );
    }

    // Rows against the base's own.
    let held = tensor(&[6, 5], 7);
    let file = base(&held);
    let checkpoint = MemoryCheckpoint::new(&file, None).unwrap();
    let index: Vec<u8> = [1_i64, 4].iter().flat_map(|row| row.to_le_bytes()).collect();
    let set = |rows: Vec<u8>, value: Tensor<'static>| {
        let count = rows.len() as u64 / 8;
        let rows = Some(Tensor::owned(Dtype::I64, Shape::new(&[count]).unwrap(), rows).unwrap());
        let (dtype, origin) = (SetDtype::Base, Origin::default());
        Edit::Set(Set { target: target("w"), dtype, create: false, reshape: false, value, rows, origin })
    };
    let rows = tensor(&[2, 5], 8);
    let pair = [pair[0].clone(), adapter(vec![set(index, rows.clone())])];
    let without = merged(&pair, &by("magnitude-prune", Some(1.0))).unwrap_err();
    assert_eq!(without.hint(), Some("name the base with --base"), "{without}");
    let options = Options { base: Some(&checkpoint), ..by("magnitude-prune", Some(1.0)) };
    let found = added(&merged(&pair, &options).unwrap()).1;
    let (held, rows) = (numbers(&held), numbers(&rows));
    let mut expected = product;
    for (row, at) in [1, 4].into_iter().enumerate() {
        for column in 0..5 {
            expected[at * 5 + column] -= 0.5 * (rows[row * 5 + column] - held[at * 5 + column]);
        }
    }
    assert_near(&found, &expected, "rows");
    let beyond = 6_i64.to_le_bytes().to_vec();
    let pair = [pair[0].clone(), adapter(vec![set(beyond, tensor(&[1, 5], 8))])];
    let error = merged(&pair, &options).unwrap_err().to_string();
    assert!(error.contains("appends rows"), "{error}");
}

#[test]
fn a_magnitude_is_refused_with_both_ways_out() {
    let mut dora = lora(LoraForm::Matrix, tensor(&[6, 2], 1), tensor(&[2, 5], 2));
    dora.magnitude = Some(Magnitude { value: tensor(&[6], 4), axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
    let adapters = [adapter(vec![Edit::Lora(dora)]), adapter(vec![add(tensor(&[6, 5], 3))])];
    for method in METHODS {
        let options = Options { method: Some(method), ..Options::default() };
        let error = merged(&adapters, &options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "w (0, 1): a magnitude (DoRA) is no update by itself",
            "{}",
            method.name
        );
        let hint = error.hint().unwrap();
        assert!(hint.contains("--base") && hint.contains("fitment diff --rank"), "{hint}");
    }
}

#[test]
fn a_tensor_that_is_new_is_merged_exactly_and_named() {
    let create = || {
        let (value, origin) = (tensor(&[3], 1), Origin::default());
        Edit::Set(Set {
            target: target("new"),
            dtype: SetDtype::Stored,
            create: true,
            reshape: false,
            value,
            rows: None,
            origin,
        })
    };
    let adapters = [adapter(vec![create()]), adapter(vec![add(tensor(&[6, 5], 3))])];
    let inputs = [1.0, 0.5].into_iter().zip(&adapters);
    let input = |(weight, adapter)| Input { adapter, weight, name: "a".to_owned(), id: None };
    let result = merge(&inputs.map(input).collect::<Vec<_>>(), &by("ties", None)).unwrap();
    assert!(result.notes.contains(&Note::Summed { targets: vec!["new".to_owned()] }), "{:?}", result.notes);
}

#[test]
fn adapters_that_may_be_of_two_models_are_told_of() {
    let elsewhere = {
        let (value, origin) = (tensor(&[6, 5], 4), Origin::default());
        Edit::Add(Add { target: target("encoder.w"), scale: 1.0, value, exceptions: None, origin })
    };
    let mut adapters = [adapter(vec![add(tensor(&[6, 5], 3))]), adapter(vec![elsewhere])];
    let is_told = |adapters: &[Adapter<'static>]| {
        let notes = merged(adapters, &Options::default()).unwrap().notes;
        notes.iter().any(|note| matches!(note, Note::NothingShared { .. }))
    };
    assert!(is_told(&adapters) && !is_told(&adapters[..1]));
    for adapter in &mut adapters {
        adapter.base.name = Some("one/model".to_owned());
    }
    assert!(!is_told(&adapters));
}

#[test]
fn what_has_nothing_to_act_on_is_an_error() {
    let adapters = [adapter(vec![add(tensor(&[6, 5], 3))])];
    let of = |options: Options<'_>| merged(&adapters, &options).unwrap_err().to_string();
    let told = Options { site_rule: SiteRule::Sum, ..Options::default() };
    assert_eq!(of(told), "at-one-site sum is for interventions, and no adapter has any");
    let told = Options { subspace: Some(&[0]), ..Options::default() };
    assert_eq!(of(told), "subspace is for interventions, and no adapter has any");
    let rule =
        |weight| WeightRule { pattern: "*".to_owned(), adapter: None, weight, density: None, lambda: None };
    let weights = Weights { rules: vec![rule(Some(Values::One(1.0))), rule(None)] };
    let expected = "\"*\" sets nothing: weight, density and lambda are what a rule sets";
    assert_eq!(of(Options { weights: &weights, ..Options::default() }), expected);
}
