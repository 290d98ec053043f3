//! Adapters that PEFT itself wrote: sound ones pass, and every damage that PEFT passes over in silence is a finding.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{Files, ReadOptions};
use fitment_core::Severity;
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::container::{read_foreign, write_container};
use fitment_core::tensor::Tensor;
use fitment_validate::output::{Style, text};
use fitment_validate::{Input, Options, Outcome, validate};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/peft")
}

/// Files of a folder and its sub-folders, by relative path.
fn load(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files.extend(load(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

/// All shards of a base as one buffer, and its config.
struct Base {
    bytes: Vec<u8>,
    config: Option<serde_json::Map<String, Value>>,
}

impl Base {
    fn load(folder: &Path) -> Self {
        let files = load(folder);
        let mut tensors: Vec<(String, Tensor<'_>)> = Vec::new();
        for bytes in files.iter().filter(|(name, _)| name.ends_with(".safetensors")).map(|(_, bytes)| bytes) {
            let container = read_foreign(bytes).unwrap();
            for entry in container.entries() {
                let data = &bytes[container.data_range(entry)];
                let tensor = Tensor::borrowed(entry.dtype, entry.shape.clone(), data).unwrap();
                tensors.push((entry.name.clone(), tensor));
            }
        }
        let mut bytes = Vec::new();
        let items = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_container(&BTreeMap::new(), items, &mut bytes).unwrap();
        let config = files.get("config.json").map(|bytes| serde_json::from_slice(bytes).unwrap());
        Self { bytes, config }
    }

    /// The same tensors under every name that a function makes of theirs.
    fn renamed(&self, rename: impl Fn(&str) -> Vec<String>) -> Self {
        let container = read_foreign(&self.bytes).unwrap();
        let mut tensors: Vec<(String, Tensor<'_>)> = Vec::new();
        for entry in container.entries() {
            let data = &self.bytes[container.data_range(entry)];
            let tensor = Tensor::borrowed(entry.dtype, entry.shape.clone(), data).unwrap();
            tensors.extend(rename(&entry.name).into_iter().map(|name| (name, tensor.clone())));
        }
        let mut bytes = Vec::new();
        let items = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_container(&BTreeMap::new(), items, &mut bytes).unwrap();
        Self { bytes, config: self.config.clone() }
    }

    fn checkpoint(&self) -> MemoryCheckpoint<'_> {
        MemoryCheckpoint::new(&self.bytes, self.config.clone()).unwrap()
    }
}

struct Case {
    name: String,
    about: Value,
    adapter: BTreeMap<String, Vec<u8>>,
    base: Option<Base>,
}

impl Case {
    fn load(name: &str) -> Self {
        let folder = fixtures().join(name);
        let about: Value = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        let base = about["base"].as_str().map(|base| folder.join(base)).filter(|base| base.exists());
        let adapter = load(&folder.join(about["adapter"].as_str().unwrap()));
        Self { name: name.to_owned(), about, adapter, base: base.map(|base| Base::load(&base)) }
    }

    fn outcome(&self, with_base: bool) -> Outcome {
        let files: Files<'_> = self.adapter.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let checkpoint = self.base.as_ref().filter(|_| with_base).map(Base::checkpoint);
        let base = checkpoint.as_ref().map(|base| base as &dyn Checkpoint);
        let input = Input { name: "adapter", files: &files, options: ReadOptions::default() };
        validate(&input, base, &Options::default()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn cases(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(fixtures().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("case.json").exists())
        .map(|entry| format!("{folder}{}", entry.file_name().to_str().unwrap()))
        .collect();
    names.sort();
    assert!(names.len() >= 25, "only {} cases in {folder:?}", names.len());
    names
}

/// Codes at or above a severity, each once.
fn codes(outcome: &Outcome, least: Severity) -> BTreeSet<&'static str> {
    let bad = outcome.findings.iter().filter(|finding| finding.severity >= least);
    bad.map(|finding| finding.code.0).collect()
}

fn is_refused(name: &str) -> bool {
    name.starts_with("refused_") || name == "conv2d_groups"
}

#[test]
fn sound_adapters_have_no_error_with_their_base_and_without() {
    for name in cases("").into_iter().filter(|name| !is_refused(name)) {
        let case = Case::load(&name);
        let outcome = case.outcome(true);
        assert_eq!(codes(&outcome, Severity::Error), BTreeSet::new(), "{name}: {outcome:#?}");
        assert!(outcome.checked.base && outcome.checked.weights, "{name}");
        let alone = case.outcome(false);
        assert_eq!(codes(&alone, Severity::Error), BTreeSet::new(), "{name}: {alone:#?}");
        assert!(codes(&alone, Severity::Note).contains("B017"), "{name}");
    }
}

#[test]
fn what_is_refused_by_name_has_that_one_finding() {
    for name in cases("").into_iter().filter(|name| is_refused(name)) {
        let outcome = Case::load(&name).outcome(true);
        assert_eq!(codes(&outcome, Severity::Note), BTreeSet::from(["P005"]), "{name}: {outcome:#?}");
        // Most are refused for their method; a tie that cannot come apart shows only beside the base.
        let shows_beside_base = name == "refused_t5_tied_head";
        let wanted = (shows_beside_base, shows_beside_base);
        assert_eq!((outcome.checked.format, outcome.checked.base), wanted, "{name}");
        assert!(!outcome.checked.weights, "{name}");
    }
}

#[test]
fn damage_that_passes_unnoticed_is_an_error_and_all_other_a_warning() {
    let mut table = String::new();
    for name in cases("damaged/") {
        let case = Case::load(&name);
        let effect = case.about["effect"].as_str().unwrap_or("refused");
        let harmless = effect.starts_with("of 14 merged tensors 14 as with the sound adapter");
        let outcome = case.outcome(true);
        // PEFT says what is missing and goes on, and so does `apply`: the result is the file's.
        let is_told = name.ends_with("/layer_missing");
        let least = if harmless || is_told { Severity::Warning } else { Severity::Error };
        assert!(!codes(&outcome, least).is_empty(), "{name} ({effect}): {outcome:#?}");
        let codes: Vec<&str> = codes(&outcome, Severity::Warning).into_iter().collect();
        let short = name.trim_start_matches("damaged/");
        table.push_str(&format!("{short}: {}\n", codes.join(" ")));
    }
    insta::assert_snapshot!(table, @"
    adapter_name_kept: P014
    alpha_missing: P006
    alpha_zero: B014 P007
    b_all_zero: B014 E013
    b_missing: P017
    config_missing: P001
    config_not_json: P002
    empty_file: C001
    extra_key: P015
    extra_layer: B001
    git_lfs_pointer: P012
    header_not_json: C004
    header_too_long: C002
    inf: E012
    integer_factor: P019
    layer_missing: P031
    nan: E012
    no_tensors: P030
    offsets_wrong: C010
    other_adapter_name_kept: B002 P014
    pickle_code: T001
    pickle_number: P012
    pickle_truncated: T003
    prefix_bare: B002
    prefix_missing: B002 P013
    prefix_wrapper: B002
    rank_mismatch: P018
    rank_missing: P020
    rank_wrong_in_config: P020
    targets_hit_nothing: P021
    targets_too_few: P021
    targets_too_many: P022 P031
    transposed: P020
    truncated: C013
    type_missing: P003
    unknown_key: P004
    unknown_type: P005
    weights_missing: P011
    wrong_shape: B003
    zero_size: P018
    ");
}

#[test]
fn a_silent_no_op_shows_the_name_in_the_base() {
    let lines: String = ["prefix_bare", "prefix_wrapper", "prefix_missing", "other_adapter_name_kept"]
        .map(|name| {
            let outcome = Case::load(&format!("damaged/{name}")).outcome(true);
            let text = text(&[outcome], &Style::default());
            text.lines()
                .filter(|line| line.starts_with("error"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        })
        .concat();
    insta::assert_snapshot!(lines, @r#"
    error[B002] adapter: base_model.model.layers.0.mlp.down_proj.lora_A.weight: the adapter was made on the bare model, its task_type is one of a class with a head: "layers.0.mlp.down_proj" is "model.layers.0.mlp.down_proj" in the base, and passed over by its class (so are 13 more modules)
    error[B002] adapter: base_model.model.model.language_model.layers.0.mlp.down_proj.lora_A.weight: the adapter was made on a multimodal class, the base is a language model alone: "model.language_model.layers.0.mlp.down_proj" is "model.layers.0.mlp.down_proj" in the base, and passed over by its class (so are 13 more modules)
    error[B002] adapter: model.layers.0.mlp.down_proj.lora_A.weight: without "base_model.model." before it the key is passed over by PEFT and by servers (so are 13 more modules)
    error[B002] adapter: base_model.model.model.layers.0.mlp.down_proj.lora_A.tuned.weight: with "tuned" in it the key is found only by a loader that gives the adapter this name (so are 13 more modules)
    "#);
}

#[test]
fn an_adapter_on_another_base_is_told_apart() {
    let mut case = Case::load("linear");
    case.base = Some(Base::load(&fixtures().join("gpt2_conv1d/base")));
    let outcome = case.outcome(true);
    assert_eq!(codes(&outcome, Severity::Error), BTreeSet::from(["B001"]));
    assert_eq!(outcome.count(Severity::Error), 14, "every module of the adapter is named");
}

#[test]
fn what_only_a_base_can_tell_is_noted_without_one() {
    let outcome = Case::load("gpt2_conv1d_square").outcome(false);
    assert_eq!(codes(&outcome, Severity::Note), BTreeSet::from(["B017"]));
    assert!(outcome.findings[0].message.starts_with("without a base this cannot be known"), "{outcome:#?}");
    assert!(!outcome.checked.weights);
}

/// Findings of a fixture's adapter on its base under other names, but for the note about coverage.
fn on_renamed(name: &str, rename: impl Fn(&str) -> Vec<String>) -> String {
    let mut case = Case::load(name);
    case.base = case.base.map(|base| base.renamed(rename));
    let findings = case.outcome(true).findings;
    let shown = findings.iter().filter(|finding| finding.code.0 != "B012");
    shown.map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn a_text_adapter_on_a_multimodal_base_is_passed_over_by_its_class() {
    let found = on_renamed("linear", |name| vec![format!("language_model.{name}")]);
    insta::assert_snapshot!(found, @r#"error[B002] base_model.model.model.layers.0.mlp.down_proj.lora_A.weight: the adapter was made on the language model alone, the base is multimodal: "model.layers.0.mlp.down_proj" is "language_model.model.layers.0.mlp.down_proj" in the base, and passed over by its class (so are 13 more modules)"#);
}

#[test]
fn names_of_a_newer_multimodal_class_are_found_in_an_older_checkpoint() {
    let tower = |name: &str| match name {
        "lm_head.weight" => vec![name.to_owned(), "visual.merger.weight".to_owned()],
        _ => vec![name.to_owned()],
    };
    assert_eq!(on_renamed("damaged/prefix_wrapper", tower), "");
}

#[test]
fn a_base_with_two_fitting_towers_is_ambiguous() {
    let found = on_renamed("linear", |name| vec![format!("text.{name}"), format!("vision.{name}")]);
    insta::assert_snapshot!(found, @"error[B019] which base tensor model.layers.0.mlp.down_proj.weight is: both text.model.layers.0.mlp.down_proj.weight and vision.model.layers.0.mlp.down_proj.weight fit all modules (give the part of the model that the adapter was trained on as --base)");
}

#[test]
fn a_quantised_base_is_told_by_name() {
    let found = on_renamed("linear", |name| match name.strip_suffix("proj.weight") {
        Some(stem) => ["qweight", "scales", "g_idx"].map(|part| format!("{stem}proj.{part}")).to_vec(),
        None => vec![name.to_owned()],
    });
    insta::assert_snapshot!(found, @"error[B011] model.layers.0.mlp.down_proj.qweight: the base is quantised (use the 16-bit checkpoint that it was quantised from)");
}

#[test]
fn headers_alone_say_nothing_that_the_whole_files_do_not() {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let inner = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        inner.filter(|path| path.is_dir()).collect()
    };
    let mut checked = 0;
    let cases = folders(fixtures().parent().unwrap()).into_iter().flat_map(|format| folders(&format));
    for case in cases.map(|case| case.join("adapter")).filter(|case| case.is_dir()) {
        let whole = load(&case);
        let mut headers = whole.clone();
        for (_, bytes) in headers.iter_mut().filter(|(path, _)| path.ends_with(".safetensors")) {
            let Ok(container) = read_foreign(bytes) else { continue };
            let weights = container.entries().iter().filter(|entry| entry.dtype.is_weight());
            let ranges: Vec<_> = weights.map(|entry| container.data_range(entry)).collect();
            ranges.into_iter().for_each(|range| bytes[range].fill(0));
        }
        let codes = |files: &BTreeMap<String, Vec<u8>>, options: &Options| {
            let files: Files<'_> = files.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect();
            let input = Input { name: "a", files: &files, options: ReadOptions::default() };
            let findings = validate(&input, None, options).ok()?.findings;
            Some(findings.iter().map(|finding| finding.code.0).collect::<BTreeSet<_>>())
        };
        let Some(of_whole) = codes(&whole, &Options::default()) else { continue };
        let found = codes(&headers, &Options { structure_only: true, ..Options::default() }).unwrap();
        let more: Vec<_> = found.difference(&of_whole).copied().collect();
        assert!(more.is_empty(), "{}: {more:?}", case.display());
        checked += 1;
    }
    assert!(checked > 150, "{checked}");
}
