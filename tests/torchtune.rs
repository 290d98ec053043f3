//! torchtune's adapters in its own form: applied they are what torchtune merges, as PEFT's they are what it exports where that
//! is right, and every breach is named.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::torchtune::{check, rules};
use fitment_convert::{Error, FormatId, ReadOptions, WriteOptions, detect, read, write};
use fitment_core::finding::Rule;
use fitment_core::model::Edit;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, CheckpointDir};
use fitment_tests::compare::distance;
use fitment_tests::folder::{Folder, Tensors, applied, changed_torch, files, load, tensors};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use std::fs;
use std::path::Path;

const WEIGHTS: &str = "adapter_model.pt";
const OF_PEFT: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

fn adapter_of(case: &str) -> Folder {
    load(&fixture("torchtune").join(case).join("adapter"))
}

fn options<'o>(case: &str) -> ReadOptions<'o> {
    let alpha = (case == "phi3").then_some("5.0");
    ReadOptions { from: Some(FormatId::Torchtune), alpha, ..ReadOptions::default() }
}

#[test]
fn applied_it_is_what_torchtune_merges() {
    for case in ["llama", "llama_bf16", "llama_dora", "gemma2", "qwen2", "phi3"] {
        let folder = fixture("torchtune").join(case);
        let merged = tensors(&fs::read(folder.join("merged.safetensors")).unwrap());
        let alpha = if case == "phi3" { &["--alpha", "5"][..] } else { &[] };
        let said = [&["--from", "torchtune"], alpha].concat();
        for (name, far) in applied(&folder.join("base"), &folder.join("adapter"), &said, &merged) {
            // In BF16 torchtune rounds the product, the scaled product and the sum; this rounds once.
            let bound = if case == "llama_bf16" { 0.01 } else { 1e-6 };
            assert!(far.relative <= bound, "{case}: {name}: {far:?}");
        }
    }
}

