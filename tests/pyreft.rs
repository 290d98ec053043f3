//! pyreft's folders: what our map makes of them is what pyreft's own classes make, and they go back.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_apply::Input;
use fitment_apply::hidden::{At, Inputs, Pass, SitePlan};
use fitment_convert::torch::TorchFile;
use fitment_convert::{Error, Files, FormatId, OutputFile, ReadOptions, WriteOptions, read, write};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint as _;
use fitment_core::model::{
    Edit, FirstLast, Group, Intervention, Lora, Phase, Positions, Select, ShortPrompt, Site,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_math::ndarray::Array3;
use fitment_tests::place::fixture;
use fitment_torch::{Archive, Item};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Cases of interventions alone.
fn cases() -> Vec<(String, PathBuf, Value)> {
    let cases: Vec<_> = all_cases().into_iter().filter(|(_, _, facts)| facts["base"].is_null()).collect();
    assert!(cases.len() >= 30, "{}", cases.len());
    cases
}

fn all_cases() -> Vec<(String, PathBuf, Value)> {
    let mut cases: Vec<(String, PathBuf, Value)> = fs::read_dir(fixture("pyreft"))
        .unwrap()
        .filter_map(|entry| {
            let folder = entry.unwrap().path();
            let facts = serde_json::from_slice(&fs::read(folder.join("case.json")).ok()?).unwrap();
            Some((folder.file_name()?.to_str()?.to_owned(), folder, facts))
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

fn options(facts: &Value) -> ReadOptions<'_> {
    ReadOptions {
        positions: Some("all"),
        activation: Some(facts["activation"].as_str().unwrap_or("none")),
        formula: facts["kind"].as_str(),
        alpha: facts["alpha"].as_str(),
        ..ReadOptions::default()
    }
}

fn interventions<'e, 'a>(adapter: &'e Adapter<'a>) -> Vec<&'e Intervention<'a>> {
    let one = |edit: &'e Edit<'a>| match edit {
        Edit::Intervention(edit) => edit,
        other => panic!("{}", other.kind()),
    };
    adapter.edits.iter().map(one).collect()
}

/// pyvene's key of every intervention: its place, and how many had it before.
fn keys(adapter: &Adapter<'_>) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let key = |edit: &Intervention<'_>| {
        let stem = match &edit.site {
            Site::Layer { layer, component } => {
                format!("layer_{layer}_comp_{}_unit_pos_nunit_1", component.name())
            }
            Site::Module(_) => "comp_model_layers[2]_output_unit_pos_nunit_1".to_owned(),
        };
        let number = *seen.entry(stem.clone()).and_modify(|number| *number += 1).or_insert(0);
        format!("{stem}#{number}")
    };
    interventions(adapter).into_iter().map(key).collect()
}

/// States of the fixture under a name.
fn states<S: Copy>(io: &SafeTensors<'_>, name: &str, number: impl Fn(&[u8]) -> S) -> Array3<S> {
    let view = io.tensor(name).unwrap();
    let size = view.dtype().bitsize() / 8;
    let [batch, seq, width] = <[usize; 3]>::try_from(view.shape()).unwrap();
    Array3::from_shape_vec((batch, seq, width), view.data().chunks(size).map(number).collect()).unwrap()
}

fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().unwrap())
}

fn bf16_of(bytes: &[u8]) -> half::bf16 {
    half::bf16::from_le_bytes(bytes.try_into().unwrap())
}

/// The largest difference, relative to the largest state.
fn deviation(adapter: &Adapter<'_>, io: &SafeTensors<'_>) -> f64 {
    let mut worst = 0.0f64;
    for (edit, key) in interventions(adapter).into_iter().zip(keys(adapter)) {
        let alone = Adapter { edits: vec![Edit::Intervention(edit.clone())], ..Adapter::default() };
        let inputs = [Input { adapter: &alone, weight: 1.0, name: "case".to_owned() }];
        let plan = SitePlan::new(&inputs, &At { component: None, site: &edit.site, width: 16 }).unwrap();
        let mask = fitment_math::ndarray::Array2::from_elem((2, 5), true);
        let (before, after) = (format!("{key}/before"), format!("{key}/after"));
        let is_bf16 = io.tensor(&before).unwrap().dtype() == safetensors::Dtype::BF16;
        let pairs: Vec<(f64, f64)> = if is_bf16 {
            let mut found = states(io, &before, bf16_of);
            plan.apply(found.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
            found.iter().zip(&states(io, &after, bf16_of)).map(|(a, b)| (a.to_f64(), b.to_f64())).collect()
        } else {
            let mut found = states(io, &before, f32_of);
            plan.apply(found.view_mut(), &Inputs::new(), &Pass::prompt(mask.view())).unwrap();
            found
                .iter()
                .zip(&states(io, &after, f32_of))
                .map(|(a, b)| (f64::from(*a), f64::from(*b)))
                .collect()
        };
        let scale = pairs.iter().map(|(_, wanted)| wanted.abs()).fold(0.0, f64::max);
        let far = pairs.iter().map(|(found, wanted)| (found - wanted).abs() / scale).fold(0.0, f64::max);
        worst = worst.max(far);
    }
    worst
}

#[test]
fn every_folder_computes_what_pyreft_computes() {
    for (name, folder, facts) in cases() {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let converted =
            read(&files.iter().collect(), &options(&facts)).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Through a file and back.
        let bytes = fitment_core::to_bytes(&converted.adapter).unwrap();
        let adapter = fitment_core::read(&bytes).unwrap();
        let io = fs::read(folder.join("io.safetensors")).unwrap();
        let io = SafeTensors::deserialize(&io).unwrap();
        let is_bf16 = name.ends_with("bf16");
        let far = deviation(&adapter, &io);
        assert!(far <= if is_bf16 { 0.0 } else { 1e-6 }, "{name}: {far:.2e}");
        let expected = io.names().len() / 2;
        let linked = if name == "linked" { 2 } else { expected };
        assert_eq!(adapter.edits.len(), linked, "{name}");
    }
}

fn bytes(file: &OutputFile<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn folders_go_back_and_those_of_loreft_tensor_by_tensor() {
    for (name, folder, facts) in cases() {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let blobs: Files<'_> = files.iter().collect();
        let converted = read(&blobs, &options(&facts)).unwrap();
        let written = write(&converted.adapter, FormatId::Pyreft, &WriteOptions::default());
        if name == "activation" || name == "path" {
            let error = written.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error}");
            continue;
        }
        let written = written.unwrap();
        let again: Vec<(String, Vec<u8>)> =
            written.files.iter().map(|file| (file.path.clone(), bytes(file))).collect();
        let again: Files<'_> = again.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect();
        let plain =
            ReadOptions { positions: Some("all"), activation: Some("none"), ..ReadOptions::default() };
        let back = read(&again, &plain).unwrap_or_else(|error| panic!("{name}: {error}"));
        // A NodiReFT's bias does nothing, and goes along.
        let told = |code: &str| code == "R009" || (code == "R012" && name.contains("nodireft"));
        assert!(back.findings.iter().all(|f| told(f.code.0)), "{name}: {:?}", back.findings);
        if facts["kind"] == "loreft" {
            for (path, ours) in again.iter().filter(|(path, _)| path.ends_with(".bin")) {
                let dotted = path.trim_start_matches("intkey_");
                let theirs =
                    files.iter().find(|(other, _)| *other == path || same_place(other, dotted)).unwrap().1;
                let tensors = |bytes| TorchFile::read(path, bytes).unwrap().state_dict().unwrap().tensors;
                for (ours, theirs) in tensors(ours).iter().zip(tensors(theirs)) {
                    assert_eq!(
                        (&ours.name, ours.tensor.bytes()),
                        (&theirs.name, theirs.tensor.bytes()),
                        "{name}"
                    );
                }
            }
            let config = |files: &Files<'_>| files.get("config.json").map(<[u8]>::to_vec);
            if name.starts_with("loreft") || name == "untied" || name == "components" {
                assert_eq!(config(&blobs), config(&again), "{name}");
            }
        } else if !name.ends_with("bf16") {
            let io = fs::read(folder.join("io.safetensors")).unwrap();
            let far = deviation(&back.adapter, &SafeTensors::deserialize(&io).unwrap());
            assert!(far <= 2e-6, "{name}: {far:.2e}");
        }
    }
}

/// The older spelling of a file's name.
fn same_place(old: &str, new: &str) -> bool {
    let plain =
        |text: &str| text.trim_start_matches("intkey_").trim_end_matches(".bin").replace(['.', '_'], " ");
    plain(old) == plain(new)
}

#[test]
fn what_a_folder_does_not_say_is_asked_for_by_the_options_name() {
    let load = |name: &str| AdapterFiles::load(&fixture("pyreft").join(name).join("adapter")).unwrap();
    let refusal = |name: &str, options: ReadOptions<'_>| {
        let files = load(name);
        let error = read(&files.iter().collect(), &options).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(matches!(error, Error::Ambiguous { .. } | Error::Option { .. }), "{error}");
        hint
    };
    let hint = refusal("loreft_fresh", ReadOptions::default());
    assert!(hint.contains("--positions") && hint.contains("--activation"), "{hint}");
    let hint = refusal("consreft_fresh", ReadOptions::default());
    assert!(hint.contains("--positions") && !hint.contains("--activation"), "{hint}");
    let said = ReadOptions { positions: Some("f7+l7"), activation: Some("none"), ..ReadOptions::default() };
    assert!(refusal("checkpoint_nodireft", said).contains("--formula"));
    assert!(refusal("untied", ReadOptions { positions: Some("f7+f7"), ..said }).contains("f7|l7"));
    assert!(refusal("untied", ReadOptions { activation: Some("snake"), ..said }).contains("relu"));
    assert!(refusal("untied", ReadOptions { formula: Some("reft"), ..said }).contains("nodireft"));
    // What would be passed over is refused.
    assert_eq!(refusal("untied", ReadOptions { formula: Some("direft"), ..said }), "leave it out");
    assert_eq!(refusal("consreft_fresh", ReadOptions { activation: Some("relu"), ..said }), "leave it out");
    // Each place has one module there.
    let alone = refusal("loreft_fresh", ReadOptions { positions: Some("f3|l2"), ..said });
    assert_eq!(alone, "--positions f3+l2 gives every module both");
    let files = load("untied");
    let converted =
        read(&files.iter().collect(), &ReadOptions { positions: Some("f3|l2@-1"), ..said }).unwrap();
    let ends = |group| FirstLast { first: 3, last: 2, end_offset: -1, short: ShortPrompt::FloorHalf, group };
    let wanted = |group| Positions { phase: Phase::Prompt, select: Select::FirstLast(ends(group)) };
    let groups = [Group::Prefix, Group::Prefix, Group::Suffix, Group::Suffix];
    let found: Vec<&Positions> =
        interventions(&converted.adapter).iter().map(|edit| &edit.positions).collect();
    assert_eq!(found, groups.map(wanted).iter().collect::<Vec<_>>());
}

#[test]
fn what_classes_store_and_do_not_use_is_kept_and_linked_tensors_are_one() {
    let load = |name: &str| AdapterFiles::load(&fixture("pyreft").join(name).join("adapter")).unwrap();
    let said = ReadOptions { positions: Some("prompt"), activation: Some("none"), ..ReadOptions::default() };
    let files = load("nodireft_trained");
    let converted = read(&files.iter().collect(), &said).unwrap();
    let written = write(&converted.adapter, FormatId::Pyreft, &WriteOptions::default()).unwrap();
    let [ours, theirs] = [bytes(&written.files[0]), files.iter().nth(1).unwrap().1.to_vec()].map(|bytes| {
        let state = TorchFile::read("x.bin", &bytes).unwrap().state_dict().unwrap();
        let bias = state.tensors.into_iter().find(|named| named.name == "proj_layer.bias").unwrap();
        bias.tensor.bytes().to_vec()
    });
    assert_eq!(ours, theirs);
    let kept = converted.adapter.source.unwrap().kept;
    assert!(
        kept.iter().any(|kept| kept.key.ends_with("/proj_layer.bias") && kept.value.dtype() == Dtype::F32)
    );
    let files = load("linked");
    let adapter = read(&files.iter().collect(), &said).unwrap().adapter;
    let encoded = fitment_core::manifest::encode(&adapter);
    let stored = encoded.tensors.keys().filter(|name| !name.starts_with("@source"));
    assert_eq!(stored.count(), 3, "{:?}", encoded.tensors.keys());
}

#[test]
fn a_broken_config_is_an_error_and_not_passed_over() {
    let loaded = AdapterFiles::load(&fixture("pyreft").join("loreft_trained/adapter")).unwrap();
    let whole: Files<'_> = loaded.iter().collect();
    let said = ReadOptions { positions: Some("l1"), activation: Some("none"), ..ReadOptions::default() };
    for config in
        [&b"{\"representations\": ["[..], b"{\"representations\": []}", b"[1, 2", b"{\"a\": 1, \"a\": 2}"]
    {
        let mut files = whole.clone();
        files.insert("config.json", config);
        let error = read(&files, &said).unwrap_err();
        assert!(error.to_string().contains("R001"), "{error}");
    }
    // A base model's own config is none of pyreft's: the names say what they can.
    let mut files = whole.clone();
    files.insert("config.json", b"{\"model_type\": \"llama\"}");
    assert_eq!(read(&files, &said).unwrap().adapter.edits.len(), 1);
}

#[test]
fn of_several_checkpoints_one_must_be_named() {
    let loaded = AdapterFiles::load(&fixture("pyreft").join("checkpoint/adapter")).unwrap();
    let mut files = Files::new();
    for step in ["checkpoint-10", "checkpoint-9"] {
        loaded
            .iter()
            .for_each(|(name, bytes)| files.insert(format!("{step}/intervenable_model/{name}"), bytes));
    }
    let said = ReadOptions { positions: Some("l1"), activation: Some("none"), ..ReadOptions::default() };
    let error = read(&files, &said).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--adapter"), "{error}");
    let named = ReadOptions { adapter_name: Some("checkpoint-9/intervenable_model"), ..said };
    let converted = read(&files, &named).unwrap();
    assert_eq!(converted.adapter.edits.len(), 2);
    let left: Vec<&str> = converted.losses.iter().map(fitment_convert::Loss::id).collect();
    assert_eq!(left, ["adapter_left"]);
}

/// pyreft fails to load a folder whose config lacks a rank, or says another than the tensors have.
#[test]
fn a_written_config_says_the_rank_of_the_written_tensors() {
    let vector = fs::read(fixture("gguf").join("repeng/vector.gguf")).unwrap();
    let files: Files<'_> = [("vector.gguf", &vector[..])].into_iter().collect();
    let adapter = read(&files, &ReadOptions::default()).unwrap().adapter;
    let config = |adapter: &Adapter<'_>| -> Value {
        let written = write(adapter, FormatId::Pyreft, &WriteOptions::default()).unwrap();
        let file = written.files.iter().find(|file| file.path == "config.json").unwrap();
        serde_json::from_slice(&bytes(file)).unwrap()
    };
    let found = config(&adapter);
    assert_eq!(
        (&found["representations"][0][4], &found["intervention_dimensions"][0]),
        (&1.into(), &24.into())
    );
    // Beside a full rank there is no column left for a constant.
    let square = AdapterFiles::load(&fixture("pyreft").join("square/adapter")).unwrap();
    let said = ReadOptions { positions: Some("l1"), activation: Some("none"), ..ReadOptions::default() };
    let mut full = read(&square.iter().collect(), &said).unwrap().adapter;
    assert_eq!(config(&full)["representations"][0][4], 16);
    if let Edit::Intervention(edit) = &mut full.edits[0] {
        edit.up_bias.clone_from(&edit.source_bias);
    }
    let error = write(&full, FormatId::Pyreft, &WriteOptions::default()).unwrap_err();
    assert!(error.to_string().contains("17 columns"), "{error}");
}

