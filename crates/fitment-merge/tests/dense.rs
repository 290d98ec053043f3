//! Methods of elements, through the front door: what becomes of dense results.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::Adapter;
use fitment_core::checkpoint::MemoryCheckpoint;
use fitment_core::model::{Add, Edit, Lora, LoraForm, Origin, Set, SetDtype, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::ndarray::Array2;
use fitment_math::svd::{Limit as Shorter, shorten};
use fitment_merge::{Input, Limit, Merged, Note, Options, Params, merge, method};

/// Numbers in (−1, 1) of a seed.
fn noise(count: u64, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(dims: &[u64], values: &[f32]) -> Tensor<'static> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
}

fn floats(tensor: &Tensor<'_>) -> Vec<f64> {
    let (numbers, _) = tensor.bytes().as_chunks::<4>();
    numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
}

fn target(name: &str) -> Target {
    Target::whole(TensorName::new(name).unwrap())
}

fn lora([rows, columns]: [u64; 2], rank: u64, seed: u64) -> Edit<'static> {
    Edit::Lora(Lora {
        target: target("w"),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 0.5,
        up: tensor(&[rows, rank], &noise(rows * rank, seed)),
        down: tensor(&[rank, columns], &noise(rank * columns, seed + 50)),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    })
}

fn add(name: &str, dims: &[u64], seed: u64) -> Edit<'static> {
    let value = tensor(dims, &noise(dims.iter().product(), seed));
    Edit::Add(Add { target: target(name), scale: 1.0, value, exceptions: None, origin: Origin::default() })
}

fn adapter(edits: Vec<Edit<'static>>) -> Adapter<'static> {
    Adapter { edits, ..Adapter::default() }
}

fn run<'a>(adapters: &'a [Adapter<'a>], name: &str, density: f64, more: Options<'_>) -> Merged<'a> {
    let input = |adapter| Input { adapter, weight: 1.0, name: "a".to_owned(), id: None };
    let inputs: Vec<Input<'_>> = adapters.iter().map(input).collect();
    let params = Params { density: Some(density), ..Params::default() };
    merge(&inputs, &Options { method: method(name), params, ..more }).unwrap()
}

fn limited(limit: Limit) -> Options<'static> {
    Options { limit: Some(limit), ..Options::default() }
}

fn product(edit: &Edit<'_>) -> Array2<f64> {
    let Edit::Lora(lora) = edit else { panic!("{} is no low-rank update", edit.kind()) };
    let matrix = |tensor: &Tensor<'_>| {
        let dims = (tensor.dims()[0] as usize, tensor.dims()[1] as usize);
        Array2::from_shape_vec(dims, floats(tensor)).unwrap()
    };
    matrix(&lora.up).dot(&matrix(&lora.down)) * lora.scale
}

fn whole(edit: &Edit<'_>) -> Array2<f64> {
    let Edit::Add(add) = edit else { panic!("{} is not dense", edit.kind()) };
    let dims = (add.value.dims()[0] as usize, add.value.dims()[1] as usize);
    Array2::from_shape_vec(dims, floats(&add.value)).unwrap()
}

