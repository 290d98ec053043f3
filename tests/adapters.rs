//! AdapterHub's ReFT on hidden states, against what the library's own forward made of them.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_apply::Input;
use fitment_apply::hidden::{At, Inputs, Pass, SitePlan};
use fitment_convert::ReadOptions;
use fitment_core::Adapter;
use fitment_core::model::{Site, SiteComponent};
use fitment_io::AdapterFiles;
use fitment_math::ndarray::{Array2, Array3};
use fitment_tests::place::fixture;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn cases() -> Vec<(PathBuf, Value)> {
    let folders = fs::read_dir(fixture("adapters")).unwrap().map(|entry| entry.unwrap().path());
    let case = |path: PathBuf| {
        let facts = fs::read(path.join("case.json")).ok()?;
        Some((path, serde_json::from_slice(&facts).unwrap()))
    };
    let mut cases: Vec<_> = folders.filter_map(case).collect();
    cases.sort_by(|left, right| left.0.cmp(&right.0));
    cases
}

/// `[batch, seq, width]`, widened.
fn states(stored: &SafeTensors<'_>, name: &str) -> Array3<f32> {
    let view = stored.tensor(name).unwrap();
    let &[batch, seq, width] = view.shape() else { panic!("{name}") };
    let values = match view.dtype() {
        safetensors::Dtype::F32 => {
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        safetensors::Dtype::BF16 => view
            .data()
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32())
            .collect(),
        other => panic!("{other:?}"),
    };
    Array3::from_shape_vec((batch, seq, width), values).unwrap()
}

/// As `make.py` runs them: prompts without padding, and one batch padded on the left.
fn mask(run: &str, (batch, seq, _): (usize, usize, usize)) -> Array2<bool> {
    Array2::from_shape_fn((batch, seq), |(row, column)| run != "left" || row != 0 || column >= 3)
}

/// With prefix positions, the library misplaces states of prompts with fewer tokens than `suffix_positions`.
fn misplaced_below(folder: &Path) -> usize {
    let config: Value =
        serde_json::from_slice(&fs::read(folder.join("adapter/adapter_config.json")).unwrap()).unwrap();
    usize::try_from(config["config"]["suffix_positions"].as_u64().unwrap()).unwrap()
}

fn check(folder: &Path, adapter: &Adapter<'_>, short: usize) {
    let bytes = fs::read(folder.join("states.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut befores: Vec<&str> =
        stored.names().into_iter().filter(|name| name.ends_with(".before")).collect();
    befores.sort_unstable();
    assert!(befores.len() >= 10, "{}", folder.display());
    let inputs = [Input { adapter, weight: 1.0, name: "x".to_owned() }];
    for before in befores {
        let stem = before.strip_suffix(".before").unwrap();
        let (run, layer) = stem.split_once('.').unwrap();
        let is_bf16 = stored.tensor(before).unwrap().dtype() == safetensors::Dtype::BF16;
        let h = states(&stored, before);
        let seq = h.dim().1;
        let wanted = states(&stored, &format!("{stem}.after"));
        let site = Site::Layer { layer: layer.parse().unwrap(), component: SiteComponent::BlockOutput };
        let plan = SitePlan::new(&inputs, &At { component: None, site: &site, width: h.dim().2 }).unwrap();
        assert!(!plan.is_empty());
        let mask = mask(run, h.dim());
        let found = if is_bf16 {
            let mut h = h.mapv(half::bf16::from_f32);
            plan.apply(h.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
            h.mapv(half::bf16::to_f32)
        } else {
            let mut h = h;
            plan.apply(h.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
            h
        };
        let worst = wanted.iter().fold(0.0_f32, |worst, x| worst.max(x.abs()));
        let error: f32 =
            found.iter().zip(&wanted).fold(0.0_f32, |error, (x, y)| error.max((x - y).abs())) / worst;
        if seq < short {
            assert!(
                seq == 1 || error > 1e-3,
                "{} {stem}: the library puts states where they belong",
                folder.display()
            );
            continue;
        }
        let bound = if is_bf16 { 0.0 } else { 1e-6 };
        assert!(error <= bound, "{} {stem}: {error}", folder.display());
    }
}

#[test]
fn states_are_those_of_the_library() {
    for (folder, facts) in cases() {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let blobs = files.iter().collect();
        let formula = facts["kind"].as_str().filter(|kind| *kind != "loreft");
        let options = ReadOptions { formula, ..ReadOptions::default() };
        let converted = fitment_convert::read(&blobs, &options).unwrap();
        let short = misplaced_below(&folder);
        check(&folder, &converted.adapter, short);
        // The same through a file of this project.
        let bytes = fitment_core::to_bytes(&converted.adapter).unwrap();
        check(&folder, &fitment_core::read(&bytes).unwrap(), short);
    }
}
