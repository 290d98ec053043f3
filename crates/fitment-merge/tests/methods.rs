//! Methods of factors, through the front door.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::Adapter;
use fitment_core::model::{
    Add, BaseTensor, Edit, Intervention, Lora, LoraForm, Origin, Positions, Site, SiteComponent, Target,
    TensorName,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_merge::{
    Error, Input, Limit, METHODS, Merged, Method, Options, Params, SiteRule, Values, WeightRule, Weights,
    merge, method,
};

const ROWS: u64 = 12;
const COLUMNS: u64 = 10;

/// An adapter with random factors of this rank at each target.
fn adapter(seed: u64, rank: u64, targets: &[&str]) -> Adapter<'static> {
    let mut state = seed;
    let mut tensor = |dims: [u64; 2]| {
        let values = (0..dims[0] * dims[1]).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).to_le_bytes()
        });
        let values: Vec<u8> = values.collect();
        Tensor::owned(Dtype::F32, Shape::new(&dims).unwrap(), values).unwrap()
    };
    let mut edits = Vec::new();
    for target in targets {
        edits.push(Edit::Lora(Lora {
            target: Target::whole(TensorName::new(*target).unwrap()),
            form: LoraForm::Matrix,
            transposed: false,
            scale: 0.5,
            up: tensor([ROWS, rank]),
            down: tensor([rank, COLUMNS]),
            mid: None,
            magnitude: None,
            origin: Origin::default(),
        }));
    }
    Adapter { edits, ..Adapter::default() }
}

fn run<'a>(
    adapters: &'a [Adapter<'_>],
    method: &'static Method,
    limit: Option<Limit>,
) -> Result<Merged<'a>, Error> {
    let input = |(at, adapter): (usize, &'a Adapter<'_>)| {
        let weight = if at == 0 { 0.75 } else { 0.5 };
        Input { adapter, weight, name: format!("adapter {at}"), id: None }
    };
    let inputs: Vec<Input<'a>> = adapters.iter().enumerate().map(input).collect();
    merge(&inputs, &Options { method: Some(method), limit, ..Options::default() })
}

/// Those of factors, but for PEFT's, which ask for equal ranks.
fn factor_methods() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().copied().filter(|method| !method.is_dense() && !method.name.ends_with(":peft"))
}

fn rank(edit: &Edit<'_>) -> u64 {
    let Edit::Lora(lora) = edit else { panic!("{} is no low-rank update", edit.kind()) };
    lora.rank()
}

#[test]
fn the_same_adapters_give_the_same_bytes_and_targets_do_not_depend_on_each_other() {
    let all = ["a.weight", "b.weight", "c.weight"];
    let adapters = [adapter(1, 3, &all), adapter(2, 2, &all[..2])];
    for method in factor_methods() {
        let merged = run(&adapters, method, None).unwrap();
        let bytes = fitment_core::to_bytes(&merged.adapter).unwrap();
        let again = run(&adapters, method, None).unwrap();
        assert_eq!(bytes, fitment_core::to_bytes(&again.adapter).unwrap(), "{}", method.name);
        assert_eq!(merged.adapter.edits.len(), 3, "{}", method.name);
        for (at, edit) in merged.adapter.edits.iter().enumerate() {
            assert!(rank(edit) <= 5, "{}: rank {}", method.name, rank(edit));
            let only = |adapter: &Adapter<'static>| {
                let edits = adapter.edits.iter().filter(|edit| edit.label() == Some(all[at].to_owned()));
                Adapter { edits: edits.cloned().collect(), ..Adapter::default() }
            };
            let alone = [only(&adapters[0]), only(&adapters[1])];
            let alone = run(&alone, method, None).unwrap();
            let file = |edit: &Edit<'_>| {
                let adapter = Adapter { edits: vec![edit.clone()], ..Adapter::default() };
                fitment_core::to_bytes(&adapter).unwrap()
            };
            assert_eq!(file(&alone.adapter.edits[0]), file(edit), "{}", method.name);
        }
    }
}

#[test]
fn every_method_gives_a_smaller_rank_where_it_is_asked_for() {
    let adapters = [adapter(1, 3, &["a.weight"]), adapter(2, 2, &["a.weight"])];
    for method in factor_methods() {
        let merged = run(&adapters, method, Some(Limit::Rank(2))).unwrap();
        assert_eq!(rank(&merged.adapter.edits[0]), 2, "{}", method.name);
        // What a method does with a rank of its own is no cut of its result.
        assert_eq!(merged.truncated.is_empty(), method.is_ranked(), "{}", method.name);
        if method.is_ranked() {
            let merged = run(&adapters, method, None).unwrap();
            assert_eq!(rank(&merged.adapter.edits[0]), 3, "{}", method.name);
        }
    }
}

