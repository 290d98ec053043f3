//! LoRA in GGUF: factors as llama.cpp's converter has them, the same model on both ways, and every breach named.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod applied;

use applied::weights;
use fitment_convert::gguf::{Container, Value, check, rules};
use fitment_convert::{Error, Files, FormatId, Loss, OutputFile, ReadOptions, WriteOptions, read, write};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, Phase, Target, TensorName, When};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::compare::values;
use fitment_tests::place::fixture;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let folders = fs::read_dir(fixture("gguf-lora")).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = folders.filter(|path| path.join("case.json").exists()).collect();
    cases.sort();
    assert!(cases.len() >= 17);
    cases
}

fn case(name: &str) -> PathBuf {
    fixture("gguf-lora").join(name)
}

fn base(case: &Path) -> CheckpointDir {
    CheckpointDir::open(&case.join("base"), Access::Map).unwrap()
}

fn one(bytes: &[u8]) -> Files<'_> {
    [("lora.gguf", bytes)].into_iter().collect()
}

/// `peft` of a case on its base.
fn with_peft(case: &Path, then: impl FnOnce(&Adapter<'_>, &CheckpointDir)) {
    let (base, files) = (base(case), AdapterFiles::load(&case.join("peft")).unwrap());
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let converted = read(&files.iter().collect(), &options).unwrap();
    then(&converted.adapter, &base);
}

fn written(adapter: &Adapter<'_>, base: Option<&dyn Checkpoint>) -> (Vec<u8>, Vec<Loss>) {
    let written = write(adapter, FormatId::Gguf, &WriteOptions::on(base)).unwrap();
    let mut bytes = Vec::new();
    written.files[0].write_to(&mut bytes).unwrap();
    assert_eq!(written.files[0].byte_len(), bytes.len() as u64);
    (bytes, written.losses)
}

fn bytes_of(file: &OutputFile<'_>) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    (file.path.clone(), bytes)
}

type Tensors = BTreeMap<String, (Vec<u64>, Vec<f64>)>;

fn tensors(bytes: &[u8]) -> Tensors {
    let container = Container::parse(bytes).unwrap();
    let one = |entry: &fitment_convert::gguf::Entry<'_>| {
        (entry.name.clone(), (entry.dims.clone(), values(entry.dtype, entry.bytes)))
    };
    container.tensors.iter().map(one).collect()
}

fn alpha(bytes: &[u8]) -> f32 {
    match Container::parse(bytes).unwrap().get("adapter.lora.alpha") {
        Some(Value::F32(alpha)) => *alpha,
        other => panic!("{other:?}"),
    }
}

fn losing(losses: &[Loss]) -> Vec<&Loss> {
    losses.iter().filter(|loss| loss.changes_function()).collect()
}

#[test]
fn factors_are_those_of_the_converter() {
    for case in cases() {
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        let theirs = fs::read(case.join("lora.gguf")).unwrap();
        with_peft(&case, |adapter, base| {
            let (ours, losses) = written(adapter, Some(base));
            let (mut wanted, found) = (tensors(&theirs), tensors(&ours));
            match name.as_str() {
                "llama_tied" => wanted.retain(|name, _| !name.starts_with("token_embd")),
                // The converter has one alpha for all; ours goes into this tensor.
                "llama_ranks" => {
                    let down = wanted.get_mut("blk.0.ffn_down.weight.lora_b").unwrap();
                    down.1.iter_mut().for_each(|value| *value = f64::from((*value * 1.5) as f32));
                    assert!(
                        matches!(losing(&losses)[..], [Loss::Rounded { elements: 1.., .. }]),
                        "{losses:?}"
                    );
                }
                _ => assert!(losing(&losses).is_empty(), "{name}: {losses:?}"),
            }
            assert!(found == wanted, "{name}");
            match name.as_str() {
                // It knows nothing of the root of the rank.
                "llama_rslora" => assert_eq!(alpha(&ours), (6.0 * 3f64.sqrt()) as f32),
                _ => assert_eq!(alpha(&ours), alpha(&theirs), "{name}"),
            }
            assert!(check(&one(&ours), None).unwrap().is_empty(), "{name}");
        });
    }
}

