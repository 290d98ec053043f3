//! Merges against PEFT's own `add_weighted_adapter` (`fixtures/weighted`), where PEFT is sound.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{Files, ReadOptions};
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::model::{Adapter, Edit, Lora};
use fitment_core::tensor::Tensor;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_math::ndarray::Array2;
use fitment_merge::{Input, Limit, Options, Params, merge, method};
use fitment_tests::compare::values;
use fitment_tests::place::fixture;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn matrix(tensor: &Tensor<'_>) -> Array2<f64> {
    let [rows, columns] = tensor.dims() else { panic!("{:?}", tensor.dims()) };
    let numbers = values(tensor.dtype(), tensor.bytes());
    Array2::from_shape_vec((*rows as usize, *columns as usize), numbers).unwrap()
}

fn delta(edit: &Edit<'_>) -> (String, Array2<f64>) {
    match edit {
        Edit::Lora(Lora { target, up, down, scale, .. }) => {
            (target.name.to_string(), matrix(up).dot(&matrix(down)) * *scale)
        }
        Edit::Add(add) => (add.target.name.to_string(), matrix(&add.value) * add.scale),
        other => panic!("{}", other.kind()),
    }
}

/// Every result of a case that PEFT made by one of the types, with the adapters of the case.
fn each(case: &str, types: &[&str], mut check: impl FnMut(&[(&Adapter<'_>, f64)], &Value, &Path)) {
    let folder = fixture("weighted").join(case);
    let facts: Value = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
    let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
    let files: Vec<(String, AdapterFiles)> = facts["weights"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| folder.join(name).exists())
        .map(|name| (name.clone(), AdapterFiles::load(&folder.join(name)).unwrap()))
        .collect();
    let read = |(name, files): &(String, AdapterFiles)| {
        let blobs: Files<'_> = files.iter().collect();
        let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
        let adapter = fitment_convert::read(&blobs, &options).unwrap().adapter;
        (name.clone(), fitment_core::to_bytes(&adapter).unwrap())
    };
    let files: Vec<(String, Vec<u8>)> = files.iter().map(read).collect();
    let adapters: Vec<(&str, Adapter<'_>)> =
        files.iter().map(|(name, bytes)| (name.as_str(), fitment_core::read(bytes).unwrap())).collect();
    let mut count = 0;
    for result in facts["results"].as_array().unwrap() {
        if !types.contains(&result["type"].as_str().unwrap()) {
            continue;
        }
        let chosen = result["adapters"].as_array().unwrap().iter().map(|name| {
            let (name, adapter) =
                adapters.iter().find(|(known, _)| *known == name.as_str().unwrap()).unwrap();
            (adapter, facts["weights"][name].as_f64().unwrap())
        });
        check(&chosen.collect::<Vec<_>>(), result, &folder.join(result["file"].as_str().unwrap()));
        count += 1;
    }
    assert!(count > 0, "{case} has no {types:?}");
}

/// The merged deltas are PEFT's, times `factor`, within `allowed` of the largest element.
fn assert_deltas(adapter: &Adapter<'_>, file: &Path, factor: f64, allowed: f64) {
    let bytes = fs::read(file).unwrap();
    let theirs = MemoryCheckpoint::new(&bytes, None).unwrap();
    let ours: Vec<(String, Array2<f64>)> = adapter.edits.iter().map(delta).collect();
    assert_eq!(ours.len(), theirs.tensors().len());
    for (name, ours) in ours {
        let numbers = values(theirs.tensors()[&name].dtype, &theirs.read(&name).unwrap());
        let theirs = Array2::from_shape_vec(ours.dim(), numbers).unwrap() * factor;
        let largest = theirs.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        let off = (&ours - &theirs).iter().fold(0.0_f64, |off, value| off.max(value.abs()));
        assert!(off <= allowed * largest, "{} {name}: off by {off} of {largest}", file.display());
    }
}

fn inputs<'a>(adapters: &[(&'a Adapter<'a>, f64)]) -> Vec<Input<'a>> {
    let input = |(adapter, weight): &(&'a Adapter<'a>, f64)| Input {
        adapter,
        weight: *weight,
        name: String::new(),
        id: None,
    };
    adapters.iter().map(input).collect()
}

fn rank(result: &Value) -> Option<Limit> {
    result["svd_rank"].as_u64().map(Limit::Rank)
}

#[test]
fn the_exact_sum_is_cat_and_its_best_rank_svd() {
    for case in ["equal_ranks", "other_ranks"] {
        each(case, &["cat", "svd"], |adapters, result, file| {
            let options = Options { limit: rank(result), ..Options::default() };
            let merged = merge(&inputs(adapters), &options).unwrap();
            assert_deltas(&merged.adapter, file, 1.0, 2e-6);
        });
    }
}

#[test]
fn rank_stabilised_scales_are_counted_once() {
    each("rslora", &["cat", "svd"], |adapters, result, file| {
        let options = Options { limit: rank(result), ..Options::default() };
        let merged = merge(&inputs(adapters), &options).unwrap();
        // PEFT copies use_rslora and sets alpha to the new rank: its scale is √rank instead of 1.
        let new_rank = result["svd_rank"].as_u64().unwrap_or(8) as f64;
        assert_deltas(&merged.adapter, file, 1.0 / new_rank.sqrt(), 2e-6);
    });
}

#[test]
fn methods_on_dense_updates_are_those_of_peft() {
    for (theirs, ours) in [("magnitude_prune_svd", "magnitude-prune"), ("ties_svd", "ties:peft")] {
        each("equal_ranks", &[theirs], |adapters, result, file| {
            let params = Params { density: result["density"].as_f64(), ..Params::default() };
            let options = Options { method: method(ours), params, limit: rank(result), ..Options::default() };
            let merged = merge(&inputs(adapters), &options).unwrap();
            assert_deltas(&merged.adapter, file, 1.0, 2e-5);
        });
    }
}

#[test]
fn factors_merged_apart_are_those_of_peft() {
    for (theirs, ours) in [
        ("linear", "linear:peft"),
        ("ties", "ties-factors:peft"),
        ("magnitude_prune", "magnitude-prune-factors:peft"),
    ] {
        each("equal_ranks", &[theirs], |adapters, result, file| {
            let params = Params { density: result["density"].as_f64(), ..Params::default() };
            let options = Options { method: method(ours), params, ..Options::default() };
            let merged = merge(&inputs(adapters), &options).unwrap();
            assert_deltas(&merged.adapter, file, 1.0, 2e-6);
        });
    }
    each("other_ranks", &["cat"], |adapters, _, _| {
        let options = Options { method: method("linear:peft"), ..Options::default() };
        let error = merge(&inputs(adapters), &options).unwrap_err().to_string();
        assert!(error.contains("the ranks must be equal: 2 and 5"), "{error}");
    });
}

#[test]
fn without_a_rank_pefts_svd_has_the_largest_of_the_adapters() {
    each("equal_ranks", &["svd"], |adapters, _, file| {
        let merged = merge(&inputs(adapters), &Options { method: method("svd:peft"), ..Options::default() });
        let merged = merged.unwrap();
        assert_deltas(&merged.adapter, file, 1.0, 2e-6);
        assert!(
            merged.truncated.iter().all(|cut| cut.to == 3 && cut.relative_error > 0.0),
            "{:?}",
            merged.truncated
        );
    });
}