fn tensors_of(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let state = TorchFile::read("pytorch_model.bin", bytes).unwrap().state_dict().unwrap();
    state.tensors.into_iter().map(|named| (named.name, named.tensor.bytes().to_vec())).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(f32_of).collect()
}

/// `W + s·up·down` in f64.
fn merged(lora: &Lora<'_>, weight: &[f32]) -> Vec<f64> {
    let (up, down) = (f32s(lora.up.bytes()), f32s(lora.down.bytes()));
    let (rank, columns) = (lora.down.dims()[0] as usize, lora.down.dims()[1] as usize);
    let at = |index: usize| {
        let (row, column) = (index / columns, index % columns);
        let product =
            (0..rank).map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * columns + column]));
        f64::from(weight[index]) + lora.scale * product.sum::<f64>()
    };
    (0..weight.len()).map(at).collect()
}

#[test]
fn what_was_trained_of_the_model_merges_as_peft_merges_it() {
    let mut checked = 0;
    for (name, folder, facts) in all_cases().into_iter().filter(|(_, _, facts)| facts["base"].is_string()) {
        let files = AdapterFiles::load(&folder.join("adapter")).unwrap();
        let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
        let options = ReadOptions { base: Some(&base), ..options(&facts) };
        let converted =
            read(&files.iter().collect(), &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(converted.findings.is_empty(), "{name}: {:?}", converted.findings);
        let adapter = converted.adapter;
        assert!(adapter.base.is_bound(), "{name}");
        let bytes = fs::read(folder.join("merged.safetensors")).unwrap();
        let wanted = SafeTensors::deserialize(&bytes).unwrap();
        let (weights, interventions): (Vec<_>, Vec<_>) =
            adapter.edits.iter().partition(|edit| edit.target().is_some());
        assert_eq!((weights.len(), interventions.len()), (wanted.names().len(), 1), "{name}");
        for edit in weights {
            let target = edit.target().unwrap().label();
            let wanted = wanted.tensor(&target).unwrap();
            match edit {
                Edit::Lora(lora) => {
                    let found = merged(lora, &f32s(&base.read(&target).unwrap()));
                    let pairs = found.iter().zip(f32s(wanted.data()));
                    let far = pairs.map(|(a, b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
                    assert!(far < 1e-6, "{name} {target}: {far:.1e}");
                }
                Edit::Set(set) => {
                    assert_eq!((set.value.bytes(), set.create), (wanted.data(), target == "score.weight"));
                }
                other => panic!("{}", other.kind()),
            }
        }
        let back = write(&adapter, FormatId::Pyreft, &WriteOptions::default());
        // PEFT's classes are known to pyvene by paths alone, which pyreft does not load.
        if name != "model_plain" {
            assert!(matches!(back, Err(Error::Unsupported { .. })), "{name}");
            continue;
        }
        let back = back.unwrap();
        assert!(back.losses.iter().all(|loss| !loss.changes_function()), "{:?}", back.losses);
        let model = back.files.iter().find(|file| file.path == "pytorch_model.bin").unwrap();
        let theirs = fs::read(folder.join("adapter/pytorch_model.bin")).unwrap();
        assert_eq!(tensors_of(&self::bytes(model)), tensors_of(&theirs));
        checked += 1;
    }
    assert_eq!(checked, 1);
}

#[test]
fn what_the_model_file_does_not_say_is_asked_for() {
    let load = |name: &str| AdapterFiles::load(&fixture("pyreft").join(name).join("adapter")).unwrap();
    let said = ReadOptions { positions: Some("l1"), activation: Some("none"), ..ReadOptions::default() };
    let refusal = |name: &str, options: ReadOptions<'_>| {
        let error = read(&load(name).iter().collect(), &options).unwrap_err();
        format!("{error}; {}", error.hint().unwrap_or_default())
    };
    assert!(refusal("model_lora", said).contains("--alpha rs:32"));
    assert!(
        refusal("model_lora", ReadOptions { alpha: Some("6/2"), ..said })
            .starts_with("--alpha 6/2 is no alpha")
    );
    assert!(refusal("model_plain", said).contains("--base"));
    assert!(refusal("model_plain", ReadOptions { alpha: Some("6"), ..said }).ends_with("leave it out"));
    assert!(refusal("untied", ReadOptions { alpha: Some("6"), ..said }).ends_with("leave it out"));
    // Without a base factors and new heads are known all the same.
    let files = load("model_head");
    let converted = read(&files.iter().collect(), &ReadOptions { alpha: Some("rs:6"), ..said }).unwrap();
    let losses: Vec<&str> = converted.losses.iter().map(fitment_convert::Loss::id).collect();
    assert_eq!(losses, ["assumed_new", "unbound"]);
    let Edit::Lora(lora) = &converted.adapter.edits[0] else { panic!() };
    assert_eq!(lora.scale, 6.0 / 2.0_f64.sqrt());
    // A file without tensors, as a trainer saves it, is nothing.
    let plain = load("model_plain");
    let mut files: Files<'_> = plain.iter().collect();
    let empty = Archive::new("pytorch_model", &[]).unwrap();
    let mut bytes = Vec::new();
    empty.write_to(&mut bytes).unwrap();
    files.insert("pytorch_model.bin", &bytes);
    let converted = read(&files, &said).unwrap();
    assert_eq!((converted.adapter.edits.len(), converted.losses.len()), (1, 0));
    files.insert("pytorch_model.bin", &bytes[..bytes.len() / 2]);
    assert!(matches!(read(&files, &said), Err(Error::Malformed { .. })));
}

/// Files of a folder whose one intervention has other tensors.
fn with_tensors(change: impl Fn(&mut BTreeMap<String, Tensor<'static>>)) -> BTreeMap<String, Vec<u8>> {
    let loaded = AdapterFiles::load(&fixture("pyreft").join("loreft_trained/adapter")).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> =
        loaded.iter().map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect();
    let (path, bytes) = files.iter_mut().find(|(path, _)| path.starts_with("intkey_")).unwrap();
    let state = TorchFile::read(path, bytes).unwrap().state_dict().unwrap();
    let mut tensors =
        state.tensors.into_iter().map(|named| (named.name, named.tensor.into_owned())).collect();
    change(&mut tensors);
    let items: Vec<Item<'_>> = tensors.into_iter().map(|(name, tensor)| Item::new(name, tensor)).collect();
    let mut written = Vec::new();
    Archive::new("x", &items).unwrap().write_to(&mut written).unwrap();
    *bytes = written;
    files
}

/// Whatever keeps `convert` from a folder is a finding of `validate`, and so is what it warns of.
#[test]
fn damaged_tensors_are_findings() {
    let said = ReadOptions { positions: Some("l1"), activation: Some("none"), ..ReadOptions::default() };
    let validated = |files: &BTreeMap<String, Vec<u8>>| {
        let files: Files<'_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let input = fitment_validate::Input { name: "x", files: &files, options: said };
        let outcome =
            fitment_validate::validate(&input, None, &fitment_validate::Options::default()).unwrap();
        let codes = outcome.findings.iter().map(|finding| finding.code.0);
        (codes.filter(|code| *code != "B017").collect::<Vec<_>>().join(" "), read(&files, &said).is_err())
    };
    let zeros = |dims: &[u64]| {
        let shape = Shape::new(dims).unwrap();
        let len = shape.byte_len(Dtype::F32).unwrap() as usize;
        Tensor::owned(Dtype::F32, shape, vec![0u8; len]).unwrap()
    };
    let put = |name: &'static str, tensor: Tensor<'static>| {
        with_tensors(|tensors| drop(tensors.insert(name.to_owned(), tensor.clone())))
    };
    assert_eq!(validated(&with_tensors(|_| ())), (String::new(), false));
    assert_eq!(validated(&put("weight", zeros(&[16, 3]))), ("R006 R013".to_owned(), true));
    assert_eq!(validated(&put("rotate_layer", zeros(&[16, 3]))).0, "B014 R009");
    assert_eq!(validated(&put("gate", zeros(&[3]))), ("R012".to_owned(), false));
    let bytes: Vec<u8> = (0..3).flat_map(|_| f32::NAN.to_le_bytes()).collect();
    let nan = Tensor::owned(Dtype::F32, Shape::new(&[3]).unwrap(), bytes).unwrap();
    assert_eq!(validated(&put("bias", nan.clone())), ("E012".to_owned(), true));
    // Kept without effect.
    assert_eq!(validated(&put("gate", nan)), ("R012".to_owned(), false));
    let half = with_tensors(|tensors| {
        let up = tensors.get_mut("rotate_layer").unwrap();
        *up = Tensor::owned(Dtype::F16, up.shape().clone(), vec![0u8; 16 * 3 * 2]).unwrap();
    });
    assert!(validated(&half).0.contains("E021"), "{:?}", validated(&half));
    // Kept, and no part of what is computed.
    let files = put("gate", zeros(&[3]));
    let files: Files<'_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let kept = read(&files, &said).unwrap().adapter.source.unwrap().kept;
    assert!(kept.iter().any(|kept| kept.key.ends_with("/gate")));
}