#[test]
fn applied_it_is_the_same_from_every_format() {
    // Of these the converter's file does not say the same, or llama.cpp holds only part.
    let odd = ["llama_ranks", "llama_rslora", "llama_tied"];
    for case in cases().iter().filter(|case| !odd.contains(&case.file_name().unwrap().to_str().unwrap())) {
        with_peft(case, |adapter, base| {
            let wanted = weights(adapter, base);
            let options = ReadOptions { base: Some(base), ..ReadOptions::default() };
            let (ours, _) = written(adapter, Some(base));
            for bytes in [ours, fs::read(case.join("lora.gguf")).unwrap()] {
                let back = read(&one(&bytes), &options).unwrap().adapter;
                assert!(weights(&back, base) == wanted, "{}", case.display());
                let peft = write(&back, FormatId::Peft, &WriteOptions::on(Some(base))).unwrap();
                assert!(losing(&peft.losses).is_empty(), "{}: {:?}", case.display(), peft.losses);
                let folder: Vec<(String, Vec<u8>)> = peft.files.iter().map(bytes_of).collect();
                let files = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
                let around = read(&files, &options).unwrap().adapter;
                assert!(weights(&around, base) == wanted, "{}", case.display());
            }
        });
    }
}

#[test]
fn a_tied_embedding_is_changed_at_both_ends_as_export_lora_does() {
    let case = case("llama_tied");
    let (base, bytes) = (base(&case), fs::read(case.join("lora.gguf")).unwrap());
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let adapter = read(&one(&bytes), &options).unwrap().adapter;
    let changed = weights(&adapter, &base);
    let merged = fs::read(case.join("merged.gguf")).unwrap();
    let merged = &tensors(&merged)["token_embd.weight"].1;
    let ours = values(Dtype::F32, &changed["model.embed_tokens.weight"]);
    assert!(!changed.contains_key("lm_head.weight"));
    assert!(ours.iter().zip(merged).all(|(a, b)| (a - b).abs() <= 1e-6), "both uses see it");
    // PEFT says it of both modules.
    let peft = write(&adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
    let folder: Vec<(String, Vec<u8>)> = peft.files.iter().map(bytes_of).collect();
    let files = folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let around = weights(&read(&files, &options).unwrap().adapter, &base);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        assert!(around[name] == changed["model.embed_tokens.weight"], "{name}");
    }
}

#[test]
fn a_file_comes_back_byte_for_byte() {
    for case in cases() {
        let bytes = fs::read(case.join("lora.gguf")).unwrap();
        let (base, files) = (base(&case), one(&bytes));
        let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
        let adapter = read(&files, &options).unwrap().adapter;
        let fitment = fitment_core::to_bytes(&adapter).unwrap();
        let again = fitment_core::read(&fitment).unwrap();
        // The tied embedding was written by the converter, and would not be by us.
        if case.ends_with("llama_tied") {
            continue;
        }
        for with in [None, Some(&base as &dyn Checkpoint)] {
            let (back, losses) = written(&again, with);
            assert!(back == bytes && losses.is_empty(), "{}: {losses:?}", case.display());
        }
    }
}

#[test]
fn without_a_base_rows_in_another_order_need_the_numbers_of_heads() {
    for (name, needs) in
        [("llama", true), ("gpt_neox", true), ("falcon", true), ("qwen3", false), ("gpt2", false)]
    {
        let case = case(name);
        let theirs = fs::read(case.join("lora.gguf")).unwrap();
        match read(&one(&theirs), &ReadOptions::default()) {
            Err(error) => {
                assert!(needs && matches!(error, Error::Ambiguous { .. }), "{name}: {error}");
                assert!(error.hint().unwrap().contains("--base"), "{name}");
            }
            Ok(_) => assert!(!needs, "{name}"),
        }
        // Ours say it.
        with_peft(&case, |adapter, base| {
            let (ours, _) = written(adapter, Some(base));
            let unbound = read(&one(&ours), &ReadOptions::default()).unwrap().adapter;
            let options = ReadOptions { base: Some(base), ..ReadOptions::default() };
            let bound = read(&one(&ours), &options).unwrap().adapter;
            for (unbound, bound) in unbound.edits.iter().zip(&bound.edits) {
                let (Edit::Lora(unbound), Edit::Lora(bound)) = (unbound, bound) else { panic!("{name}") };
                assert_eq!(unbound.target, bound.target, "{name}");
                assert!(unbound.up.bytes() == bound.up.bytes() && unbound.down.bytes() == bound.down.bytes());
            }
            let (back, losses) = written(&unbound, None);
            assert!(back == ours && losses.is_empty(), "{name}");
        });
    }
}

