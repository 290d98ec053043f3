//! Damage that PEFT refuses, warns of or merges in silence: each is found by its code, and refused where it contradicts.

use crate::fixture::{Base, Folder, cases, root};
use fitment_convert::{Error, FormatId, Loss, ReadOptions, peft, read};
use fitment_core::{Finding, Severity};
use serde_json::{Map, Value};

#[derive(Debug, PartialEq)]
enum Fate {
    /// Reads, with these warnings and notes.
    Reads,
    /// Breaks a rule.
    Malformed,
    /// Refused by name.
    Unsupported,
    /// Does not fit the base.
    Unmapped,
    Mismatch,
}

use Fate::{Malformed, Mismatch, Reads, Unmapped, Unsupported};

/// Case, fate on the base of `linear`, codes of `peft::check`.
const CASES: &[(&str, Fate, &[&str])] = &[
    ("adapter_name_kept", Reads, &["P014"]),
    ("alpha_missing", Malformed, &["P006"]),
    ("alpha_zero", Reads, &["P007"]),
    ("b_all_zero", Reads, &["E013"]),
    ("b_missing", Malformed, &["P017"]),
    ("config_missing", Malformed, &["P001"]),
    ("config_not_json", Malformed, &["P002"]),
    ("empty_file", Malformed, &["C001"]),
    ("extra_key", Malformed, &["P015"]),
    ("extra_layer", Unmapped, &[]),
    ("git_lfs_pointer", Malformed, &["P012"]),
    ("header_not_json", Malformed, &["C004"]),
    ("header_too_long", Malformed, &["C002"]),
    ("inf", Malformed, &["E012"]),
    ("integer_factor", Malformed, &["P019"]),
    ("layer_missing", Reads, &[]),
    ("nan", Malformed, &["E012"]),
    ("no_tensors", Malformed, &["P030"]),
    ("offsets_wrong", Malformed, &["C010"]),
    ("other_adapter_name_kept", Reads, &["P014"]),
    ("pickle_code", Malformed, &["T001"]),
    ("pickle_number", Malformed, &["P012"]),
    ("pickle_truncated", Malformed, &["T003"]),
    ("prefix_bare", Reads, &[]),
    ("prefix_missing", Reads, &["P013"]),
    ("prefix_wrapper", Reads, &[]),
    ("rank_mismatch", Malformed, &["P018"]),
    ("rank_missing", Malformed, &["P020"]),
    ("rank_wrong_in_config", Malformed, &["P020"]),
    ("targets_hit_nothing", Malformed, &["P021"]),
    ("targets_too_few", Malformed, &["P021"]),
    ("targets_too_many", Reads, &["P022"]),
    ("transposed", Malformed, &["P020"]),
    ("truncated", Malformed, &["C013"]),
    ("type_missing", Malformed, &["P003"]),
    ("unknown_key", Reads, &["P004"]),
    ("unknown_type", Unsupported, &["P005"]),
    ("weights_missing", Malformed, &["P011"]),
    ("wrong_shape", Mismatch, &[]),
    ("zero_size", Malformed, &["P018"]),
];

#[test]
fn every_damage_has_its_code_and_its_fate() {
    let base = Base::read(&root().join("linear/base"));
    let cases = cases(&root().join("damaged"));
    assert!(cases.iter().map(|(name, ..)| name.as_str()).eq(CASES.iter().map(|(name, ..)| *name)));
    for ((name, path, _), (_, fate, codes)) in cases.iter().zip(CASES) {
        let folder = Folder::read(&path.join("adapter"));
        let files = folder.files();
        let mut found: Vec<&str> =
            peft::check(&files, None).unwrap().iter().map(|finding| finding.code.0).collect();
        found.dedup();
        assert_eq!(found, *codes, "{name}");
        let from = Some(FormatId::Peft);
        let result = read(&files, &ReadOptions { base: Some(&base), from, ..ReadOptions::default() });
        let found = match &result {
            Ok(_) => Reads,
            Err(Error::Malformed { findings }) => {
                assert!(findings.iter().all(|finding| finding.severity == Severity::Error));
                Malformed
            }
            Err(Error::Unsupported { .. }) => Unsupported,
            Err(Error::Unmapped { .. }) => Unmapped,
            Err(Error::Mismatch { .. }) => Mismatch,
            Err(other) => panic!("{name}: {other}"),
        };
        assert_eq!(found, *fate, "{name}");
        assert!(!result.err().is_some_and(|error| error.to_string().contains('\n')), "{name}");
    }
}

