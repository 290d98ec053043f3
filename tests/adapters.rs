//! AdapterHub's adapters: states against what the library's own forward made of them, weights against what it merged.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_apply::Input;
use fitment_apply::hidden::{At, Inputs, Pass, SitePlan};
use fitment_convert::{Files, FormatId, ReadOptions, WriteOptions, write};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, Site, SiteComponent};
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_math::ndarray::{Array2, Array3};
use fitment_tests::compare::distance;
use fitment_tests::place::fixture;
use fitment_tests::program::fitment;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// ReFT.
fn cases() -> Vec<(PathBuf, Value)> {
    all_cases().into_iter().filter(|(_, facts)| facts["kind"].is_string()).collect()
}

/// The other methods, by name.
fn cases_of(method: &str) -> Vec<(PathBuf, Value)> {
    all_cases().into_iter().filter(|(_, facts)| facts["method"] == method).collect()
}

fn all_cases() -> Vec<(PathBuf, Value)> {
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

/// The states that a bottleneck adapter leaves, beside what the library itself goes on with: its own sum with the residual
/// where it adds one, before the layer norm where there is one behind.
fn check_bottlenecks(folder: &Path, adapter: &Adapter<'_>) {
    let bytes = fs::read(folder.join("states.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let inputs = [Input { adapter, weight: 1.0, name: "x".to_owned() }];
    let mut checked = 0;
    for edit in &adapter.edits {
        let Edit::Intervention(edit) = edit else { panic!("{}", folder.display()) };
        for run in ["n1", "n4"] {
            let part = |part: &str| format!("{run}.{}.{part}", edit.label());
            let mut h = states(&stored, &part("before"));
            let plan =
                SitePlan::new(&inputs, &At { component: None, site: &edit.site, width: h.dim().2 }).unwrap();
            let input = edit.input_site.as_ref().map(|site| (site.clone(), states(&stored, &part("input"))));
            let read: Inputs<'_, f32> = input.iter().map(|(site, x)| (site.clone(), x.view())).collect();
            let (batch, seq, _) = h.dim();
            let mask = Array2::from_elem((batch, seq), true);
            plan.apply(h.view_mut(), &read, &Pass::prompt(mask.view())).unwrap();
            let before = states(&stored, &part("before"));
            let moved = h.iter().zip(&before).fold(0.0_f32, |most, (x, y)| most.max((x - y).abs()));
            assert!(moved > 1e-3, "{} {} does nothing", folder.display(), edit.label());
            if stored.names().contains(&part("residual").as_str()) {
                h += &states(&stored, &part("residual"));
            }
            let wanted = states(&stored, &part("after"));
            let worst = wanted.iter().fold(0.0_f32, |worst, x| worst.max(x.abs()));
            let error = h.iter().zip(&wanted).fold(0.0_f32, |error, (x, y)| error.max((x - y).abs())) / worst;
            assert!(error <= 1e-6, "{} {run} {}: {error}", folder.display(), edit.label());
            checked += 1;
        }
    }
    let befores = stored.names().into_iter().filter(|name| name.ends_with(".before")).count();
    assert_eq!(checked, befores, "{}: a site is left out", folder.display());
}

#[test]
fn bottleneck_adapters_leave_the_states_of_the_library() {
    let cases = cases_of("bottleneck");
    assert_eq!(cases.len(), 8);
    for (folder, facts) in cases {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let blobs = files.iter().collect();
        let found = fitment_convert::read(&blobs, &ReadOptions::default());
        if facts["refused"] == true {
            let error = found.unwrap_err();
            assert!(matches!(error, fitment_convert::Error::Unsupported { .. }), "{error}");
            continue;
        }
        let adapter = found.unwrap().adapter;
        check_bottlenecks(&folder, &adapter);
        let bytes = fitment_core::to_bytes(&adapter).unwrap();
        check_bottlenecks(&folder, &fitment_core::read(&bytes).unwrap());
    }
}

#[test]
fn loras_give_the_weights_that_the_library_merges() {
    let cases = cases_of("lora");
    assert_eq!(cases.len(), 3);
    for (folder, _) in cases {
        let (room, base) = (fitment_tests::place::scratch(), folder.join("base"));
        for bound in [true, false] {
            let file = room.path().join(format!("{bound}.fitment.safetensors"));
            let out = room.path().join(format!("out_{bound}"));
            let mut convert = fitment();
            convert.arg("convert").arg(folder.join("adapter")).arg("-o").arg(&file);
            if bound {
                convert.arg("--base").arg(&base);
            }
            let output = convert.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let output = fitment().arg("apply").arg(&base).arg(&file).arg("-o").arg(&out).output().unwrap();
            // Checkpoints of a bare model lack the prefix of the class: only a conversion with the base knows.
            if !bound && !folder.ends_with("lora_llama") {
                assert!(String::from_utf8_lossy(&output.stderr).contains("the base has no such tensor"));
                continue;
            }
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            check_merged(&folder, &out);
        }
    }
}

fn check_merged(folder: &Path, out: &Path) {
    let open = |path: PathBuf| CheckpointDir::open(&path, Access::Read).unwrap();
    let (ours, base) = (open(out.to_owned()), open(folder.join("base")));
    let wanted = open(folder.join("merged.safetensors"));
    let mut changed = 0;
    for (name, info) in ours.tensors() {
        let (found, before) = (ours.read(name).unwrap(), base.read(name).unwrap());
        if !wanted.tensors().contains_key(name) {
            assert!(found == before, "{} {name}", folder.display());
            continue;
        }
        let merged = wanted.read(name).unwrap();
        let far = distance(info.dtype, &found, &merged, None);
        assert!(far.relative <= 1e-6, "{} {name}: {far:?}", folder.display());
        assert_eq!(found == before, merged == before, "{} {name}", folder.display());
        changed += usize::from(found != before);
    }
    assert!(changed >= 6, "{}: {changed}", folder.display());
}

/// The files that are written, in memory.
fn written(adapter: &Adapter<'_>) -> Vec<(String, Vec<u8>)> {
    let files = write(adapter, FormatId::Adapters, &WriteOptions::default()).unwrap().files;
    let bytes = |file: &fitment_convert::OutputFile<'_>| {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        (file.path.clone(), bytes)
    };
    files.iter().map(bytes).collect()
}

#[test]
fn what_came_from_the_library_goes_back_as_it_was() {
    for (folder, facts) in all_cases().into_iter().filter(|(_, facts)| facts["refused"] != true) {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let blobs: Files<'_> = files.iter().collect();
        let formula = facts["kind"].as_str();
        let base =
            facts["base"].as_str().map(|base| CheckpointDir::open(&folder.join(base), Access::Read).unwrap());
        let base = base.as_ref().map(|base| base as &dyn Checkpoint);
        let options = ReadOptions { formula, keep_files: true, base, ..ReadOptions::default() };
        let adapter = fitment_convert::read(&blobs, &options).unwrap().adapter;
        let bytes = fitment_core::to_bytes(&adapter).unwrap();
        let back = written(&fitment_core::read(&bytes).unwrap());
        assert_eq!(back.len(), blobs.len(), "{}", folder.display());
        for (path, bytes) in &back {
            let wanted = blobs.get(path).unwrap();
            // Torch files have the same tensors; the order of their dict is ours.
            if path.ends_with("adapter.bin") {
                let tensors = |bytes| {
                    let mut tensors =
                        fitment_torch::TorchFile::read(path, bytes).unwrap().state_dict().unwrap().tensors;
                    tensors.sort_by(|left, right| left.name.cmp(&right.name));
                    tensors
                };
                for (left, right) in tensors(bytes).iter().zip(tensors(wanted)) {
                    assert!(left.name == right.name && left.tensor.bytes() == right.tensor.bytes(), "{path}");
                }
            } else {
                let stored = |bytes| {
                    let mut tensors = SafeTensors::deserialize(bytes).unwrap().tensors();
                    tensors.sort_by(|left, right| left.0.cmp(&right.0));
                    tensors.into_iter().map(|(name, view)| (name, view.data().to_vec())).collect::<Vec<_>>()
                };
                assert!(bytes == wanted || stored(bytes) == stored(wanted), "{} {path}", folder.display());
            }
        }
    }
}

/// Orthogonal projections are LoReFT's, plain ones NoReFT's or DiReFT's: the option decides only between those two.
#[test]
fn a_formula_that_the_files_contradict_is_refused() {
    for (case, formula) in [("loreft", "direft"), ("loreft_tied_bin", "noreft"), ("noreft", "loreft")] {
        let files = AdapterFiles::load(&fixture("adapters").join(case).join("adapter")).unwrap();
        let options = ReadOptions { formula: Some(formula), ..ReadOptions::default() };
        let error = fitment_convert::read(&files.iter().collect(), &options).unwrap_err().to_string();
        assert!(error.contains(&format!("--formula {formula} contradicts the files")), "{case}: {error}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for (case, part) in
        [("loreft", "bias"), ("bn_parallel_llama", "adapter_up.weight"), ("lora_llama", "lora_B")]
    {
        let loaded = AdapterFiles::load(&fixture("adapters").join(case).join("adapter")).unwrap();
        let mut blobs: Vec<(String, Vec<u8>)> =
            loaded.iter().map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect();
        let (_, bytes) = blobs.iter_mut().find(|(path, _)| path == "adapter.safetensors").unwrap();
        let (header, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        let name = metadata.tensors().into_keys().find(|name| name.ends_with(part)).unwrap();
        let start = 8 + header + metadata.info(&name).unwrap().data_offsets.0;
        bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let files: Files<'_> = blobs.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let error = fitment_convert::read(&files, &ReadOptions::default()).unwrap_err();
        let fitment_convert::Error::Malformed { findings } = error else { panic!("{case}: {error}") };
        assert_eq!(findings.len(), 1, "{case}");
        assert_eq!((findings[0].code.0, &*findings[0].place), ("E012", &*name), "{case}");
    }
}

#[test]
fn what_was_changed_since_does_not_go_back() {
    for case in ["bn_parallel_llama", "lora_gpt2"] {
        let files = AdapterFiles::load(&fixture("adapters").join(case).join("adapter")).unwrap();
        let blobs: Files<'_> = files.iter().collect();
        let mut adapter = fitment_convert::read(&blobs, &ReadOptions::default()).unwrap().adapter;
        assert!(write(&adapter, FormatId::Adapters, &WriteOptions::default()).is_ok(), "{case}");
        match &mut adapter.edits[1] {
            Edit::Intervention(edit) => edit.scale *= 0.5,
            Edit::Lora(edit) => edit.scale *= 0.5,
            _ => panic!("{case}"),
        }
        let error = write(&adapter, FormatId::Adapters, &WriteOptions::default()).unwrap_err();
        assert!(error.hint().is_some() && !error.to_string().contains('\n'), "{case}: {error}");
    }
}

#[test]
fn what_is_written_anew_computes_the_same() {
    for (folder, facts) in cases() {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let blobs: Files<'_> = files.iter().collect();
        let options = ReadOptions { formula: facts["kind"].as_str(), ..ReadOptions::default() };
        let mut adapter = fitment_convert::read(&blobs, &options).unwrap().adapter;
        // As if from elsewhere: the keys alone say where the layers lie. bf16 is rounded otherwise when W + P is.
        adapter.source = None;
        let anew = written(&adapter);
        let files: Files<'_> = anew.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let options = ReadOptions { formula: Some("noreft"), ..ReadOptions::default() };
        let mut again = fitment_convert::read(&files, &options).unwrap().adapter;
        assert_eq!(
            again.edits.iter().filter(|edit| matches!(edit, Edit::Intervention(_))).count(),
            again.edits.len()
        );
        again.source = None;
        check(&folder, &again, misplaced_below(&folder));
    }
}

/// The library opens what is written anew, and computes with it what it computed with its own files.
#[cfg(feature = "peers")]
#[test]
fn the_library_opens_what_is_written() {
    let scratch = fitment_tests::place::scratch();
    for (folder, facts) in cases() {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let blobs: Files<'_> = files.iter().collect();
        let options = ReadOptions { formula: facts["kind"].as_str(), ..ReadOptions::default() };
        let mut adapter = fitment_convert::read(&blobs, &options).unwrap().adapter;
        adapter.source = None;
        let out = scratch.path().join(folder.file_name().unwrap());
        fs::create_dir(&out).unwrap();
        for (path, bytes) in written(&adapter) {
            fs::write(out.join(path), bytes).unwrap();
        }
    }
    let output = std::process::Command::new(fitment_tests::place::adapters_python())
        .arg(fitment_tests::place::root().join("tests/peer/adapters_states.py"))
        .arg(fixture("adapters"))
        .arg(scratch.path())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), cases().len());
    for line in text.lines() {
        println!("{line}");
        let error: f64 = line.split_once(' ').unwrap().1.parse().unwrap();
        assert!(error <= 1e-6, "{line}");
    }
}
