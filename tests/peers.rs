//! What Fitment wrote, opened by the original tools: every merged folder by transformers, and the adapters as PEFT folders
//! that do not come from PEFT's own files. The outputs must be those of the unmerged PEFT model.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{FormatId, WriteOptions, write};
use fitment_core::container::{read_foreign, write_container};
use fitment_core::model::{Adapter, Edit};
use fitment_core::tensor::{Shape, Tensor};
use fitment_io::{Access, CheckpointDir};
use fitment_tests::place::{fixture, peers_python, root, scratch};
use fitment_tests::program::fitment;
use fitment_torch::{Archive, Item, TorchFile};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Cases that transformers has a class for, with one adapter.
fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(fixture("peft"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| {
            let Ok(facts) = fs::read(folder.join("case.json")) else { return false };
            let facts: Value = serde_json::from_slice(&facts).unwrap();
            let config = fs::read(folder.join("base/config.json")).unwrap_or_default();
            let config: Value = serde_json::from_slice(&config).unwrap_or_default();
            facts["expect"] != "refused" && facts["adapters"].is_null() && config["model_type"] != "custom"
        })
        .collect();
    cases.sort();
    cases
}

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let output = fitment().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The adapter as a PEFT folder, as if it had come from elsewhere; `None` where PEFT cannot hold it.
fn foreign_peft(file: &Path, base: &Path, folder: &Path) -> Option<PathBuf> {
    let bytes = fs::read(file).unwrap();
    let mut adapter: Adapter<'_> = fitment_core::read(&bytes).unwrap();
    adapter.source = None;
    let base = CheckpointDir::open(base, Access::Map).unwrap();
    let written = write(&adapter, FormatId::Peft, &WriteOptions::on(Some(&base))).ok()?;
    if written.losses.iter().any(|loss| loss.changes_function()) {
        return None;
    }
    for file in &written.files {
        let path = folder.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        file.write_to(&mut fs::File::create(path).unwrap()).unwrap();
    }
    Some(folder.to_owned())
}

/// Puts two parts of the adapter in its place, merged: they are the adapter, and what the tools compute is the same.
fn halves(file: &Path, base: &Path) {
    let [first, second] = ["0.75", "0.25"].map(|weight| format!("{}:{weight}", file.display()));
    let both = file.with_file_name("both.fitment.safetensors");
    run(&[&"merge", &first, &second, &"-o", &both, &"--base", &base]);
    fs::rename(&both, file).unwrap();
}