fn on_base(name: &str) -> (Vec<Finding>, Vec<Loss>) {
    let base = Base::read(&root().join("linear/base"));
    let folder = Folder::read(&root().join("damaged").join(name).join("adapter"));
    let converted =
        read(&folder.files(), &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap();
    (converted.findings, converted.losses)
}

#[test]
fn a_module_that_is_missing_is_seen_against_the_base() {
    let (findings, _) = on_base("layer_missing");
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].code.0, findings[0].place.as_str()), ("P031", "model.layers.0.self_attn.q_proj"));
}

#[test]
fn names_of_another_class_are_found_and_told() {
    for (name, from) in [("prefix_bare", "layers.0"), ("prefix_wrapper", "model.language_model.layers.0")] {
        let (findings, losses) = on_base(name);
        assert_eq!(findings, []);
        let [Loss::Renamed { from: found, to, targets: 14 }] = &losses[..] else { panic!("{losses:?}") };
        assert!(found.starts_with(from), "{found}");
        assert!(to.starts_with("model.layers.0"), "{to}");
    }
}

#[test]
fn messages_name_the_culprit_and_both_sides() {
    let base = Base::read(&root().join("linear/base"));
    let message = |name: &str| {
        let folder = Folder::read(&root().join("damaged").join(name).join("adapter"));
        let options = ReadOptions { base: Some(&base), from: Some(FormatId::Peft), ..ReadOptions::default() };
        let error = read(&folder.files(), &options).unwrap_err();
        format!("{error} | {}", error.hint().unwrap_or_default())
    };
    assert_eq!(
        message("extra_layer"),
        "the base has no tensor model.layers.9.self_attn.q_proj.weight (nearest: model.layers.1.self_attn.q_proj.weight) | \
         the adapter was made for another model, or for another class of this one: check --base"
    );
    assert_eq!(
        message("wrong_shape"),
        "model.layers.0.self_attn.q_proj.weight: the adapter asks for [16, 15] or its transpose, the base has F32 [16, 16] | \
         the adapter was made for another base: check --base"
    );
}

fn read_on(adapter: &str, base: &str, change: impl Fn(&mut Map<String, Value>)) -> Error {
    let mut folder = Folder::read(&root().join(adapter).join("adapter"));
    folder.change_config(change);
    let base = Base::read(&root().join(base).join("base"));
    read(&folder.files(), &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap_err()
}

#[test]
fn a_bias_that_the_base_lacks_is_refused_by_name() {
    let error = read_on("lora_bias", "linear", |_| {});
    let Error::Unsupported { what, .. } = error else { panic!("{error}") };
    assert_eq!(what, "model.layers.0.mlp.down_proj.bias");
}

#[test]
fn token_rows_beyond_the_vocabulary_are_refused() {
    let error = read_on("trainable_tokens", "trainable_tokens", |config| {
        config.insert("trainable_token_indices".to_owned(), serde_json::json!([7, 3, 48]));
    });
    assert_eq!(
        error.to_string(),
        "model.embed_tokens.weight: the adapter asks for row 48, the base has 48 rows"
    );
}

#[test]
fn a_flag_that_peft_takes_back_is_told() {
    let base = Base::read(&root().join("llama_fan_in_fan_out/base"));
    let folder = Folder::read(&root().join("llama_fan_in_fan_out/adapter"));
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let findings = read(&folder.files(), &options).unwrap().findings;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((finding.code.0, finding.severity), ("P033", Severity::Warning));
    assert!(finding.message.contains("is stored as [out, in]"), "{}", finding.message);
}