/// The tensors of the PEFT folder that is written of a case.
fn as_peft(case: &str) -> Tensors {
    let (folder, base) = (adapter_of(case), fixture("torchtune").join(case).join("base"));
    let base = CheckpointDir::open(&base, Access::Map).unwrap();
    let read = read(&files(&folder), &ReadOptions { base: Some(&base), ..options(case) }).unwrap();
    let written = write(&read.adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
    let mut bytes = Vec::new();
    written.files.iter().find(|file| file.path == OF_PEFT).unwrap().write_to(&mut bytes).unwrap();
    tensors(&bytes)
}

#[test]
fn for_peft_it_is_what_torchtune_exports_but_for_its_two_faults() {
    for case in ["llama", "llama_bf16", "llama_dora", "gemma2", "qwen2"] {
        let (ours, theirs) = (as_peft(case), tensors(&adapter_of(case)[OF_PEFT]));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{case}");
        let of_heads = |name: &String| name.contains("q_proj") || name.contains("k_proj");
        let wrong = |name: &String| match case {
            // The magnitudes of q and k stay as Meta orders them.
            "llama_dora" => name.ends_with("lora_magnitude_vector"),
            // Its rows are in transformers' order to begin with, and are turned all the same.
            "qwen2" => name.ends_with("lora_B.weight"),
            _ => false,
        };
        for (name, tensor) in &ours {
            assert_eq!(tensor != &theirs[name], of_heads(name) && wrong(name), "{case}: {name}");
        }
    }
}

/// What torchtune logs into its output folder.
const TRAINING: &str = "torchtune_config.yaml";

#[test]
fn alpha_stands_in_the_config_of_the_training() {
    let mut folder = adapter_of("phi3");
    let bare = ReadOptions { alpha: None, ..options("phi3") };
    let refused = read(&files(&folder), &bare).unwrap_err();
    assert!(refused.to_string().contains(TRAINING), "{refused}");
    let yaml = |alpha: f64| {
        format!(
            "output_dir: /tmp/x\nmodel:\n  _component_: torchtune.models.phi3.lora_phi3_mini\n  lora_rank: 3\n  lora_alpha: {alpha}\nseed: null\n"
        )
    };
    folder.insert(TRAINING.to_owned(), yaml(5.0).into_bytes());
    let base = CheckpointDir::open(&fixture("torchtune/phi3/base"), Access::Map).unwrap();
    let on_base = |bare| ReadOptions { base: Some(&base), ..bare };
    let told = read(&files(&folder), &on_base(bare)).unwrap().adapter;
    let plain = adapter_of("phi3");
    let said = read(&files(&plain), &on_base(options("phi3"))).unwrap().adapter;
    let id = |adapter| fitment_core::encode_checked(adapter).unwrap().manifest.id;
    assert_eq!(id(&told), id(&said));
    // Beside an adapter_config.json that says another, neither is taken.
    let mut folder = adapter_of("llama");
    folder.insert(TRAINING.to_owned(), yaml(16.0).into_bytes());
    let refused = read(&files(&folder), &options("llama")).unwrap_err();
    assert!(refused.to_string().contains(TRAINING) && refused.to_string().contains("16"), "{refused}");
}

/// torchtune writes PEFT's form beside its own; beside the files of another PEFT, its own is another adapter.
#[test]
fn beside_an_adapter_of_peft_it_is_a_second_format() {
    let mut folder = adapter_of("llama");
    assert_eq!(detect(&files(&folder)).unwrap(), FormatId::Peft);
    let of_peft = load(&fixture("peft/linear/adapter"));
    for name in [OF_PEFT, CONFIG] {
        folder.insert(name.to_owned(), of_peft[name].clone());
    }
    let error = detect(&files(&folder)).unwrap_err();
    let Error::SeveralFormats { formats } = &error else { panic!("{error}") };
    assert_eq!(formats[..], [FormatId::Peft, FormatId::Torchtune]);
    assert!(error.hint().unwrap().contains("--from"));
}

#[test]
fn the_config_beside_it_says_what_a_base_would() {
    let folder = adapter_of("gemma2");
    let read_alone = read(&files(&folder), &options("gemma2")).unwrap();
    let base = CheckpointDir::open(&fixture("torchtune").join("gemma2/base"), Access::Map).unwrap();
    let on_base = read(&files(&folder), &ReadOptions { base: Some(&base), ..options("gemma2") }).unwrap();
    let bytes = |edits: &[Edit<'_>]| -> Vec<Vec<u8>> {
        let loras = edits.iter().map(|edit| match edit {
            Edit::Lora(lora) => [lora.up.bytes(), lora.down.bytes()].concat(),
            other => panic!("{other:?}"),
        });
        loras.collect()
    };
    assert_eq!(bytes(&read_alone.adapter.edits), bytes(&on_base.adapter.edits));
    let mut bare = folder.clone();
    bare.remove("config.json");
    let error = read(&files(&bare), &options("gemma2")).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }) && error.hint().unwrap().contains("--base"), "{error}");
}