#[test]
fn a_rank_above_all_is_an_error_of_dense_methods_too() {
    let adapters = [adapter(1, 3, &["a.weight"]), adapter(2, 2, &["a.weight"])];
    let error = run(&adapters, method("ties").unwrap(), Some(Limit::Rank(11))).unwrap_err();
    let expected = "rank 11 is asked for; the largest there is has 10 (a.weight): nothing to cut";
    assert_eq!(error.to_string(), expected);
    for (name, rank) in [("ctm", 6), ("ctm-ties", 6), ("svd:peft", 6)] {
        let error = run(&adapters, method(name).unwrap(), Some(Limit::Rank(rank))).unwrap_err().to_string();
        assert_eq!(error, "rank 6 is asked for; the largest there is has 5 (a.weight): nothing to cut");
        assert!(run(&adapters, method(name).unwrap(), Some(Limit::Rank(5))).is_ok());
    }
}

#[test]
fn what_overflows_is_refused() {
    let adapters = [1, 2].map(|seed| {
        let mut adapter = adapter(seed, 2, &["a.weight"]);
        let Edit::Lora(lora) = &mut adapter.edits[0] else { panic!() };
        lora.scale = if seed == 1 { 1e300 } else { 1.0 };
        adapter
    });
    let error = run(&adapters, method("task-arithmetic").unwrap(), None).unwrap_err().to_string();
    assert_eq!(error, "a.weight (adapter 0, adapter 1): the factors overflow");
    let input = |adapter| Input { adapter, weight: 1.0, name: "a".to_owned(), id: None };
    let error = merge(&[input(&adapters[0]), input(&adapters[1])], &Options::default()).unwrap_err();
    assert!(error.to_string().ends_with("or a multiplier is too large"), "{error}");
}

#[test]
fn a_method_of_two_adapters_says_so() {
    let adapters = [1, 2, 3].map(|seed| adapter(seed, 2, &["a.weight"]));
    for name in ["slerp", "nuslerp"] {
        let error = run(&adapters, method(name).unwrap(), None).unwrap_err();
        assert_eq!(error.to_string(), format!("{name} is between 2 adapters, 3 named here"));
    }
    let error = run(&adapters, method("np-lora").unwrap(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.weight (adapter 0, adapter 1, adapter 2): np-lora is of 2 adapters, 3 named here"
    );
    let error = run(&adapters[..1], method("model-stock").unwrap(), None).unwrap_err();
    assert_eq!(error.to_string(), "a.weight (adapter 0): model-stock is of 2 adapters or more, 1 named here");
}

#[test]
fn beta_is_a_share_and_other_methods_do_not_take_it() {
    let adapter = adapter(1, 2, &["a.weight"]);
    let told = |name: &str, beta: f64| {
        let params = Params { beta: Some(beta), ..Params::default() };
        let input = Input { adapter: &adapter, weight: 1.0, name: "a".to_owned(), id: None };
        let result = merge(&[input], &Options { method: method(name), params, ..Options::default() });
        result.err().map(|error| error.to_string())
    };
    assert_eq!(told("ctm", 0.5), None);
    assert_eq!(told("ctm", 1.5).unwrap(), "beta is 1.5: it is a share from 0 to 1");
    assert_eq!(told("tsv", 0.5).unwrap(), "tsv takes no beta; of these it takes lambda");
}

#[test]
fn layers_of_weight_0_count_as_layers() {
    let adapter = adapter(1, 2, &["layers.0.q.weight", "layers.1.q.weight", "layers.2.q.weight"]);
    let rule = WeightRule {
        pattern: "*".to_owned(),
        adapter: None,
        weight: Some(Values::Layers(vec![1.0, 1.0, 0.0])),
        density: None,
        lambda: Some(Values::Layers(vec![1.0, 3.0])),
    };
    let weights = Weights { rules: vec![rule] };
    let input = Input { adapter: &adapter, weight: 1.0, name: "a".to_owned(), id: None };
    let options = Options { method: method("task-arithmetic"), weights: &weights, ..Options::default() };
    let merged = merge(&[input], &options).unwrap();
    let first = |edit: &Edit<'_>| {
        let Edit::Lora(lora) = edit else { panic!() };
        let bytes = lora.up.bytes()[..4].try_into().unwrap();
        f64::from(f32::from_le_bytes(bytes)) * lora.scale
    };
    let factors: Vec<f64> =
        merged.adapter.edits.iter().zip(&adapter.edits).map(|(a, b)| first(a) / first(b)).collect();
    assert_eq!(factors, [1.0, 2.0]);
}

#[test]
fn what_is_told_to_no_method_is_an_error() {
    let adapter = adapter(1, 2, &["a.weight"]);
    let refused = |params: Params, weights: &Weights| {
        let input = Input { adapter: &adapter, weight: 1.0, name: "a".to_owned(), id: None };
        merge(&[input], &Options { params, weights, ..Options::default() }).unwrap_err().to_string()
    };
    let of_command = Params { t: Some(0.5), ..Params::default() };
    let tail = "is for a method, and none is named: without one the sum is exact";
    assert_eq!(refused(of_command, &Weights::default()), format!("t {tail}"));
    let (pattern, adapter, weight, density) = ("*".to_owned(), None, None, Some(Values::One(0.5)));
    let weights = Weights { rules: vec![WeightRule { pattern, adapter, weight, density, lambda: None }] };
    assert_eq!(refused(Params::default(), &weights), format!("density {tail}"));
}

