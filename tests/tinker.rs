//! Tinker's adapters: applied they are what tinker-cookbook merges but for a tied head, as PEFT's they are what it makes of them,
//! and every breach is named.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::tinker::{check, rules};
use fitment_convert::{Error, FormatId, ReadOptions, WriteOptions, detect, read, write};
use fitment_core::finding::Rule;
use fitment_core::tensor::Dtype;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::compare::distance;
use fitment_tests::folder::{Folder, Stored, Tensors, applied, files, load, stored, tensors};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use std::fs;

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
const CASES: &[&str] = &["qwen3", "qwen3_tied", "qwen3_moe", "gpt_oss", "qwen3_5"];

fn adapter_of(case: &str) -> Folder {
    load(&fixture("tinker").join(case).join("adapter"))
}

fn of(case: &str, file: &str) -> Tensors {
    tensors(&fs::read(fixture("tinker").join(case).join(file)).unwrap())
}

#[test]
fn applied_it_is_what_tinker_cookbook_merges() {
    for case in ["qwen3", "qwen3_moe", "gpt_oss", "qwen3_5"] {
        let folder = fixture("tinker").join(case);
        let (old, merged) = (of(case, "base/model.safetensors"), of(case, "merged.safetensors"));
        let changed = merged.iter().filter(|(name, tensor)| old[*name] != **tensor).count();
        assert!(changed >= 7, "{case}: {changed}");
        let far = applied(&folder.join("base"), &folder.join("adapter"), &[], &merged);
        assert!(far.values().all(|far| far.relative <= 1e-6), "{case}: {far:?}");
    }
}

/// tinker-cookbook merges a tied head's product into the embedding, and so into both ends of the model. It was trained at one.
#[test]
fn a_tied_head_is_changed_alone() {
    let (folder, room) = (fixture("tinker/qwen3_tied"), scratch());
    let out = room.path().join("out");
    let output = fitment()
        .arg("apply")
        .args([folder.join("base"), folder.join("adapter")])
        .arg("-o")
        .arg(&out)
        .output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("tie_word_embeddings = false"), "{said}");
    let new = tensors(&fs::read(out.join("model.safetensors")).unwrap());
    let (old, merged) = (of("qwen3_tied", "base/model.safetensors"), of("qwen3_tied", "merged.safetensors"));
    const EMBEDDING: &str = "model.embed_tokens.weight";
    assert_eq!(new[EMBEDDING], old[EMBEDDING]);
    assert_ne!(merged[EMBEDDING], old[EMBEDDING]);
    let far = distance(Dtype::F32, &new["lm_head.weight"].2, &merged[EMBEDDING].2, None);
    assert!(far.relative <= 1e-6, "{far:?}");
    let base = CheckpointDir::open(&folder.join("base"), Access::Map).unwrap();
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let adapter = adapter_of("qwen3_tied");
    let read = read(&files(&adapter), &options).unwrap();
    assert!(read.findings.iter().any(|finding| finding.code == rules::K_TIED.code), "{:?}", read.findings);
}

