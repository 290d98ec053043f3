//! LoRA of litgpt's: applied it is what litgpt merges and converts, in transformers' names, and every breach is named.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::litgpt::{check, rules};
use fitment_convert::{Error, FormatId, ReadOptions, detect, read};
use fitment_core::finding::Rule;
use fitment_core::model::Edit;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::folder::{Folder, applied, files, load, tensors};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use std::fs;

const WEIGHTS: &str = "lit_model.pth.lora";
const TRAINING: &str = "hyperparameters.yaml";
const MODEL: &str = "model_config.yaml";
const CASES: &[&str] = &["llama", "llama_default", "qwen2", "pythia", "falcon", "phi", "phi3", "mixtral"];

fn adapter_of(case: &str) -> Folder {
    load(&fixture("litgpt").join(case).join("adapter"))
}

#[test]
fn applied_it_is_what_litgpt_merges() {
    for case in CASES {
        let folder = fixture("litgpt").join(case);
        let [old, merged] = ["base/model.safetensors", "merged.safetensors"]
            .map(|name| tensors(&fs::read(folder.join(name)).unwrap()));
        let changed = merged.iter().filter(|(name, tensor)| old[*name] != **tensor).count();
        assert!(changed >= 4, "{case}: {changed}");
        let far = applied(&folder.join("base"), &folder.join("adapter"), &[], &merged);
        assert!(far.values().all(|far| far.relative <= 1e-6), "{case}: {far:?}");
    }
}

#[test]
fn as_peft_it_is_the_same_for_fused_modules_too() {
    for case in ["llama_default", "pythia", "falcon", "phi3", "mixtral"] {
        let (folder, room) = (fixture("litgpt").join(case), scratch());
        let (base, out) = (folder.join("base"), room.path().join("peft"));
        let mut convert = fitment();
        // Of a head, which not all servers have.
        let form = ["--to", "peft", "--preset", "servable", "--allow-loss"];
        convert.arg("convert").arg(folder.join("adapter")).args(form);
        let output = convert.arg("-o").arg(&out).arg("--base").arg(&base).output().unwrap();
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stderr));
        let mut merged = tensors(&fs::read(folder.join("merged.safetensors")).unwrap());
        merged.retain(|name, _| !matches!(&**name, "lm_head.weight" | "embed_out.weight"));
        let far = applied(&base, &out, &[], &merged);
        assert!(far.values().all(|far| far.relative <= 2e-6), "{case}: {far:?}");
    }
}

#[test]
fn without_a_base_only_a_head_is_open() {
    let folder = adapter_of("llama_default");
    assert_eq!(detect(&files(&folder)).unwrap(), FormatId::Litgpt);
    let alone = read(&files(&folder), &ReadOptions::default()).unwrap();
    let base = CheckpointDir::open(&fixture("litgpt").join("llama_default/base"), Access::Map).unwrap();
    let on_base =
        read(&files(&folder), &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap();
    let said = |edits: &[Edit<'_>]| -> Vec<(String, Vec<u8>)> {
        let loras = edits.iter().map(|edit| match edit {
            Edit::Lora(lora) => (lora.target.label(), [lora.up.bytes(), lora.down.bytes()].concat()),
            other => panic!("{other:?}"),
        });
        loras.collect()
    };
    assert_eq!(said(&alone.adapter.edits), said(&on_base.adapter.edits));
    let error = read(&files(&adapter_of("llama")), &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }) && error.hint().unwrap().contains("--base"), "{error}");
}

/// A case with one of its files changed.
fn with(case: &str, file: &str, change: impl Fn(&str) -> String) -> Folder {
    let mut folder = adapter_of(case);
    let text = String::from_utf8(folder[file].clone()).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text, "{file}");
    folder.insert(file.to_owned(), changed.into_bytes());
    folder
}

