//! PEFT folders as other tools write them: what is odd about them is a finding, and what they mean is read.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::peft::{check, rules};
use fitment_convert::{
    Converted, Error, Files, FormatId, Loss, ReadOptions, WriteOptions, detect, read, write,
};
use fitment_core::finding::{Finding, Rule};
use fitment_core::model::Edit;
use fitment_core::tensor::Dtype;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::folder::{Folder, Stored, applied, files, load, stored, tensors};
use fitment_tests::place::{fixture, scratch};
use serde_json::{Value, json};
use std::fs;

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

fn base(folder: &str) -> CheckpointDir {
    CheckpointDir::open(&fixture(folder).join("base"), Access::Map).unwrap()
}

fn on<'o>(base: &'o CheckpointDir) -> ReadOptions<'o> {
    ReadOptions { from: Some(FormatId::Peft), base: Some(base), ..ReadOptions::default() }
}

fn has(findings: &[Finding], rule: &Rule) -> bool {
    findings.iter().any(|finding| finding.code == rule.code)
}

#[test]
fn what_mergekit_extracts_is_the_tuned_model() {
    for case in ["biases", "embeddings"] {
        let folder = fixture("mergekit-extract").join(case);
        let merged = tensors(&fs::read(folder.join("merged.safetensors")).unwrap());
        let far = applied(&folder.join("base"), &folder.join("adapter"), &[], &merged);
        // The products were found in F32.
        assert!(far.values().all(|far| far.relative <= 5e-6), "{case}: {far:?}");
    }
}