#[test]
fn for_peft_it_is_what_tinker_cookbook_makes() {
    for case in ["qwen3", "qwen3_moe"] {
        let base = CheckpointDir::open(&fixture("tinker").join(case).join("base"), Access::Map).unwrap();
        let folder = adapter_of(case);
        let read =
            read(&files(&folder), &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap();
        let written = write(&read.adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
        let mut bytes = Vec::new();
        written.files.iter().find(|file| file.path == WEIGHTS).unwrap().write_to(&mut bytes).unwrap();
        let (ours, theirs) = (tensors(&bytes), of(case, "peft.safetensors"));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{case}");
        assert!(ours == theirs, "{case}");
    }
}

#[test]
fn it_is_told_from_pefts_by_its_keys() {
    for case in CASES {
        assert_eq!(detect(&files(&adapter_of(case))).unwrap(), FormatId::Tinker, "{case}");
    }
    let plain =
        changed("qwen3", |key, tensor| (!key.contains("unembed")).then_some((key.to_owned(), tensor)));
    assert_eq!(detect(&files(&plain)).unwrap(), FormatId::Peft);
}

/// A case with its tensors changed.
fn changed(case: &str, change: impl Fn(&str, Stored) -> Option<(String, Stored)>) -> Folder {
    let mut folder = adapter_of(case);
    let all =
        tensors(&folder[WEIGHTS]).into_iter().filter_map(|(key, tensor)| change(&key, tensor)).collect();
    folder.insert(WEIGHTS.to_owned(), stored(&all));
    folder
}

/// A case with the tensors of one module under another name as well.
fn twice(case: &str, from: &str, to: &str) -> Folder {
    let mut folder = adapter_of(case);
    let mut all = tensors(&folder[WEIGHTS]);
    let copies: Tensors = all
        .iter()
        .filter(|(key, _)| key.contains(from))
        .map(|(key, tensor)| (key.replace(from, to), tensor.clone()))
        .collect();
    assert!(!copies.is_empty(), "{from}");
    all.extend(copies);
    folder.insert(WEIGHTS.to_owned(), stored(&all));
    folder
}

fn attention_twice() -> Folder {
    twice("gpt_oss", "layers.0.attn.", "layers.0.self_attn.")
}

fn head_twice() -> Folder {
    twice("qwen3", "model.unembed_tokens", "lm_head")
}

#[test]
fn one_module_under_two_names_is_refused_with_both_keys() {
    for (folder, keys) in [
        (attention_twice(), ["layers.0.attn.q_proj.lora_A", "layers.0.self_attn.q_proj.lora_A"]),
        (head_twice(), ["model.unembed_tokens.lora_A", "base_model.model.lm_head.lora_A"]),
    ] {
        let found = check(&files(&folder), None).unwrap();
        let said = |finding: &fitment_core::Finding| {
            let text = finding.to_string();
            finding.code == rules::K_TWICE.code && keys.iter().all(|key| text.contains(key))
        };
        assert!(found.iter().any(said), "{found:?}");
    }
    let error = read(&files(&head_twice()), &ReadOptions::default()).unwrap_err();
    assert_eq!(error.hint().unwrap(), rules::K_TWICE.remedy);
}

/// The base has four: of each stack the first two are left.
#[test]
fn a_stack_of_fewer_experts_than_the_base_is_a_mismatch_with_both_numbers() {
    let folder = changed("qwen3_moe", |key, (dtype, mut dims, mut bytes)| {
        if key.contains("experts") && dims[0] == 4 {
            dims[0] = 2;
            bytes.truncate(bytes.len() / 2);
        }
        Some((key.to_owned(), (dtype, dims, bytes)))
    });
    let base = CheckpointDir::open(&fixture("tinker/qwen3_moe/base"), Access::Map).unwrap();
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let error = read(&files(&folder), &options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Mismatch { .. }), "{text}");
    assert!(text.contains("asks for 2 experts") && text.contains("has 4"), "{text}");
}

#[test]
fn alpha_0_and_unknown_keys_are_warned_of() {
    let said = |config: &str| {
        let mut folder = adapter_of("qwen3_moe");
        folder.insert(CONFIG.to_owned(), config.as_bytes().to_vec());
        let read = read(&files(&folder), &ReadOptions::default()).unwrap();
        read.findings.iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(said(r#"{"r": 2, "lora_alpha": 0}"#), [rules::K_ALPHA_ZERO.code]);
    assert_eq!(said(r#"{"r": 2, "lora_alpha": 5, "lora_twist": 1}"#), [rules::K_CONFIG_KEY.code]);
    assert_eq!(said(r#"{"r": 2, "lora_alpha": 5, "use_rslora": false, "bias": "none"}"#), []);
}

fn zeros(dims: &[u64]) -> Stored {
    (Dtype::F32, dims.to_vec(), vec![0; 4 * dims.iter().product::<u64>() as usize])
}

#[test]
fn what_is_empty_of_experts_is_left_out() {
    let empty = changed("qwen3_5", |key, tensor| {
        let is_up = key.contains("experts.w3");
        Some((key.to_owned(), if is_up { zeros(&[3, 0, 0]) } else { tensor }))
    });
    assert_eq!(check(&files(&empty), None).unwrap(), []);
    let base = CheckpointDir::open(&fixture("tinker/qwen3_5/base"), Access::Map).unwrap();
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let count = |folder: &Folder| read(&files(folder), &options).unwrap().adapter.edits.len();
    assert_eq!(count(&empty) + 2, count(&adapter_of("qwen3_5")));
}

#[test]
fn every_breach_is_named() {
    const AT: &str = "base_model.model.model.layers.0.mlp.experts";
    let replaced = |key: &'static str, dims: &'static [u64]| {
        changed("qwen3_moe", move |name, old| {
            Some((name.to_owned(), if name == format!("{AT}.{key}") { zeros(dims) } else { old }))
        })
    };
    let renamed = |from: &'static str, to: &'static str| {
        changed("qwen3_moe", move |name, old| Some((name.replace(from, to), old)))
    };
    let config = |text: &str| {
        let mut folder = adapter_of("qwen3_moe");
        folder.insert(CONFIG.to_owned(), text.as_bytes().to_vec());
        folder
    };
    let mut alone = adapter_of("qwen3_moe");
    alone.remove(CONFIG);
    let mut cut = adapter_of("qwen3_moe");
    cut.get_mut(WEIGHTS).unwrap().truncate(300);
    let without = |end: &'static str| {
        changed("qwen3_moe", move |name, old| (!name.ends_with(end)).then_some((name.to_owned(), old)))
    };
    let integers =
        changed("qwen3", |name, (_, dims, bytes)| Some((name.to_owned(), (Dtype::I32, dims, bytes))));
    let cases: Vec<(&str, Folder, &Rule)> = vec![
        ("no config", alone, &rules::K_FILES),
        ("no JSON", config("[]"), &rules::K_CONFIG),
        ("no alpha", config(r#"{"r": 2}"#), &rules::K_CONFIG),
        ("no rank", config(r#"{"r": 0, "lora_alpha": 5}"#), &rules::K_CONFIG),
        ("another rank", config(r#"{"r": 3, "lora_alpha": 5}"#), &rules::K_SHAPE),
        ("one expert in both", replaced("w1.lora_B.weight", &[1, 12, 2]), &rules::K_SHAPE),
        ("other numbers of experts", replaced("w3.lora_B.weight", &[3, 12, 2]), &rules::K_SHAPE),
        ("no stack", replaced("w3.lora_B.weight", &[12, 2]), &rules::K_SHAPE),
        ("one side empty", replaced("w3.lora_B.weight", &[4, 12, 0]), &rules::K_SHAPE),
        ("another part", renamed("experts.w1", "experts.w4"), &rules::K_UNSUPPORTED),
        ("Nemotron's mixer", renamed("self_attn.q_proj", "mixer.x_proj"), &rules::K_UNSUPPORTED),
        ("no prefix", renamed("base_model.model.", ""), &rules::K_KEY),
        ("another tensor", renamed("lora_A.weight", "lora_E.weight"), &rules::K_KEY),
        ("no lora_B", without("o_proj.lora_B.weight"), &rules::K_UNIT),
        ("integers", integers, &rules::K_VALUE),
        ("an attention under two names", attention_twice(), &rules::K_TWICE),
        ("a head under two names", head_twice(), &rules::K_TWICE),
        ("rsLoRA", config(r#"{"r": 2, "lora_alpha": 5, "use_rslora": true}"#), &rules::K_VARIANT),
        ("patterns", config(r#"{"r": 2, "lora_alpha": 5, "alpha_pattern": {"w1": 3}}"#), &rules::K_VARIANT),
        ("biases", config(r#"{"r": 2, "lora_alpha": 5, "bias": "lora_only"}"#), &rules::K_VARIANT),
    ];
    let from = || ReadOptions { from: Some(FormatId::Tinker), ..ReadOptions::default() };
    for (what, folder, rule) in &cases {
        let found = check(&files(folder), None).unwrap();
        assert!(found.iter().any(|finding| finding.code == rule.code), "{what}: {found:?}");
        assert!(read(&files(folder), &from()).is_err(), "{what}");
    }
    assert!(read(&files(&cut), &from()).is_err());
    for case in CASES {
        assert_eq!(check(&files(&adapter_of(case)), None).unwrap(), [], "{case}");
    }
}

#[test]
fn a_base_of_another_shape_is_a_mismatch_and_a_head_needs_one() {
    let error = read(&files(&adapter_of("qwen3")), &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }) && error.hint().unwrap().contains("--base"), "{error}");
    let base = CheckpointDir::open(&fixture("tinker/gpt_oss/base"), Access::Map).unwrap();
    let folder = adapter_of("qwen3_moe");
    let other = read(&files(&folder), &ReadOptions { base: Some(&base), ..ReadOptions::default() });
    assert!(matches!(other, Err(Error::Mismatch { .. })), "{other:?}");
    let alone = read(&files(&folder), &ReadOptions::default()).unwrap();
    assert!(
        alone.adapter.edits.iter().any(|edit| edit.target().is_some_and(|target| target.experts.is_some()))
    );
}