#[test]
fn alpha_is_said_once() {
    let (with, mut without) = (adapter_of("llama"), adapter_of("llama"));
    without.remove(CONFIG);
    let said = |folder: &Folder, alpha| {
        let base = CheckpointDir::open(&fixture("torchtune").join("llama/base"), Access::Map).unwrap();
        let options = ReadOptions { base: Some(&base), alpha, ..options("llama") };
        let read = read(&files(folder), &options);
        read.map(|read| match &read.adapter.edits[0] {
            Edit::Lora(lora) => lora.scale,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(said(&with, None).unwrap(), 5.0 / 3.0);
    assert_eq!(said(&without, Some("6")).unwrap(), 2.0);
    assert!(matches!(said(&without, None), Err(Error::Ambiguous { hint, .. }) if hint.contains("--alpha")));
    assert!(matches!(said(&with, Some("6")), Err(Error::Option { .. })));
    assert!(matches!(said(&without, Some("rs:6")), Err(Error::Option { .. })));
}

#[test]
fn what_peft_reads_too_is_read_as_pefts() {
    let mut folder = adapter_of("llama");
    assert_eq!(detect(&files(&folder)).unwrap(), FormatId::Peft);
    folder.remove(OF_PEFT);
    folder.remove(CONFIG);
    assert_eq!(detect(&files(&folder)).unwrap(), FormatId::Torchtune);
    let old = folder.remove(WEIGHTS).unwrap();
    folder.insert("adapter_11.pt".to_owned(), old);
    assert_eq!(detect(&files(&folder)).unwrap(), FormatId::Torchtune);
}

/// The case with its weights changed.
fn with(change: impl Fn(&str, Tensor<'static>) -> Option<(String, Tensor<'static>)>) -> Folder {
    let mut folder = adapter_of("llama_dora");
    let changed = changed_torch(&folder[WEIGHTS], |name, tensor| change(name, tensor.into_owned()));
    folder.insert(WEIGHTS.to_owned(), changed);
    folder
}

fn zeros(dtype: Dtype, dims: &[u64]) -> Tensor<'static> {
    let shape = Shape::new(dims).unwrap();
    let len = shape.byte_len(dtype).unwrap() as usize;
    Tensor::owned(dtype, shape, vec![0; len]).unwrap()
}

#[test]
fn every_breach_is_named() {
    const Q: &str = "layers.0.attn.q_proj";
    let at = |part: &str| format!("{Q}.{part}");
    let replaced = |key: String, tensor: Tensor<'static>| {
        with(move |name, old| Some((name.to_owned(), if name == key { tensor.clone() } else { old })))
    };
    let without = |key: String| with(move |name, old| (name != key).then(|| (name.to_owned(), old)));
    let renamed =
        |from: &'static str, to: &'static str| with(move |name, old| Some((name.replace(from, to), old)));
    let config = |text: &str| {
        let mut folder = adapter_of("llama");
        folder.insert(CONFIG.to_owned(), text.as_bytes().to_vec());
        folder
    };
    let mut twice = adapter_of("llama");
    twice.insert("adapter_0.pt".to_owned(), twice[WEIGHTS].clone());
    let mut broken = adapter_of("llama");
    broken.insert(WEIGHTS.to_owned(), b"PK\x03\x04 and no more".to_vec());
    let cases: Vec<(&str, Folder, &Rule)> = vec![
        ("two files", twice, &rules::U_WEIGHTS_MISSING),
        ("a decoder of images", renamed("layers.0", "decoder.layers.0"), &rules::U_UNSUPPORTED),
        ("PEFT's tensors", renamed("lora_a", "lora_A"), &rules::U_KEY),
        ("no lora_b", without(at("lora_b.weight")), &rules::U_UNIT),
        ("another rank", replaced(at("lora_b.weight"), zeros(Dtype::F32, &[16, 2])), &rules::U_SHAPE),
        ("no matrix", replaced(at("lora_a.weight"), zeros(Dtype::F32, &[3])), &rules::U_SHAPE),
        ("an empty one", replaced(at("lora_a.weight"), zeros(Dtype::F32, &[0])), &rules::U_SHAPE),
        ("a magnitude of others", replaced(at("magnitude"), zeros(Dtype::F32, &[8])), &rules::U_SHAPE),
        ("integers", replaced(at("magnitude"), zeros(Dtype::I64, &[16])), &rules::U_VALUE),
        ("nothing", with(|_, _| None), &rules::U_UNIT),
        ("no JSON", config("{"), &rules::U_CONFIG),
        ("no alpha", config(r#"{"r": 3}"#), &rules::U_CONFIG),
        ("another r", config(r#"{"r": 4, "lora_alpha": 5.0}"#), &rules::U_CONFIG),
        ("rsLoRA", config(r#"{"r": 3, "lora_alpha": 5.0, "use_rslora": true}"#), &rules::U_VARIANT),
        ("DoRA", config(r#"{"r": 3, "lora_alpha": 5.0, "use_dora": true}"#), &rules::U_VARIANT),
        ("patterns", config(r#"{"r": 3, "lora_alpha": 5.0, "rank_pattern": {"q": 1}}"#), &rules::U_VARIANT),
    ];
    for (what, folder, rule) in &cases {
        let found = check(&files(folder), None).unwrap();
        assert!(found.iter().any(|finding| finding.code == rule.code), "{what}: {found:?}");
        assert!(read(&files(folder), &options("llama")).is_err(), "{what}");
    }
    assert!(!check(&files(&broken), None).unwrap().is_empty());
    assert!(read(&files(&broken), &options("llama")).is_err());
    assert_eq!(check(&files(&adapter_of("llama_dora")), None).unwrap(), []);
}

#[test]
fn heads_that_the_rows_are_not_of_are_a_mismatch() {
    for (case, from, to) in [
        ("llama", "\"num_attention_heads\": 4", "\"num_attention_heads\": 3"),
        ("gemma2", "\"head_dim\": 8", "\"head_dim\": 4"),
        ("phi3", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4"),
    ] {
        let mut folder = adapter_of(case);
        let config = String::from_utf8(folder["config.json"].clone()).unwrap();
        assert!(config.contains(from), "{config}");
        folder.insert("config.json".to_owned(), config.replace(from, to).into_bytes());
        let error = read(&files(&folder), &options(case)).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{case}: {error}");
    }
    let mut other = adapter_of("llama");
    other.insert("config.json".to_owned(), br#"{"model_type": "mllama", "num_attention_heads": 4}"#.to_vec());
    assert!(matches!(read(&files(&other), &options("llama")), Err(Error::Unsupported { .. })));
}

/// The base with the adapter applied, with its warnings.
fn applied_to(base: &Path, adapter: &Path, said: &[&str]) -> (Tensors, String) {
    let room = scratch();
    let out = room.path().join("out");
    let output =
        fitment().arg("apply").args([base, adapter]).args(said).arg("-o").arg(&out).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    (tensors(&fs::read(out.join("model.safetensors")).unwrap()), text)
}

/// As PEFT's, written on its own base, an adapter has names and rows of its own model, whatever it is applied to.
#[test]
fn rows_and_names_are_those_of_the_model_that_it_was_trained_on() {
    let base = |case: &str| fixture("torchtune").join(case).join("base");
    for (case, other) in [("llama", "qwen2"), ("llama", "phi3"), ("qwen2", "llama")] {
        let adapter = fixture("torchtune").join(case).join("adapter");
        let said = ["--from", "torchtune"];
        let room = scratch();
        let peft = room.path().join("peft");
        let mut convert = fitment();
        convert.arg("convert").arg(&adapter).args(said).args(["--to", "peft", "--allow-loss"]);
        let output = convert.arg("-o").arg(&peft).arg("--base").arg(base(case)).output().unwrap();
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stderr));
        let (ours, text) = applied_to(&base(other), &adapter, &said);
        let (wanted, _) = applied_to(&base(other), &peft, &[]);
        assert!(text.contains(rules::U_FAMILY.code.0), "{case} on {other}: {text}");
        for (name, tensor) in &ours {
            let far = distance(tensor.0, &tensor.2, &wanted[name].2, None);
            assert!(far.relative <= 1e-6, "{case} on {other}: {name}: {far:?}");
        }
    }
    // Rows of one module that Llama has as three.
    let base = CheckpointDir::open(&base("llama"), Access::Map).unwrap();
    let refused =
        read(&files(&adapter_of("phi3")), &ReadOptions { base: Some(&base), ..options("phi3") }).unwrap_err();
    assert!(refused.to_string().contains("qkv_proj"), "{refused}");
}

#[test]
fn alpha_0_and_unknown_keys_are_warned_of() {
    let said = |config: Option<&str>, alpha| {
        let mut folder = adapter_of("llama_dora");
        match config {
            Some(text) => drop(folder.insert(CONFIG.to_owned(), text.as_bytes().to_vec())),
            None => drop(folder.remove(CONFIG)),
        }
        let read = read(&files(&folder), &ReadOptions { alpha, ..options("llama_dora") }).unwrap();
        read.findings.iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(said(None, Some("0")), [rules::U_ALPHA_ZERO.code]);
    assert_eq!(said(Some(r#"{"r": 3, "lora_alpha": 0}"#), None), [rules::U_ALPHA_ZERO.code]);
    let odd = r#"{"r": 3, "lora_alpha": 5, "lora_twist": 1, "use_dora": true}"#;
    assert_eq!(said(Some(odd), None), [rules::U_CONFIG_KEY.code]);
}