#[test]
fn biases_that_the_config_does_not_know_are_written_with_a_config_that_does() {
    let folder = load(&fixture("mergekit-extract/biases/adapter"));
    let base = base("mergekit-extract/biases");
    let read_once = read(&files(&folder), &on(&base)).unwrap();
    assert!(has(&read_once.findings, &rules::P_BIAS_UNSAID), "{:?}", read_once.findings);
    let written = write(&read_once.adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
    assert!(
        written.losses.iter().any(|loss| matches!(loss, Loss::ConfigRemade { .. })),
        "{:?}",
        written.losses
    );
    let room = scratch();
    for file in &written.files {
        file.write_to(&mut fs::File::create(room.path().join(&file.path)).unwrap()).unwrap();
    }
    let config: Value = serde_json::from_slice(&fs::read(room.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!(config["lora_bias"], true);
    let merged = tensors(&fs::read(fixture("mergekit-extract/biases/merged.safetensors")).unwrap());
    let far = applied(&fixture("mergekit-extract/biases/base"), room.path(), &[], &merged);
    assert!(far.values().all(|far| far.relative <= 5e-6), "{far:?}");
    let mut said = folder.clone();
    let text = String::from_utf8(said[CONFIG].clone()).unwrap();
    said.insert(CONFIG.to_owned(), text.replacen('{', "{\"lora_bias\": false,", 1).into_bytes());
    assert!(has(&check(&files(&said), None).unwrap(), &rules::P_LORA_BIAS));
}

#[test]
fn the_two_faulty_exports_of_torchtune_are_refused() {
    for case in ["llama_dora", "qwen2"] {
        let folder = load(&fixture("torchtune").join(case).join("adapter"));
        assert_eq!(detect(&files(&folder)).unwrap(), FormatId::Peft);
        let found = check(&files(&folder), None).unwrap();
        assert!(has(&found, &rules::P_TORCHTUNE), "{case}: {found:?}");
        let mut bare = folder.clone();
        bare.remove("config.json");
        let base = base(&format!("torchtune/{case}"));
        let error = read(&files(&bare), &on(&base)).unwrap_err();
        assert!(error.to_string().contains("torchtune"), "{case}: {error}");
        // Another tool may write as few keys.
        let mut config: Value = serde_json::from_slice(&folder[CONFIG]).unwrap();
        config["peft_version"] = json!("0.21.2");
        let mut other = folder;
        other.insert(CONFIG.to_owned(), config.to_string().into_bytes());
        assert!(!has(&check(&files(&other), None).unwrap(), &rules::P_TORCHTUNE), "{case}");
    }
    for case in ["llama", "llama_bf16", "gemma2"] {
        let folder = load(&fixture("torchtune").join(case).join("adapter"));
        assert!(!has(&check(&files(&folder), None).unwrap(), &rules::P_TORCHTUNE), "{case}");
        read(&files(&folder), &on(&base(&format!("torchtune/{case}")))).unwrap();
    }
}

/// A plain adapter of PEFT with its keys, or its tensors, changed.
fn plain(change: impl Fn(&str, Stored) -> (String, Stored), more: &[(&str, Stored)]) -> Folder {
    let mut folder = load(&fixture("peft/linear/adapter"));
    let mut all: fitment_tests::folder::Tensors =
        tensors(&folder[WEIGHTS]).into_iter().map(|(key, tensor)| change(&key, tensor)).collect();
    all.extend(more.iter().map(|(key, tensor)| ((*key).to_owned(), tensor.clone())));
    folder.insert(WEIGHTS.to_owned(), stored(&all));
    folder
}

fn same(key: &str, tensor: Stored) -> (String, Stored) {
    (key.to_owned(), tensor)
}

/// Targets and bytes of the edits.
fn meant(converted: &Converted<'_>) -> Vec<(String, Vec<u8>)> {
    let of = |edit: &Edit<'_>| match edit {
        Edit::Lora(lora) => (lora.target.label(), [lora.up.bytes(), lora.down.bytes()].concat()),
        other => panic!("{other:?}"),
    };
    converted.adapter.edits.iter().map(of).collect()
}

#[test]
fn wrappers_of_the_training_are_looked_through_and_told() {
    let base = base("peft/linear");
    let original = plain(same, &[]);
    let wanted = meant(&read(&files(&original), &on(&base)).unwrap());
    let at = |key: &str, from: &str, to: &str| key.replace(from, to);
    type Change = fn(&str, &dyn Fn(&str, &str, &str) -> String) -> String;
    let changes: [(Change, Option<&Rule>); 4] = [
        // FSDP, as Axolotl and accelerate wrap a model and each of its layers.
        (
            |key, at| {
                at(
                    &at(key, "model.layers.", "_fsdp_wrapped_module.model.layers."),
                    ".0.",
                    ".0._fsdp_wrapped_module.",
                )
            },
            Some(&rules::P_KEY_WRAPPED),
        ),
        (
            |key, at| at(key, ".self_attn.", "._checkpoint_wrapped_module.self_attn."),
            Some(&rules::P_KEY_WRAPPED),
        ),
        (|key, at| at(key, ".weight", ".default.weight"), Some(&rules::P_KEY_ADAPTER_NAME)),
        (|key, at| at(key, "base_model.model.", "base_model.model._orig_mod."), None),
    ];
    for (change, rule) in changes {
        let folder = plain(|key, tensor| (change(key, &at), tensor), &[]);
        let converted = read(&files(&folder), &on(&base)).unwrap();
        assert_eq!(meant(&converted), wanted);
        assert_eq!(rule.is_some_and(|rule| has(&converted.findings, rule)), rule.is_some());
        let written = write(&converted.adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
        assert_eq!(written.losses, []);
    }
}

#[test]
fn a_value_head_of_trl_is_kept_and_changes_nothing() {
    let base = base("peft/linear");
    let head = (Dtype::F32, vec![1, 16], vec![0; 64]);
    for key in ["v_head.summary.weight", "base_model.model.v_head.summary.weight"] {
        let folder = plain(same, &[(key, head.clone())]);
        let original = plain(same, &[]);
        let converted = read(&files(&folder), &on(&base)).unwrap();
        assert_eq!(meant(&converted), meant(&read(&files(&original), &on(&base)).unwrap()));
        let found = &converted.findings;
        assert!(has(found, &rules::P_VALUE_HEAD) && !has(found, &rules::P_KEY_PREFIX), "{found:?}");
        let written = write(&converted.adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).unwrap();
        let mut bytes = Vec::new();
        written.files.iter().find(|file| file.path == WEIGHTS).unwrap().write_to(&mut bytes).unwrap();
        assert!(tensors(&bytes) == tensors(&folder[WEIGHTS]));
    }
}

#[test]
fn keys_of_other_trainers_in_the_config_are_told_and_read_over() {
    let base = base("peft/linear");
    // Unsloth's mark lies inside a map that PEFT reads; LLaMA-Factory's arguments are no keys of PEFT's.
    let cases = [
        (
            json!({"auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama", "unsloth_fixed": true}}),
            0,
        ),
        (json!({"additional_target": ["embed_tokens"], "pissa_convert": true}), 2),
    ];
    for (more, count) in cases {
        let mut folder = plain(same, &[]);
        let mut config: Value = serde_json::from_slice(&folder[CONFIG]).unwrap();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        folder.insert(CONFIG.to_owned(), config.to_string().into_bytes());
        let converted = read(&files(&folder), &on(&base)).unwrap();
        let told = converted.findings.iter().filter(|finding| finding.code == rules::P_CONFIG_KEY.code);
        assert_eq!(told.count(), count, "{:?}", converted.findings);
    }
}

#[test]
fn empty_tensors_of_zero_3_are_named() {
    let folder = plain(
        |key, tensor| {
            let is_first = key.contains("layers.0.") && key.contains("lora_A");
            (key.to_owned(), if is_first { (tensor.0, vec![0], Vec::new()) } else { tensor })
        },
        &[],
    );
    assert!(has(&check(&files(&folder), None).unwrap(), &rules::P_SHAPE));
}

#[test]
fn checkpoints_of_a_training_under_way_are_no_adapters() {
    let cases: [(&str, &str); 3] = [
        ("checkpoint/__0_0.distcp", "FSDP"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "FSDP"),
        ("global_step100/mp_rank_00_model_states.pt", "DeepSpeed"),
    ];
    for (path, what) in cases {
        let files: Files<'_> =
            [(path, &b"\x80\x02}q\x00."[..]), ("trainer_state.json", &b"{}"[..])].into_iter().collect();
        let error = detect(&files).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(what), "{error}");
    }
}
