//! Every PEFT fixture through the whole program: convert, validate, apply, and back, against PEFT's own merge.
//!
//! Where PEFT's merge is wrong or rounds otherwise (case.json says `expect: reference`), the oracle is the f64 arithmetic
//! of the formula, rounded once, which make.py checked against the logits of the unmerged PEFT model.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::checkpoint::Checkpoint;
use fitment_core::tensor::Dtype;
use fitment_io::{Access, CheckpointDir};
use fitment_tests::compare::distance;
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// One folder of `fixtures/peft`.
struct Case {
    name: String,
    folder: PathBuf,
    facts: Value,
}

impl Case {
    fn all(below: &str) -> Vec<Case> {
        let mut cases: Vec<Case> = fs::read_dir(fixture(below))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|folder| {
                let facts = fs::read(folder.join("case.json")).ok()?;
                let name = folder.file_name()?.to_str()?.to_owned();
                Some(Case { name, facts: serde_json::from_slice(&facts).unwrap(), folder })
            })
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    fn fact(&self, key: &str) -> &str {
        self.facts[key].as_str().unwrap_or_default()
    }

    fn base(&self) -> PathBuf {
        self.folder.join(self.fact("base"))
    }

    /// The folder of an adapter inside the case, and the name under which the program finds it.
    fn adapters(&self) -> Vec<(PathBuf, Option<String>, String)> {
        let root = self.folder.join("adapter");
        match self.facts["adapters"].as_object() {
            None => vec![(root, None, format!("{}.safetensors", self.fact("expect")))],
            Some(adapters) => adapters
                .keys()
                .map(|name| {
                    let suffix = if name == "default" { String::new() } else { format!("_{name}") };
                    (root.clone(), Some(name.clone()), format!("merged{suffix}.safetensors"))
                })
                .collect(),
        }
    }
}

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    fitment().args(arguments).output().unwrap()
}

#[track_caller]
fn succeed(name: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let output = run(arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{name}: {err}{}", String::from_utf8_lossy(&output.stdout));
    output
}

#[test]
fn every_mergeable_adapter_gives_the_expected_weights_and_comes_back_unchanged() {
    let mut totals = (0, 0);
    let mut count = 0;
    for case in Case::all("peft").iter().filter(|case| case.fact("expect") != "refused") {
        for (adapter, name, expected) in case.adapters() {
            let (different, elements) = whole_way(case, &adapter, name.as_deref(), &expected);
            totals = (totals.0 + different, totals.1 + elements);
            count += 1;
        }
    }
    assert!(count >= 60, "{count} cases");
    let share = totals.0 as f64 / totals.1 as f64;
    assert!(share <= 1e-4, "{} of {} 16-bit elements are not the nearest", totals.0, totals.1);
}

/// Returns how many of the 16-bit elements differ from the reference.
fn whole_way(case: &Case, adapter: &Path, adapter_name: Option<&str>, expected: &str) -> (usize, usize) {
    let room = scratch();
    let (file, out) = (room.path().join("a.fitment.safetensors"), room.path().join("out"));
    let base = case.base();
    let label = format!("{} {}", case.name, adapter_name.unwrap_or_default());
    let mut convert: Vec<&dyn AsRef<std::ffi::OsStr>> =
        vec![&"convert", &adapter, &"-o", &file, &"--base", &base];
    convert.push(&"--keep-files");
    if let Some(name) = &adapter_name {
        convert.extend([&"--adapter" as &dyn AsRef<_>, name]);
    }
    succeed(&label, &convert);
    succeed(&label, &[&"validate", &file, &"--base", &base]);
    succeed(&label, &[&"apply", &base, &file, &"-o", &out]);
    let counts = compare(case, &label, &out, &case.folder.join(expected));
    // Factors of experts in an older layout go back in today's: fitment-convert's tests hold that against PEFT.
    if !case.name.starts_with("experts_0_") {
        comes_back(&label, &room.path().join("back"), &file, adapter, adapter_name);
    }
    unbound_is_the_same_or_asks(&label, &convert, (&base, &out));
    counts
}

fn compare(case: &Case, label: &str, out: &Path, expected: &Path) -> (usize, usize) {
    let open = |path: &Path| CheckpointDir::open(path, Access::Read).unwrap();
    let (base, ours, wanted) = (open(&case.base()), open(out), open(expected));
    let mut counts = (0, 0);
    for (name, info) in wanted.tensors() {
        // One delta for both uses of a tied tensor leaves it tied: the head is the embedding.
        let stays_tied =
            name == "lm_head.weight" && ours.config().is_some_and(|c| c["tie_word_embeddings"] == true);
        let home =
            if stays_tied && !ours.tensors().contains_key(name) { "model.embed_tokens.weight" } else { name };
        let found = ours.tensors().get(home).unwrap_or_else(|| panic!("{label}: {name} is missing"));
        assert_eq!(found, info, "{label}: {name}");
        let before = base.tensors().contains_key(name).then(|| base.read(name).unwrap());
        let distance =
            distance(info.dtype, &ours.read(home).unwrap(), &wanted.read(name).unwrap(), before.as_deref());
        let allowed = match info.dtype {
            Dtype::F32 => distance.relative <= 2e-6,
            Dtype::F64 => distance.relative <= 1e-14,
            _ => distance.ulps <= 1.0,
        };
        assert!(allowed, "{label}: {name}: {distance:?}");
        if matches!(info.dtype, Dtype::F16 | Dtype::BF16) {
            counts = (counts.0 + distance.different, counts.1 + distance.elements);
        }
    }
    for name in base.tensors().keys().filter(|name| !wanted.tensors().contains_key(*name)) {
        assert_eq!(ours.read(name).unwrap(), base.read(name).unwrap(), "{label}: {name} changed");
    }
    let known = |name: &&String| base.tensors().contains_key(*name) || wanted.tensors().contains_key(*name);
    let unknown: Vec<_> = ours.tensors().keys().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "{label}: {unknown:?}");
    counts
}

