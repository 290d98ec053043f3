//! AdapterHub's ReFT: what is asked for, damage, and configs that contradict their tensors.
#![allow(clippy::unwrap_used, reason = "tests")]

use fitment_convert::{Error, Files, FormatId, ReadOptions, adapters, detect, read};
use fitment_core::container::{Entry, read_foreign, write_container};
use fitment_core::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// The config and the weights of a fixture.
fn load(case: &str) -> (String, Vec<u8>) {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/adapters").join(case).join("adapter");
    let config = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    (config, std::fs::read(folder.join("adapter.safetensors")).unwrap())
}

fn files<'a>(config: &'a str, weights: &'a [u8]) -> Files<'a> {
    [("adapter_config.json", config.as_bytes()), ("adapter.safetensors", weights)].into_iter().collect()
}

fn codes(config: &str, weights: &[u8]) -> Vec<&'static str> {
    let findings = adapters::check(&files(config, weights), None).unwrap();
    findings.iter().map(|finding| finding.code.0).collect()
}

#[test]
fn noreft_and_direft_are_told_apart_by_the_user() {
    let (config, weights) = load("noreft");
    let files = files(&config, &weights);
    assert_eq!(detect(&files).unwrap(), FormatId::Adapters);
    let error = read(&files, &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }) && error.hint().unwrap().contains("--formula noreft"));
    let options = ReadOptions { formula: Some("loreft2"), ..ReadOptions::default() };
    assert!(read(&files, &options).unwrap_err().to_string().starts_with("--formula loreft2"));
}