#[test]
fn everything_that_makes_the_result_is_recorded() {
    let mut adapter = adapter(1, 3, &["a.weight"]);
    let site = Site::Layer { layer: 0, component: SiteComponent::BlockOutput };
    let mut edit = Intervention::at(site, Positions::EVERYWHERE);
    edit.up = adapter.edits.iter().find_map(|edit| match edit {
        Edit::Lora(lora) => Some(lora.up.clone()),
        _ => None,
    });
    edit.subtract = true;
    adapter.edits.push(Edit::Intervention(edit));
    let options = |seed: u64| {
        let input = Input { adapter: &adapter, weight: 1.0, name: "a".to_owned(), id: None };
        let params = Params { seed, ..Params::default() };
        let options = Options {
            method: method("dare"),
            params,
            site_rule: SiteRule::Sum,
            subspace: Some(&[0, 2]),
            ..Options::default()
        };
        merge(&[input], &options).unwrap().adapter.extra["merge"]["options"].clone()
    };
    assert_eq!(options(7)["seed"], 7);
    assert_eq!(options(u64::MAX)["seed"], u64::MAX.to_string());
    assert_eq!((&options(0)["at_one_site"], &options(0)["subspace"][1]), (&"sum".into(), &2.into()));
}

#[test]
fn a_tensor_that_no_edit_touches_is_no_part_of_the_base() {
    let mut adapter = adapter(1, 2, &["layers.0.q.weight", "layers.1.q.weight"]);
    adapter.base.tensors = ["layers.0.q.weight", "layers.1.q.weight"]
        .map(|name| BaseTensor {
            component: None,
            name: TensorName::new(name).unwrap(),
            experts: None,
            dtype: Some(Dtype::F32),
            shape: Some(Shape::new(&[ROWS, COLUMNS]).unwrap()),
            digests: vec![[7; 32]],
            unchanged: false,
            extra: Default::default(),
        })
        .to_vec();
    let (weight, density, lambda) = (Some(Values::Layers(vec![0.0, 1.0])), None, None);
    let rule = WeightRule { pattern: "*".to_owned(), adapter: None, weight, density, lambda };
    let weights = Weights { rules: vec![rule] };
    for method in [None, method("ties")] {
        let input = Input { adapter: &adapter, weight: 1.0, name: "a".to_owned(), id: None };
        let merged =
            merge(&[input], &Options { method, weights: &weights, ..Options::default() }).unwrap().adapter;
        let names: Vec<&str> = merged.base.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!((merged.edits.len(), &names[..]), (1, &["layers.1.q.weight"][..]));
        fitment_core::to_bytes(&merged).unwrap();
    }
}

/// `s·up·down` of each edit, row by row.
fn products(adapter: &Adapter<'_>) -> Vec<Vec<f64>> {
    let numbers = |tensor: &Tensor<'_>| -> Vec<f64> {
        let chunks = tensor.bytes().chunks_exact(4);
        chunks.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()).into()).collect()
    };
    let product = |edit: &Edit<'_>| match edit {
        Edit::Lora(lora) => {
            let (up, down) = (numbers(&lora.up), numbers(&lora.down));
            let (rank, columns) = (lora.rank() as usize, COLUMNS as usize);
            let at = |row: &[f64], column: usize| {
                row.iter().enumerate().map(|(of, up)| lora.scale * up * down[of * columns + column]).sum()
            };
            up.chunks(rank).flat_map(|row| (0..columns).map(move |column| at(row, column))).collect()
        }
        Edit::Add(add) => numbers(&add.value),
        _ => panic!("{} is no update", edit.kind()),
    };
    adapter.edits.iter().map(product).collect()
}

#[test]
fn dense_updates_are_merged_as_their_factors_are() {
    let targets = ["a.weight", "b.weight"];
    let adapters = [adapter(1, 3, &targets), adapter(2, 2, &targets[..1])];
    let dense = |adapter: &Adapter<'static>| {
        let edits = products(adapter).into_iter().zip(targets).map(|(product, target)| {
            let bytes: Vec<u8> = product.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
            let value = Tensor::owned(Dtype::F32, Shape::new(&[ROWS, COLUMNS]).unwrap(), bytes).unwrap();
            let target = Target::whole(TensorName::new(target).unwrap());
            Edit::Add(Add { target, scale: 1.0, value, exceptions: None, origin: Origin::default() })
        });
        Adapter { edits: edits.collect(), ..Adapter::default() }
    };
    let wholes = [dense(&adapters[0]), dense(&adapters[1])];
    for method in factor_methods().filter(|method| method.takes_any()) {
        let [of_factors, of_wholes] =
            [&adapters, &wholes].map(|adapters| products(&run(adapters, method, None).unwrap().adapter));
        for (found, expected) in of_wholes.iter().flatten().zip(of_factors.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6, "{}: {found} {expected}", method.name);
        }
    }
}