#[test]
fn a_base_of_another_architecture_or_with_other_heads_is_refused() {
    let theirs = fs::read(case("llama").join("lora.gguf")).unwrap();
    let other = base(&case("qwen3"));
    let options = ReadOptions { base: Some(&other), ..ReadOptions::default() };
    let error = read(&one(&theirs), &options).unwrap_err().to_string();
    assert_eq!(error, "general.architecture: the adapter asks for llama, the base has qwen3");
    let mistral = base(&case("mistral"));
    let options = ReadOptions { base: Some(&mistral), ..ReadOptions::default() };
    assert!(matches!(read(&one(&theirs), &options), Err(Error::Mismatch { .. } | Error::Unmapped { .. })));
}

#[test]
fn an_unknown_architecture_names_the_option_or_itself() {
    with_peft(&case("qwen3"), |adapter, _| {
        let mut unbound = adapter.clone();
        unbound.base = fitment_core::model::Base::default();
        let error = write(&unbound, FormatId::Gguf, &WriteOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Ambiguous { hint, .. } if hint.contains("--base")), "{error}");
        unbound.base.config.insert("model_type".to_owned(), json!("bert"));
        let error = write(&unbound, FormatId::Gguf, &WriteOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("bert")), "{error}");
    });
}

#[test]
fn what_llama_cpp_passes_over_is_an_error() {
    with_peft(&case("qwen3"), |adapter, _| {
        let mut latent = adapter.clone();
        latent.base = fitment_core::model::Base::default();
        latent.base.config.insert("model_type".to_owned(), json!("deepseek_v3"));
        let Edit::Lora(lora) = &mut latent.edits[0] else { panic!() };
        let name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";
        lora.target = Target::whole(TensorName::new(name).unwrap());
        let error = write(&latent, FormatId::Gguf, &WriteOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { what, .. } if what == name), "{error}");
        assert!(error.to_string().contains("in silence"), "{error}");
    });
}