fn norm(matrix: &Array2<f64>) -> f64 {
    matrix.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn a_rank_costs_what_the_best_of_that_rank_costs() {
    let dims = [600, 528];
    let adapters = [adapter(vec![lora(dims, 16, 1)]), adapter(vec![lora(dims, 16, 2)])];
    for (name, density) in [("ties", 0.2), ("dare", 0.5)] {
        let dense = run(&adapters, name, density, Options::default());
        assert_eq!(dense.notes, [Note::Dense { targets: 1 }]);
        let dense = whole(&dense.adapter.edits[0]);
        let values = shorten(dense.view(), Array2::eye(528).view(), Shorter::Rank(1)).unwrap().values;
        let squares = |from: usize| values[from..].iter().map(|value| value * value).sum::<f64>();
        for rank in [16, 32] {
            let best = (squares(rank) / squares(0)).sqrt();
            for limit in [Limit::Rank(rank as u64), Limit::Error(best * (1.0 + 1e-4))] {
                let merged = run(&adapters, name, density, limited(limit));
                let [cut] = &merged.truncated[..] else { panic!() };
                assert_eq!((cut.from, cut.to), (528, rank as u64), "{name} {limit:?}");
                assert!((cut.relative_error / best - 1.0).abs() < 1e-4, "{name} {rank}: {cut:?} {best}");
                let lost = norm(&(&product(&merged.adapter.edits[0]) - &dense)) / norm(&dense);
                assert!((lost / cut.relative_error - 1.0).abs() < 1e-4, "{name} {rank}: {lost} {cut:?}");
            }
        }
    }
}

#[test]
fn matrices_of_full_weight_diffs_become_low_rank_and_vectors_stay() {
    let edits = |seed| vec![add("b", &[30], seed), add("w", &[30, 40], seed + 1)];
    let adapters = [adapter(edits(1)), adapter(edits(5))];
    let dense = run(&adapters, "ties", 0.5, Options::default());
    let merged = run(&adapters, "ties", 0.5, limited(Limit::Rank(4)));
    let vector = |merged: &Merged<'_>| {
        let Edit::Add(add) = &merged.adapter.edits[0] else { panic!() };
        add.value.bytes().to_vec()
    };
    assert_eq!(vector(&merged), vector(&dense));
    assert!(!merged.notes.iter().any(|note| matches!(note, Note::Dense { .. })));
    let Edit::Lora(lora) = &merged.adapter.edits[1] else { panic!() };
    assert_eq!(
        (lora.form, lora.transposed, lora.rank(), &lora.target),
        (LoraForm::Matrix, false, 4, &target("w"))
    );
    let [cut] = &merged.truncated[..] else { panic!() };
    let dense = whole(&dense.adapter.edits[1]);
    let lost = norm(&(&product(&merged.adapter.edits[1]) - &dense)) / norm(&dense);
    assert!((lost - cut.relative_error).abs() < 1e-6 && lost > 0.1);
    fitment_core::to_bytes(&merged.adapter).unwrap();
}

#[test]
fn where_factors_would_be_no_smaller_the_result_stays_dense() {
    let adapters = [adapter(vec![add("w", &[30, 40], 1)]), adapter(vec![lora([30, 40], 2, 3)])];
    let full = run(&adapters[..1], "magnitude-prune", 0.9, limited(Limit::Error(1e-3)));
    assert!(matches!(full.adapter.edits[0], Edit::Add(_)) && full.truncated.is_empty());
    let low = run(&adapters[1..], "magnitude-prune", 1.0, limited(Limit::Error(1e-3)));
    assert_eq!(low.truncated[0].to, 2);
}

#[test]
fn replacements_become_low_rank_on_the_base() {
    let base = noise(20 * 24, 9);
    let header = r#"{"w":{"dtype":"F32","shape":[20,24],"data_offsets":[0,1920]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes().chain(base.iter().flat_map(|value| value.to_le_bytes())));
    let base_file = MemoryCheckpoint::new(&file, None).unwrap();
    let update = product(&lora([20, 24], 3, 4));
    let tuned: Vec<f32> = base.iter().zip(&update).map(|(base, update)| base + *update as f32).collect();
    let set = Set {
        target: target("w"),
        value: tensor(&[20, 24], &tuned),
        rows: None,
        dtype: SetDtype::Stored,
        create: false,
        reshape: false,
        origin: Origin::default(),
    };
    let adapters = [adapter(vec![Edit::Set(set)])];
    let options = Options { base: Some(&base_file), ..limited(Limit::Rank(3)) };
    let merged = run(&adapters, "magnitude-prune", 1.0, options);
    let off = norm(&(&product(&merged.adapter.edits[0]) - &update)) / norm(&update);
    assert!(off < 1e-5 && merged.truncated[0].to == 3, "{off}");
}

#[test]
fn a_sum_of_full_weight_diffs_and_of_factors_is_cut_once() {
    let two = |seed| adapter(vec![add("v", &[30, 40], seed), lora([30, 40], 6, seed + 1)]);
    let adapters = [two(1), two(7)];
    let input = |adapter| Input { adapter, weight: 1.0, name: "a".to_owned(), id: None };
    let inputs: Vec<Input<'_>> = adapters.iter().map(input).collect();
    let error = 0.6;
    let options = Options { method: method("task-arithmetic"), ..limited(Limit::Error(error)) };
    let merged = merge(&inputs, &options).unwrap();
    let dense = merge(&inputs, &Options { limit: None, ..options }).unwrap();
    let [full, factors] = &merged.truncated[..] else { panic!("{:?}", merged.truncated) };
    assert_eq!((full.target.as_str(), full.from, factors.target.as_str(), factors.from), ("v", 30, "w", 12));
    let dense = whole(&dense.adapter.edits[0]);
    let lost = norm(&(&product(&merged.adapter.edits[0]) - &dense)) / norm(&dense);
    assert!((lost - full.relative_error).abs() < 1e-6 && lost <= error, "{lost} {full:?}");
}
