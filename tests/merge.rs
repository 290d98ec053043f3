//! Exact merges: applied to a base, the merged adapter gives what applying the list gives.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod applied;

use applied::{Applied, applied};
use fitment_convert::{Files, ReadOptions};
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::model::Edit;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_math::round::{Element, decode};
use fitment_merge::{Error, Input, Limit, Options, merge};
use fitment_tests::place::fixture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A base and the adapters that fit it, by their names.
type Family = (CheckpointDir, Vec<(String, Vec<u8>)>);

fn numbers(info: &TensorInfo, bytes: &[u8]) -> Vec<f64> {
    let mut numbers = vec![0.0; info.shape.elements() as usize];
    decode(Element::of(info.dtype).unwrap(), bytes, &mut numbers).unwrap();
    numbers
}

/// The largest difference of two checkpoints, relative to the largest element of its tensor; 16-bit elements may round to
/// neighbours, a few of them.
fn assert_same(found: &Applied, expected: &Applied, what: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, (info, bytes)) in expected {
        let (other, theirs) = &found[name];
        assert_eq!((other.dtype, &other.shape), (info.dtype, &info.shape), "{what}: {name}");
        if bytes == theirs {
            continue;
        }
        let (a, b) = (numbers(info, bytes), numbers(info, theirs));
        let largest = a.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
        let off = a.iter().zip(&b).fold(0.0_f64, |off, (a, b)| off.max((a - b).abs()));
        let apart = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        let is_wide = info.dtype.bytes() > Some(2);
        let allowed = if is_wide { 1e-6 } else { 1.0 / 128.0 };
        assert!(off <= allowed * largest, "{what}: {name} is off by {off} of {largest}");
        assert!(is_wide || apart * 50 <= a.len() + 100, "{what}: {apart} of {} elements of {name}", a.len());
    }
}

struct Case {
    name: String,
    folder: PathBuf,
    facts: Value,
}