#[test]
fn what_the_format_cannot_hold_is_lost_by_name() {
    with_peft(&case("llama"), |adapter, base| {
        let mut mixed = adapter.clone();
        let lora =
            |adapter: &mut Adapter<'_>, at: usize, change: &dyn Fn(&mut fitment_core::model::Lora<'_>)| {
                let Edit::Lora(lora) = &mut adapter.edits[at] else { panic!() };
                change(lora);
                lora.target.name.to_string()
            };
        let magnitude = Tensor::owned(Dtype::F32, Shape::new(&[16]).unwrap(), vec![0; 64]).unwrap();
        let dora = lora(&mut mixed, 0, &|lora| {
            lora.magnitude = Some(fitment_core::model::Magnitude {
                value: Tensor::owned(Dtype::F32, magnitude.shape().clone(), magnitude.bytes().to_vec())
                    .unwrap(),
                axis: 0,
                norm_of: fitment_core::model::NormOf::Merged,
                eps: 0.0,
            });
        });
        let norm = lora(&mut mixed, 1, &|lora| {
            lora.target.name = TensorName::new("model.vision_tower.layers.0.up_proj.weight").unwrap();
        });
        let late = lora(&mut mixed, 2, &|lora| {
            lora.target.when = Some(When { phase: Phase::Decode, after_tokens: vec![1] });
        });
        let (_, losses) = written(&mixed, Some(base));
        let lost: Vec<String> = losing(&losses)
            .iter()
            .map(|loss| match loss {
                Loss::NotHeld { target, .. } => target.clone(),
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(lost, [dora, norm, late]);
    });
}

#[test]
fn invocation_tokens_are_kept() {
    with_peft(&case("qwen3"), |adapter, base| {
        let mut late = adapter.clone();
        for edit in &mut late.edits {
            let Edit::Lora(lora) = edit else { panic!() };
            lora.target.when = Some(When { phase: Phase::EveryForward, after_tokens: vec![5, 7] });
        }
        let (bytes, losses) = written(&late, Some(base));
        assert!(losing(&losses).is_empty(), "{losses:?}");
        let back = read(&one(&bytes), &ReadOptions::default()).unwrap().adapter;
        let Edit::Lora(lora) = &back.edits[0] else { panic!() };
        assert_eq!(lora.target.when.as_ref().unwrap().after_tokens, [5, 7]);
    });
}

/// A file laid out from parts.
fn forged(metadata: &[(&str, &[u8])], tensors: &[(&str, &[u64], f32)]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        out.extend(*value);
    }
    let (mut offset, mut data) = (0u64, Vec::new());
    for (name, dims, fill) in tensors {
        text(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().rev().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        let count = dims.iter().product::<u64>();
        (0..count).for_each(|_| data.extend(fill.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
        offset = data.len() as u64;
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

fn said(text: &str) -> Vec<u8> {
    [&8u32.to_le_bytes()[..], &(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn every_rule_of_lora_is_broken_by_a_file() {
    let (adapter, lora, qwen, latent) = (said("adapter"), said("lora"), said("qwen2"), said("deepseek2"));
    let eight = [&6u32.to_le_bytes()[..], &8f32.to_le_bytes()].concat();
    let head = |architecture: &'static str, alpha: bool| {
        let mut head: Vec<(&str, &[u8])> = vec![
            ("general.architecture", if architecture == "qwen2" { &qwen } else { &latent }),
            ("general.type", &adapter),
            ("adapter.type", &lora),
        ];
        head.extend(alpha.then_some(("adapter.lora.alpha", &eight[..])));
        head
    };
    let [a, b] = ["blk.0.ffn_up.weight.lora_a", "blk.0.ffn_up.weight.lora_b"];
    let sound: [(&str, &[u64], f32); 2] = [(a, &[2, 4], 1.0), (b, &[6, 2], 1.0)];
    let codes = |bytes: &[u8]| -> Vec<&'static str> {
        check(&one(bytes), None).unwrap().iter().map(|finding| finding.code.0).collect()
    };
    assert!(codes(&forged(&head("qwen2", true), &sound)).is_empty());
    assert_eq!(codes(&forged(&head("qwen2", false), &sound)), ["G019"]);
    let broken = [
        ("G013", forged(&[("general.architecture", &qwen), ("adapter.lora.alpha", &eight)], &sound)),
        ("G013", forged(&[&head("qwen2", false)[..], &[("adapter.lora.alpha", &qwen)]].concat(), &sound)),
        ("G014", forged(&head("qwen2", true), &sound[..1])),
        ("G014", forged(&head("qwen2", true), &[])),
        ("G014", forged(&head("qwen2", true), &[sound[0], sound[1], ("output.bias", &[4], 0.0)])),
        (
            "G015",
            forged(
                &head("qwen2", true),
                &[("blk.0.ssm_in.weight.lora_a", &[2, 4], 1.0), ("blk.0.ssm_in.weight.lora_b", &[6, 2], 1.0)],
            ),
        ),
        ("G016", forged(&head("qwen2", true), &[(a, &[2, 4], 1.0), (b, &[6, 3], 1.0)])),
        ("G016", forged(&head("qwen2", true), &[(a, &[3, 2, 4], 1.0), (b, &[3, 6, 2], 1.0)])),
        ("G016", forged(&head("qwen2", true), &[(a, &[0, 4], 1.0), (b, &[6, 0], 1.0)])),
        ("G017", forged(&head("qwen2", true), &[(a, &[2, 4], f32::NAN), sound[1]])),
        ("G018", forged(&head("qwen2", true), &[sound[0], sound[1], ("output_norm.weight", &[4], 1.0)])),
        (
            "G018",
            forged(
                &head("deepseek2", true),
                &[
                    ("blk.0.attn_kv_b.weight.lora_a", &[2, 4], 1.0),
                    ("blk.0.attn_kv_b.weight.lora_b", &[6, 2], 1.0),
                ],
            ),
        ),
    ];
    let mut seen: BTreeSet<&str> = BTreeSet::from(["G019"]);
    for (code, bytes) in &broken {
        let found = codes(bytes);
        assert!(found.contains(code), "{code}: {found:?}");
        assert!(read(&one(bytes), &ReadOptions::default()).is_err(), "{code}");
        seen.insert(code);
    }
    let of_lora = rules::ALL.iter().filter(|rule| rule.section == "GGUF: LoRA").map(|rule| rule.code.0);
    assert_eq!(seen, of_lora.collect());
}