#[test]
fn every_breach_is_named() {
    let without = |file: &str| {
        let mut folder = adapter_of("llama");
        folder.remove(file);
        folder
    };
    let replaced =
        |file: &str, from: &'static str, to: &'static str| with("llama", file, |text| text.replace(from, to));
    let mut broken = adapter_of("llama");
    broken.insert(WEIGHTS.to_owned(), b"\x80\x02}q\x00.".to_vec());
    let mut flat = adapter_of("llama");
    let other = load(&fixture("torchtune").join("llama/adapter"));
    flat.insert(WEIGHTS.to_owned(), other["adapter_model.pt"].clone());
    let cases: Vec<(&str, Folder, &Rule)> = vec![
        ("no training", without(TRAINING), &rules::I_FILES),
        ("no model", without(MODEL), &rules::I_FILES),
        ("no tensors", broken, &rules::I_UNIT),
        ("tensors of another tool", flat, &rules::I_WEIGHTS_FILE),
        ("no YAML", replaced(TRAINING, "lora_r: 3", "lora_r: {"), &rules::I_CONFIG),
        ("an alias", replaced(TRAINING, "lora_r: 3", "lora_r: *r"), &rules::I_CONFIG),
        ("a key twice", replaced(TRAINING, "lora_r: 3", "lora_r: 3\nlora_r: 3"), &rules::I_CONFIG),
        ("no rank", replaced(TRAINING, "lora_r: 3", "lora_r: 0"), &rules::I_CONFIG),
        ("no alpha", replaced(TRAINING, "lora_alpha: 5", "lora_alpha: .nan"), &rules::I_CONFIG),
        ("rsLoRA", replaced(TRAINING, "lora_r: 3", "lora_r: 3\nuse_rslora: true"), &rules::I_VARIANT),
        ("patterns", replaced(TRAINING, "lora_r: 3", "lora_r: 3\nalpha_pattern: {q: 1}"), &rules::I_VARIANT),
        ("no flag", replaced(TRAINING, "lora_query: true", "lora_query: 1"), &rules::I_CONFIG),
        ("no heads", replaced(MODEL, "n_head: 4", "n_head: null"), &rules::I_CONFIG),
        ("odd groups", replaced(MODEL, "n_query_groups: 2", "n_query_groups: 3"), &rules::I_CONFIG),
        ("another rank", replaced(TRAINING, "lora_r: 3", "lora_r: 4"), &rules::I_SHAPE),
        ("other parts", replaced(TRAINING, "lora_key: true", "lora_key: false"), &rules::I_SHAPE),
        ("other heads", replaced(MODEL, "head_size: 4", "head_size: 5"), &rules::I_SHAPE),
        (
            "latent attention",
            replaced(MODEL, "latent_attention: null", "latent_attention: {q: 1}"),
            &rules::I_UNSUPPORTED,
        ),
        ("another class", replaced(MODEL, "LLaMAMLP", "OtherMLP"), &rules::I_UNSUPPORTED),
        ("another family", replaced(MODEL, "LLaMAMLP", "GptNeoxMLP"), &rules::I_UNSUPPORTED),
    ];
    for (what, folder, rule) in &cases {
        let found = check(&files(folder), None).unwrap();
        assert!(found.iter().any(|finding| finding.code == rule.code), "{what}: {found:?}");
        let options = ReadOptions { from: Some(FormatId::Litgpt), ..ReadOptions::default() };
        assert!(read(&files(folder), &options).is_err(), "{what}");
    }
    for case in CASES {
        assert_eq!(check(&files(&adapter_of(case)), None).unwrap(), [], "{case}");
    }
}

#[test]
fn alpha_0_and_unknown_keys_are_warned_of() {
    let said = |from: &'static str, to: &'static str| {
        let folder = with("llama_default", TRAINING, |text| text.replace(from, to));
        let read = read(&files(&folder), &ReadOptions::default()).unwrap();
        read.findings.iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(said("lora_alpha: 5", "lora_alpha: 0"), [rules::I_ALPHA_ZERO.code]);
    assert_eq!(said("lora_r: 3", "lora_r: 3\nlora_twist: 1"), [rules::I_CONFIG_KEY.code]);
    assert_eq!(said("lora_r: 3", "lora_r: 3\nuse_rslora: false\nother: 1"), []);
}