fn comes_back(label: &str, back: &Path, file: &Path, adapter: &Path, name: Option<&str>) {
    succeed(label, &[&"convert", &file, &"--to", &"peft", &"-o", &back]);
    let inner = match name {
        Some(name) if name != "default" => adapter.join(name),
        _ => adapter.to_owned(),
    };
    let inner = if inner.join("adapter_config.json").exists() { inner } else { only_folder(&inner) };
    let read = |folder: &Path, name: &str| {
        fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{label}: {name}: {e}"))
    };
    let back = if back.join("adapter_config.json").exists() { back.to_owned() } else { only_folder(back) };
    assert!(read(&inner, "adapter_config.json") == read(&back, "adapter_config.json"), "{label}: config");
    let open = |folder: &Path| {
        let index = "adapter_model.safetensors.index.json";
        let one = folder.join("adapter_model.safetensors");
        let pickle = folder.join("adapter_model.bin");
        match (one.exists(), pickle.exists()) {
            (true, _) => weights(&[one]),
            (false, true) => torch_weights(&pickle),
            (false, false) => weights(&shards(&folder.join(index))),
        }
    };
    assert_eq!(open(&inner), open(&back), "{label}: weights");
}

fn shards(index: &Path) -> Vec<PathBuf> {
    let index_value: Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
    let map = index_value["weight_map"].as_object().unwrap();
    let names: std::collections::BTreeSet<&str> = map.values().map(|name| name.as_str().unwrap()).collect();
    names.into_iter().map(|name| index.with_file_name(name)).collect()
}

fn only_folder(folder: &Path) -> PathBuf {
    let folders =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let folders: Vec<PathBuf> = folders.collect();
    assert_eq!(folders.len(), 1, "{}", folder.display());
    folders[0].clone()
}

/// Name, dtype, shape and bytes of every tensor.
fn weights(files: &[PathBuf]) -> Vec<(String, String, Vec<u8>)> {
    let mut all = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        all.extend(tensors.iter().map(|(name, tensor)| {
            (name.to_owned(), format!("{:?} {:?}", tensor.dtype(), tensor.shape()), tensor.data().to_vec())
        }));
    }
    all.sort();
    all
}