#[test]
fn transformers_and_peft_compute_what_the_unmerged_adapter_computes() {
    let room = scratch();
    let mut jobs = String::new();
    let mut foreign = 0;
    for case in cases() {
        let name = case.file_name().unwrap();
        let (base, adapter) = (case.join("base"), case.join("adapter"));
        let (file, merged) =
            (room.path().join(name).join("a.fitment.safetensors"), room.path().join(name).join("merged"));
        fs::create_dir(room.path().join(name)).unwrap();
        run(&[&"convert", &adapter, &"-o", &file, &"--base", &base, &"--keep-files"]);
        run(&[&"apply", &base, &file, &"-o", &merged]);
        if jobs.lines().count() % 2 == 1 {
            halves(&file, &base);
        }
        let peft = foreign_peft(&file, &base, &room.path().join(name).join("peft"));
        foreign += usize::from(peft.is_some());
        jobs.push_str(&json!({"case": case, "merged": merged, "adapter": peft}).to_string());
        jobs.push('\n');
    }
    let mut python = Command::new(peers_python())
        .arg(root().join("tests/peer/open.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(jobs.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the script failed, see above");
    let results: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(results.len(), cases().len());
    assert!(results.len() >= 40 && foreign >= 20, "{} cases, {foreign} adapters", results.len());
    let mut wrong = Vec::new();
    // Names of the base's own class cannot be compared where the adapter was made on another class of it.
    let mut measured = 0;
    for result in &results {
        let case =
            Path::new(result["case"].as_str().unwrap()).file_name().unwrap().to_string_lossy().into_owned();
        // Merged 16-bit weights are rounded once, the unmerged model's sum is not.
        let halves = ["bf16", "f16"].iter().any(|dtype| case.contains(dtype));
        assert!(result["merged"].is_f64(), "{case}: {}", result["merged"]);
        measured += usize::from(result["adapter"].is_f64());
        // A checkpoint's names lack the prefix that the class in memory adds, and only PEFT's own keys know it: known gap of
        // the writer, for adapters that did not come from PEFT.
        let renamed = ["bert_prefixless", "gpt2_hub_names", "llava_renamed"].contains(&case.as_str());
        for (what, bound) in
            [("merged", if halves { 2e-2 } else { 1e-5 }), ("adapter", if halves { 1e-3 } else { 1e-5 })]
        {
            let known = renamed && what == "adapter";
            if result[what].as_f64().is_some_and(|error| error > bound) && !known {
                wrong.push(format!("{case} {what}: {}", result[what]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(measured >= 20, "only {measured} of {foreign} PEFT folders were measured");
}

#[test]
fn torch_and_peft_open_the_torch_files_that_are_written() {
    let room = scratch();
    let path = |name: &str| room.path().join(name);
    let mut count = 0;
    let plain = |name: &str, tensors: &[(String, Tensor<'_>)]| {
        let mut file = fs::File::create(path(name)).unwrap();
        let items = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
        write_container(&BTreeMap::new(), items, &mut file).unwrap();
    };
    for entry in fs::read_dir(fixture("torch").join("sound")).unwrap() {
        let source = entry.unwrap().path();
        let name = source.file_stem().unwrap().to_str().unwrap().to_owned();
        if source.extension().is_none_or(|end| end != "bin") || name == "tensor_alone" {
            continue;
        }
        let bytes = fs::read(&source).unwrap();
        let state = TorchFile::read(&name, &bytes).unwrap().state_dict().unwrap();
        let tensors: Vec<_> = state.tensors.into_iter().map(|named| (named.name, named.tensor)).collect();
        let items: Vec<_> = tensors.iter().map(|(name, tensor)| Item::new(name, tensor.clone())).collect();
        let mut file = fs::File::create(path(&format!("{name}.bin"))).unwrap();
        Archive::new(&name, &items).unwrap().write_to(&mut file).unwrap();
        plain(&format!("{name}.safetensors"), &tensors);
        count += tensors.len();
    }
    let case = fixture("peft").join("pickled_adapter");
    let file = path("a.fitment");
    run(&[&"convert", &case.join("adapter"), &"-o", &file, &"--base", &case.join("base")]);
    run(&[&"convert", &file, &"--to", &"peft", &"-o", &path("adapter")]);
    let bytes = fs::read(case.join("adapter/adapter_model.bin")).unwrap();
    let state = TorchFile::read("adapter_model.bin", &bytes).unwrap().state_dict().unwrap();
    let tensors: Vec<_> = state.tensors.into_iter().map(|named| (named.name, named.tensor)).collect();
    plain("adapter.safetensors", &tensors);
    count += tensors.len();
    let output = Command::new(peers_python())
        .arg(root().join("tests/peer/torch_files.py"))
        .arg(room.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), count.to_string());
}

/// Refusals that are right: there is no weight for what is asked.
const REFUSALS: &[&str] =
    &["has no bias for the constant part", "no linear layer makes or reads", "has no weight to go into"];

#[test]
fn folded_interventions_compute_what_hooks_compute_in_every_architecture() {
    let room = scratch();
    let output = Command::new(peers_python())
        .arg(root().join("tests/peer/folds.py"))
        .arg(fitment_tests::program::path())
        .arg(room.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut measured, mut refused) = (0, 0);
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let result: Value = serde_json::from_str(line).unwrap();
        for what in ["apply", "apply_linear", "peft"] {
            match &result[what] {
                Value::Null => {}
                Value::String(reason) => {
                    refused += 1;
                    // PEFT holds no norms' biases.
                    let known = REFUSALS.iter().any(|known| reason.contains(known))
                        || reason.contains("LayerNorm.bias");
                    assert!(known, "{} {what}: {reason}", result["case"]);
                }
                error => {
                    measured += 1;
                    assert!(
                        error.as_f64().is_some_and(|error| error < 5e-6),
                        "{} {what}: {error}",
                        result["case"]
                    );
                }
            }
        }
    }
    assert!(measured >= 350 && refused <= 70, "{measured} measured, {refused} refused");
}

#[test]
fn pyreft_opens_the_folders_that_are_written() {
    let room = scratch();
    let mut folders = Vec::new();
    for entry in fs::read_dir(fixture("pyreft")).unwrap() {
        let case = entry.unwrap().path();
        let Ok(facts) = fs::read(case.join("case.json")) else { continue };
        let facts: Value = serde_json::from_slice(&facts).unwrap();
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        // pyreft has no place for an activation, and does not load a path; its bf16 classes round where LoReFT does not.
        let is_other =
            ["activation", "path"].contains(&&*name) || name.ends_with("bf16") || facts["base"].is_string();
        if is_other {
            continue;
        }
        let (file, folder) = (room.path().join(format!("{name}.fitment")), room.path().join(&name));
        let (adapter, kind) = (case.join("adapter"), facts["kind"].as_str().unwrap().to_owned());
        let said: [&dyn AsRef<std::ffi::OsStr>; 6] =
            [&"--positions", &"all", &"--activation", &"none", &"--formula", &kind];
        run(&[&[&"convert" as &dyn AsRef<std::ffi::OsStr>, &adapter, &"-o", &file], &said[..]].concat());
        run(&[&"convert", &file, &"--to", &"pyreft", &"-o", &folder]);
        fs::copy(case.join("io.safetensors"), room.path().join(format!("{name}.safetensors"))).unwrap();
        folders.push(folder);
    }
    assert!(folders.len() >= 25, "{}", folders.len());
    let output = Command::new(peers_python())
        .args(["-W", "ignore"])
        .arg(root().join("tests/peer/reft.py"))
        .args(&folders)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let far: Vec<(&str, f64)> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, far)| Some((name, far.parse().ok()?)))
        .collect();
    assert_eq!(far.len(), folders.len(), "{text}");
    assert!(far.iter().all(|(_, far)| *far <= 2e-6), "{text}");
}

#[test]
fn mlx_lm_loads_and_fuses_what_is_written() {
    // mlx-lm rounds a BF16 update, and the sum again.
    const CASES: [(&str, f64); 10] = [
        ("linear", 1e-6),
        ("rslora", 1e-6),
        ("patterns", 1e-6),
        ("embedding", 1e-6),
        ("lm_head", 1e-6),
        ("dora_linear", 1e-6),
        ("linear_bf16", 1e-2),
        ("experts_mixtral", 1e-6),
        ("experts_each", 1e-6),
        ("experts_0_17", 1e-6),
    ];
    let room = scratch();
    let mut command = Command::new(peers_python());
    command.arg(root().join("tests/peer/mlx_fuse.py"));
    for (case, ..) in CASES {
        let (from, to) = (fixture("peft").join(case), room.path().join(case));
        fs::create_dir(&to).unwrap();
        std::os::unix::fs::symlink(from.join("base"), to.join("base")).unwrap();
        let (adapter, base) = (from.join("adapter"), from.join("base"));
        run(&[
            &"convert",
            &adapter,
            &"--to",
            &"mlx",
            &"-o",
            &to.join("mlx"),
            &"--base",
            &base,
            &"--allow-loss",
        ]);
        run(&[&"apply", &base, &adapter, &"-o", &to.join("merged")]);
        command.arg(to);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), CASES.len());
    for (line, (case, bound)) in lines.iter().zip(CASES) {
        let file = fs::read(room.path().join(case).join("mlx/adapters.safetensors")).unwrap();
        let container = read_foreign(&file).unwrap();
        let modules = container.entries().iter().filter(|entry| entry.name.ends_with(".lora_a")).count();
        // Every module that is written was taken.
        assert_eq!((line["case"].as_str(), line["modules"].as_u64()), (Some(case), Some(modules as u64)));
        assert!(line["difference"].as_f64().unwrap() <= bound, "{line}");
    }
}

/// Single experts of other ranks and scales, and layers that lack an expert, load in PEFT on transformers 5 and do what they do.
#[test]
fn peft_loads_single_experts_of_any_rank() {
    let (case, room) = (fixture("peft/experts_each"), scratch());
    let (base, file, merged) = (case.join("base"), room.path().join("x.fitment"), room.path().join("merged"));
    run(&[&"convert", &case.join("adapter"), &"-o", &file, &"--base", &base]);
    let bytes = fs::read(&file).unwrap();
    let mut adapter: Adapter<'_> = fitment_core::read(&bytes).unwrap();
    let is_in = |edit: &Edit<'_>, part: &str| edit.target().unwrap().name.as_str().contains(part);
    adapter.edits.retain(|edit| !is_in(edit, ".experts.1.") && !is_in(edit, ".experts.2.w3."));
    for edit in &mut adapter.edits {
        if is_in(edit, ".experts.2.w1.")
            && let Edit::Lora(lora) = edit
        {
            // Another column, of the same numbers.
            let wider = |tensor: &Tensor<'_>, dims: [u64; 2]| {
                let rows = tensor.bytes().chunks(tensor.bytes().len() / tensor.dims()[0] as usize);
                let bytes: Vec<u8> = match dims[0] == tensor.dims()[0] {
                    true => rows.flat_map(|row| [row, &row[..4]].concat()).collect(),
                    false => rows.clone().chain(rows.take(1)).flatten().copied().collect(),
                };
                Tensor::owned(tensor.dtype(), Shape::new(&dims).unwrap(), bytes).unwrap()
            };
            (lora.up, lora.down) =
                (wider(&lora.up, [lora.up.dims()[0], 3]), wider(&lora.down, [3, lora.down.dims()[1]]));
            lora.scale *= 0.5;
        }
    }
    let touched: Vec<_> = adapter.edits.iter().filter_map(|edit| Some(edit.target()?.name.clone())).collect();
    adapter.base.tensors.retain(|tensor| touched.contains(&tensor.name));
    let changed = room.path().join("y.fitment");
    fs::write(&changed, fitment_core::to_bytes(&adapter).unwrap()).unwrap();
    run(&[&"apply", &base, &changed, &"-o", &merged]);
    let folder = foreign_peft(&changed, &base, &room.path().join("peft")).unwrap();
    let output = Command::new(peers_python())
        .arg(root().join("tests/peer/same_output.py"))
        .args([&base, &folder, &merged])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let far: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    assert!(far <= 1e-4, "{far}");
}