impl Case {
    fn all() -> Vec<Case> {
        let folders = fs::read_dir(fixture("peft")).unwrap().map(|entry| entry.unwrap().path());
        let case = |folder: PathBuf| {
            let facts: Value = serde_json::from_slice(&fs::read(folder.join("case.json")).ok()?).unwrap();
            let name = folder.file_name()?.to_string_lossy().into_owned();
            Some(Case { name, folder, facts })
        };
        let mut cases: Vec<Case> = folders.filter_map(case).collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    fn base(&self) -> Option<CheckpointDir> {
        let base = self.folder.join(self.facts["base"].as_str()?);
        base.exists().then(|| CheckpointDir::open(&base, Access::Map).unwrap())
    }
}

fn bytes_of(files: &AdapterFiles, base: &dyn Checkpoint) -> Option<Vec<u8>> {
    let blobs: Files<'_> = files.iter().collect();
    let options = ReadOptions { base: Some(base), ..ReadOptions::default() };
    let converted = fitment_convert::read(&blobs, &options).ok()?;
    Some(fitment_core::to_bytes(&converted.adapter).unwrap())
}

fn input<'a>(adapter: &'a Adapter<'a>, weight: f64) -> Input<'a> {
    Input { adapter, weight, name: format!("a:{weight}"), id: None }
}

/// The merged file, written and read again.
fn merged(inputs: &[Input<'_>], options: &Options<'_>) -> Result<Vec<u8>, Error> {
    let merged = merge(inputs, options)?;
    let bytes = fitment_core::to_bytes(&merged.adapter)?;
    let findings = fitment_core::check(&bytes, fitment_core::Depth::Values).findings;
    let serious = findings.iter().find(|finding| finding.severity == fitment_core::Severity::Error);
    assert!(serious.is_none(), "{serious:?}");
    Ok(bytes)
}

#[test]
fn parts_of_an_adapter_add_up_to_the_adapter() {
    let mut count = 0;
    for case in Case::all() {
        let Some(base) = case.base() else { continue };
        let files = AdapterFiles::load(&case.folder.join("adapter")).unwrap();
        let Some(file) = bytes_of(&files, &base) else { continue };
        let adapter = fitment_core::read(&file).unwrap();
        let Ok(whole) = applied(&[(&adapter, 1.0)], &base) else { continue };
        for weights in [&[1.0][..], &[0.7, 0.3], &[1.5, -1.0, 0.5]] {
            let inputs: Vec<Input<'_>> = weights.iter().map(|weight| input(&adapter, *weight)).collect();
            let options = Options { base: Some(&base), ..Options::default() };
            let merged = merged(&inputs, &options).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let adapter = fitment_core::read(&merged).unwrap();
            let found =
                applied(&[(&adapter, 1.0)], &base).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_same(&found, &whole, &format!("{} {weights:?}", case.name));
        }
        count += 1;
    }
    assert!(count >= 50, "{count}");
}

#[test]
fn a_list_is_one_adapter() {
    // Adapters of models with the same tensors, all bound to the first of them.
    let mut of_model: BTreeMap<Vec<(String, String)>, Family> = BTreeMap::new();
    for case in Case::all() {
        let Some(base) = case.base() else { continue };
        let files = AdapterFiles::load(&case.folder.join("adapter")).unwrap();
        let key = base.tensors().iter().map(|(name, info)| (name.clone(), format!("{info:?}"))).collect();
        let (base, known) = of_model.entry(key).or_insert((base, Vec::new()));
        known.extend(bytes_of(&files, base).map(|file| (case.name, file)));
    }
    let (mut done, mut refused) = (0, Vec::new());
    for (base, group) in of_model.values() {
        for (number, (first, a)) in group.iter().enumerate() {
            for (second, b) in &group[number + 1..] {
                let (a, b) = (fitment_core::read(a).unwrap(), fitment_core::read(b).unwrap());
                for weights in [[1.0, 1.0], [0.7, -0.4]] {
                    let what = format!("{first}:{} {second}:{}", weights[0], weights[1]);
                    let Ok(expected) = applied(&[(&a, weights[0]), (&b, weights[1])], base) else { continue };
                    let options = Options { base: Some(base), ..Options::default() };
                    let leveled =
                        fitment_merge::level(&[&a, &b]).unwrap_or_else(|| vec![a.clone(), b.clone()]);
                    match merged(&[input(&leveled[0], weights[0]), input(&leveled[1], weights[1])], &options)
                    {
                        // An embedding whose copy in the file is not this base's: a replacement, then a magnitude.
                        Err(error) if error.to_string().contains("replaces what it has changed") => {}
                        Err(error) => refused.push(format!("{what}: {error}")),
                        Ok(merged) => {
                            let merged = fitment_core::read(&merged).unwrap();
                            let found =
                                applied(&[(&merged, 1.0)], base).unwrap_or_else(|e| panic!("{what}: {e}"));
                            assert_same(&found, &expected, &what);
                            done += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(done >= 590, "{done} pairs");
    assert!(refused.is_empty(), "{done} done; {}: {refused:#?}", refused.len());
}

#[test]
fn the_best_rank_is_as_near_as_it_says() {
    let folder = fixture("peft/linear");
    let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
    let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
    let file = bytes_of(&files, &base).unwrap();
    let adapter = fitment_core::read(&file).unwrap();
    let whole = applied(&[(&adapter, 1.0)], &base).unwrap();
    let delta = |result: &Applied, name: &str| {
        let (info, bytes) = &result[name];
        let base = numbers(info, &base.read(name).unwrap());
        numbers(info, bytes).iter().zip(&base).map(|(a, b)| a - b).collect::<Vec<f64>>()
    };
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    for limit in [Limit::Rank(1), Limit::Rank(2), Limit::Error(0.3)] {
        let options = Options { limit: Some(limit), ..Options::default() };
        let merged = merge(&[input(&adapter, 1.0)], &options).unwrap();
        assert_eq!(merged.truncated.len(), adapter.edits.len());
        let found = applied(&[(&merged.adapter, 1.0)], &base).unwrap();
        for cut in &merged.truncated {
            let (a, b) = (delta(&whole, &cut.target), delta(&found, &cut.target));
            let apart: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            let measured = norm(&apart) / norm(&a);
            assert!((measured - cut.relative_error).abs() < 1e-5, "{}: {measured} {cut:?}", cut.target);
            match limit {
                Limit::Rank(rank) => assert!(cut.to <= rank),
                Limit::Error(error) => assert!(cut.relative_error <= error),
                Limit::Dynamic { .. } => panic!(),
            }
        }
        let Edit::Lora(lora) = &merged.adapter.edits[0] else { panic!() };
        assert_eq!(lora.rank(), merged.truncated[0].to);
    }
}