/// The same of a torch file.
fn torch_weights(file: &Path) -> Vec<(String, String, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let state = fitment_torch::TorchFile::read("x.bin", &bytes).unwrap().state_dict().unwrap();
    let plain = |named: fitment_torch::Named<'_>| {
        let tensor = named.tensor;
        (named.name, format!("{:?} {:?}", tensor.dtype(), tensor.dims()), tensor.bytes().to_vec())
    };
    let mut all: Vec<_> = state.tensors.into_iter().map(plain).collect();
    all.sort();
    all
}

/// Without a base the conversion either gives the same function or names `--base`.
fn unbound_is_the_same_or_asks(
    label: &str,
    convert: &[&dyn AsRef<std::ffi::OsStr>],
    (base, bound): (&Path, &Path),
) {
    let room = scratch();
    let (file, out) = (room.path().join("a.fitment.safetensors"), room.path().join("out"));
    let mut unbound: Vec<&dyn AsRef<std::ffi::OsStr>> = convert[..3].to_vec();
    unbound.push(&file);
    unbound.extend(&convert[6..]);
    let output = run(&unbound);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(2), "{label}: {message}");
        assert!(message.contains("--base"), "{label}: {message}");
        assert!(!file.exists());
        return;
    }
    let applied = run(&[&"apply", &base, &file, &"-o", &out]);
    if applied.status.code() != Some(0) {
        // The wrong guess was caught by name or shape, and nothing was written.
        assert!(!out.exists(), "{label}");
        return;
    }
    let open = |path: &Path| CheckpointDir::open(path, Access::Read).unwrap();
    let (ours, wanted) = (open(&out), open(bound));
    assert_eq!(ours.tensors(), wanted.tensors(), "{label}");
    for name in ours.tensors().keys() {
        assert_eq!(
            ours.read(name).unwrap(),
            wanted.read(name).unwrap(),
            "{label}: {name} differs when unbound"
        );
    }
}

#[test]
fn what_is_not_converted_yet_is_refused_by_name() {
    let cases = Case::all("peft");
    let refused: Vec<&Case> = cases.iter().filter(|case| case.fact("expect") == "refused").collect();
    assert!(refused.len() >= 18);
    for case in refused {
        let room = scratch();
        let file = room.path().join("a.fitment.safetensors");
        let (adapter, base) = (case.folder.join("adapter"), case.base());
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"convert", &adapter, &"-o", &file];
        if !case.fact("base").is_empty() && base.exists() {
            arguments.extend([&"--base" as &dyn AsRef<_>, &base]);
        }
        let output = run(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{}: {message}", case.name);
        assert!(message.starts_with("error: "), "{}: {message}", case.name);
        assert!(!file.exists(), "{}", case.name);
    }
}

#[test]
fn every_damage_is_a_finding_and_is_not_applied() {
    let cases = Case::all("peft/damaged");
    assert!(cases.len() >= 38);
    for case in &cases {
        let room = scratch();
        let out = room.path().join("out");
        let (adapter, base) = (case.folder.join("adapter"), case.folder.join(case.fact("base")));
        let validated = run(&[&"validate", &adapter, &"--base", &base]);
        let text = String::from_utf8_lossy(&validated.stdout).into_owned()
            + &String::from_utf8_lossy(&validated.stderr);
        // Some departures are harmless or only useless: they are said, and applied as PEFT means them.
        let harmless = [
            "adapter_name_kept",
            "alpha_zero",
            "b_all_zero",
            "layer_missing",
            "other_adapter_name_kept",
            "prefix_bare",
            "prefix_missing",
            "prefix_wrapper",
            "targets_too_many",
            "unknown_key",
        ];
        if harmless.contains(&case.name.as_str()) {
            assert!(
                text.contains("warning[") || text.contains("note[") || text.contains("error["),
                "{}: {text}",
                case.name
            );
            continue;
        }
        assert!(
            matches!(validated.status.code(), Some(1 | 2)),
            "{}: {:?} {text}",
            case.name,
            validated.status
        );
        let applied = run(&[&"apply", &base, &adapter, &"-o", &out]);
        let message = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert!(matches!(applied.status.code(), Some(1 | 2)), "{}: applied: {message}", case.name);
        assert!(message.starts_with("error: ") || message.contains("\nerror: "), "{}: {message}", case.name);
        assert!(!out.exists(), "{}", case.name);
    }
}