#[test]
fn other_methods_are_refused_by_name() {
    let (_, weights) = load("noreft");
    for (config, method) in [
        (r#"{"config": {"architecture": "lora", "composition_mode": "scale"}, "model_type": "bert"}"#, "IA3"),
        (r#"{"config": {"architecture": "lora", "use_dora": true}, "model_type": "bert"}"#, "use_dora"),
        (r#"{"config": {"architecture": "lora", "use_gating": true}, "model_type": "bert"}"#, "use_gating"),
        (r#"{"config": {"architecture": "lora", "vera_d": 0.1}, "model_type": "bert"}"#, "VeRA"),
        (r#"{"config": {"architecture": "mtl_lora"}, "model_type": "bert"}"#, "mtl_lora"),
        (r#"{"config": {"reduction_factor": 16}, "model_type": "t5"}"#, "model_type t5"),
        (r#"{"config": {"architecture": "prefix_tuning"}, "model_type": "bert"}"#, "prefix_tuning"),
        (r#"{"config": {"architecture": "union", "configs": []}, "model_type": "bert"}"#, "union"),
    ] {
        let error = read(&files(config, &weights), &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(method), "{error}");
        assert_eq!(codes(config, &weights), ["H005"]);
    }
}

#[test]
fn parts_of_bottleneck_adapters_without_an_edit_are_refused_by_name() {
    let (config, weights) = load("bn_houlsby_bert");
    assert_eq!(codes(&config, &weights), Vec::<&str>::new());
    for (from, to, name) in [
        ("\"phm_layer\": false", "\"phm_layer\": true", "phm_layer"),
        ("\"use_gating\": false", "\"use_gating\": true", "use_gating"),
        ("\"ln_before\": false", "\"ln_before\": true", "ln_before"),
        ("\"ln_after\": false", "\"ln_after\": true", "ln_after"),
        ("\"cross_adapter\": false", "\"cross_adapter\": true", "cross_adapter"),
        ("\"inv_adapter\": null", "\"inv_adapter\": \"nice\"", "inv_adapter"),
        ("\"scaling\": 1.0", "\"scaling\": \"channel\"", "channel"),
        ("\"original_ln_after\": true", "\"original_ln_after\": false", "original_ln_after"),
        ("\"original_ln_before\": false", "\"original_ln_before\": true", "pfeiffer"),
        ("\"residual_before_ln\": true", "\"residual_before_ln\": \"post_add\"", "post_add"),
        ("\"model_type\": \"bert\"", "\"model_type\": \"albert\"", "albert"),
    ] {
        // Quotes and all: `ln_before` is the end of another key too.
        assert!(config.contains(from), "{from}");
        let changed = config.replace(from, to);
        assert_eq!(codes(&changed, &weights), ["H005"], "{to}");
        let error = read(&files(&changed, &weights), &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
    }
    let mut told = files(&config, &weights);
    told.insert("adapter_interface.json", b"{}");
    assert_eq!(adapters::check(&told, None).unwrap()[0].code.0, "H005");
    // Behind attention no module of a Llama puts out the sum.
    let (config, weights) = load("bn_parallel_llama");
    let sums = config.replace("\"is_parallel\": true", "\"is_parallel\": false");
    let sums = sums.replace("\"original_ln_before\": false", "\"original_ln_before\": true");
    assert_eq!(codes(&sums, &weights), ["H005"]);
}

#[test]
fn damaged_bottleneck_adapters_and_loras_are_refused() {
    let (config, weights) = load("bn_houlsby_bert");
    for (from, to, code) in [
        ("\"mh_adapter\": true", "\"mh_adapter\": false", "H018"),
        ("\"leave_out\": []", "\"leave_out\": [1]", "H014"),
        ("\"hidden_size\": 16", "\"hidden_size\": 24", "H015"),
        ("\"name\": \"x\"", "\"name\": \"y\"", "H016"),
        ("\"scaling\": 1.0", "\"scaling\": true", "H002"),
        ("\"non_linearity\": \"swish\"", "\"non_linearity\": \"snake\"", "H002"),
        ("\"non_linearity\": \"swish\",", "", "H002"),
    ] {
        assert!(config.contains(from), "{from}");
        assert_eq!(codes(&config.replace(from, to), &weights), [code], "{to}");
    }
    // A learned scale that is not there, and one that nothing asks for.
    let learned = config.replace("\"scaling\": 1.0", "\"scaling\": \"learned\"");
    assert!(codes(&learned, &weights).contains(&"H007"));
    let (other, scaled) = load("bn_parallel_llama");
    assert!(codes(&other.replace("\"scaling\": \"learned\"", "\"scaling\": 2.0"), &scaled).contains(&"H006"));
    assert!(codes(&other, &weights).contains(&"H006"));
    let (config, lora) = load("lora_gpt2");
    assert_eq!(codes(&config, &lora), Vec::<&str>::new());
    assert!(codes(&config.replace("\"r\": 2", "\"r\": 3"), &lora).contains(&"H008"));
    assert_eq!(codes(&config.replace("\"r\": 2", "\"r\": 0"), &lora), ["H002"]);
    assert_eq!(codes(&config.replace("\"leave_out\": []", "\"leave_out\": [2]"), &lora), ["H014"]);
    let three = config.replace("\"v\",", "\"v\", \"k\",");
    assert!(codes(&three, &lora).contains(&"H008"));
    for weights in [&weights, &lora, &scaled] {
        for len in (0..weights.len()).step_by(499) {
            let _ = read(&files(&config, &weights[..len]), &ReadOptions::default());
            let _ = read(&files(&learned, &weights[..len]), &ReadOptions::default());
        }
    }
}

/// Such a block has no site: the adapter must not become one that does nothing.
#[test]
fn blocks_that_are_no_modules_are_refused() {
    for case in ["bn_parallel_llama", "bn_houlsby_gpt2", "noreft"] {
        let (config, weights) = load(case);
        let container = read_foreign(&weights).unwrap();
        let tensor = |entry: &Entry| {
            let bytes = weights[container.data_range(entry)].to_vec();
            (
                format!("odd name.{}", entry.name),
                Tensor::owned(entry.dtype, entry.shape.clone(), bytes).unwrap(),
            )
        };
        let tensors: Vec<(String, Tensor<'_>)> = container.entries().iter().map(tensor).collect();
        let mut renamed = Vec::new();
        let items = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_container(&BTreeMap::new(), items, &mut renamed).unwrap();
        let error = read(&files(&config, &renamed), &ReadOptions::default()).unwrap_err();
        assert!(error.to_string().contains("H006"), "{case}: {error}");
    }
}

#[test]
fn tensors_win_over_the_config_and_a_finding_says_so() {
    let (config, weights) = load("noreft");
    assert_eq!(codes(&config, &weights), Vec::<&str>::new());
    for (from, to, code) in [
        ("\"r\": 2", "\"r\": 4", "H011"),
        ("\"orthogonality\": false", "\"orthogonality\": true", "H012"),
        ("\"tied_weights\": false", "\"tied_weights\": true", "H013"),
        ("      2\n", "      1\n", "H014"),
        ("\"hidden_size\": 16", "\"hidden_size\": 24", "H015"),
        ("\"name\": \"x\"", "\"name\": \"y\"", "H016"),
        ("\"suffix_positions\": 3", "\"suffix_positions\": 0", "H017"),
    ] {
        assert!(config.contains(from), "{from}");
        let changed = config.replace(from, to);
        assert_eq!(codes(&changed, &weights), [code]);
        let options = ReadOptions { formula: Some("direft"), ..ReadOptions::default() };
        let converted = read(&files(&changed, &weights), &options).unwrap();
        assert_eq!(converted.findings[0].code.0, code);
        assert_eq!(converted.adapter.edits.len(), if code == "H017" { 2 } else { 4 });
        fitment_core::to_bytes(&converted.adapter).unwrap();
    }
}

#[test]
fn damage_is_refused() {
    let (config, weights) = load("loreft");
    for (from, to, code) in [
        ("\"prefix_positions\": 2", "\"prefix_positions\": -2", "H002"),
        ("\"non_linearity\": null", "\"non_linearity\": \"snake\"", "H002"),
        ("\"tied_weights\": false", "\"tied_weights\": 1", "H002"),
        ("{", "[", "H002"),
    ] {
        let changed = config.replacen(from, to, 1);
        assert_eq!(codes(&changed, &weights), [code], "{from}");
        let options = ReadOptions { from: Some(FormatId::Adapters), ..ReadOptions::default() };
        assert!(matches!(read(&files(&changed, &weights), &options), Err(Error::Malformed { .. })));
    }
    let none = config.replace("\"prefix_positions\": 2", "\"prefix_positions\": 0");
    let none = none.replace("\"suffix_positions\": 3", "\"suffix_positions\": 0");
    assert!(codes(&none, &weights).contains(&"H010"));
    // A missing base, an unknown key: the header with another name of the same length.
    let find = |text: &[u8]| weights.windows(text.len()).position(|window| window == text).unwrap();
    for (from, to, wanted) in [
        (
            &b"0.projection.parametrizations.weight.0.base"[..],
            &b"0.projection.parametrizations.weight.0.bass"[..],
            ["H006", "H007"],
        ),
        (&b"model.layers.0.reft_layer"[..], &b"model.layers.x.reft_layer"[..], ["H006", "H007"]),
    ] {
        let at = find(from);
        let mut changed = weights.clone();
        changed[at..at + to.len()].copy_from_slice(to);
        assert_eq!(codes(&config, &changed), wanted);
    }
    let alone: Files<'_> = [("adapter.safetensors", &weights[..])].into_iter().collect();
    assert_eq!(adapters::check(&alone, None).unwrap()[0].code.0, "H001");
    let alone: Files<'_> = [("adapter_config.json", config.as_bytes())].into_iter().collect();
    assert_eq!(adapters::check(&alone, None).unwrap()[0].code.0, "H003");
    // Cut short anywhere, nothing panics.
    for len in (0..weights.len()).step_by(997) {
        let _ = read(&files(&config, &weights[..len]), &ReadOptions::default());
    }
}
