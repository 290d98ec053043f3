//! `apply --device`: every fixture with a base, through candle's processor device, against the program's own arithmetic.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stdout, reason = "how far results are apart is part of the report")]

use fitment_apply::{Input, Options, Plan, execute, execute_on};
use fitment_candle::apply::Applier;
use fitment_candle::device::Name;
use fitment_convert::{ReadOptions, read};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::tensor::Dtype;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
use fitment_tests::compare::distance;
use fitment_tests::place::{device, fixture, root, scratch};
use fitment_tests::program::with_candle;
use fitment_tests::sink::Sink;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Folders of adapters, each with its base.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let formats = ["peft", "mlx", "gguf-lora", "fastchat", "trl", "slime", "weighted", "adapters"];
    let folders = formats.iter().flat_map(|format| fs::read_dir(fixture(format)).unwrap());
    let mut cases: Vec<_> = folders.filter_map(|entry| case(&entry.unwrap().path())).collect();
    cases.push((fixture("example/adapter"), fixture("example/base")));
    cases.sort();
    cases
}

fn case(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let facts: Value =
        serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap_or_default()).unwrap_or_default();
    let base = folder.join(facts["base"].as_str().unwrap_or("base"));
    let adapter = ["adapter", "peft"].map(|name| folder.join(name)).into_iter().find(|path| path.exists())?;
    base.exists().then_some((adapter, base))
}

/// Elements and differing elements of each dtype.
type Counts = BTreeMap<Dtype, (usize, usize)>;

/// Applies one adapter in both ways; `false` when it cannot be applied at all.
fn compare(adapter: &Path, base: &Path, options: &Options, counts: &mut Counts) -> bool {
    let label = adapter.strip_prefix(root()).unwrap().display();
    let (Ok(base), Ok(files)) = (CheckpointDir::open(base, Access::Map), AdapterFiles::load(adapter)) else {
        return false;
    };
    let read_options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let blobs = files.iter().collect();
    let Ok(converted) = read(&blobs, &read_options) else { return false };
    let inputs = [Input { adapter: &converted.adapter, weight: 1.0, name: label.to_string() }];
    let Ok(plan) = Plan::new(&inputs, &base, options) else { return false };
    let cancel = AtomicBool::new(false);
    let (here, there) = (Sink::new(&base), Sink::new(&base));
    let outcome = execute(&plan, &base, &here, &|_| {}, &cancel).unwrap();
    // Blocks of a few rows.
    let device = Applier::open(device().parse::<Name>().unwrap(), Some(1 << 16)).unwrap();
    device.check(&plan).unwrap();
    assert_eq!(execute_on(&device, &plan, (&base, &there), &|_| {}, &cancel).unwrap(), outcome);
    let (here, there) = (here.into_written(), there.into_written());
    assert_eq!(here.len(), there.len(), "{label}");
    for tensor in plan.tensors().filter(|tensor| here.contains_key(&tensor.name)) {
        let (name, dtype) = (&tensor.name, tensor.info.dtype);
        if !dtype.is_weight() {
            assert_eq!(there[name], here[name], "{label}: {name}");
            continue;
        }
        let before = tensor
            .beside
            .as_ref()
            .filter(|from| base.tensors().get(*from).is_some_and(|info| info.dtype == dtype));
        let before = before.map(|from| base.read(from).unwrap());
        let distance = distance(dtype, &there[name], &here[name], before.as_deref());
        match dtype {
            Dtype::F64 => assert!(distance.relative <= 1e-12, "{label}: {name}: {distance:?}"),
            Dtype::F32 => assert!(distance.relative <= 2e-6, "{label}: {name}: {distance:?}"),
            _ => assert!(distance.ulps <= 1.0, "{label}: {name}: {distance:?}"),
        }
        let count = counts.entry(dtype).or_default();
        *count = (count.0 + distance.elements, count.1 + distance.different);
    }
    true
}

fn report(counts: &Counts) {
    for (dtype, (elements, different)) in counts {
        let share = *different as f64 / (*elements).max(1) as f64;
        println!("{dtype}: {different} of {elements} elements differ ({:.4} %)", share * 100.0);
    }
}

#[test]
fn every_fixture_gives_what_the_processor_gives() {
    let mut counts = Counts::new();
    let cases = cases();
    let applied = cases
        .iter()
        .filter(|(adapter, base)| compare(adapter, base, &Options::default(), &mut counts))
        .count();
    println!("{applied} of {} adapters can be applied", cases.len());
    report(&counts);
    assert!(applied >= 90, "{applied}");
}

#[test]
fn every_fixture_does_so_in_16_bits() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let mut counts = Counts::new();
        let options = Options { dtype: Some(dtype), ..Options::default() };
        for (adapter, base) in cases() {
            compare(&adapter, &base, &options, &mut counts);
        }
        report(&counts);
        let (elements, different) = counts[&dtype];
        assert!(elements > 100_000 && (different as f64) < 1e-3 * elements as f64);
    }
}

fn program(arguments: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(with_candle()).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_applies_on_a_device_and_refuses_others() {
    let room = scratch();
    let (base, adapter) = (fixture("example/base"), fixture("example/adapter"));
    let apply = |device: &[&str], output: &str| {
        let paths = ["apply", base.to_str().unwrap(), adapter.to_str().unwrap(), "-o", output];
        program(&[&paths[..], device].concat(), room.path())
    };
    let chosen = device();
    let (code, _, err) = apply(&["--device", &chosen, "--device-memory", "1M"], "there");
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(apply(&[], "here").0, Some(0));
    let open = |name: &str| CheckpointDir::open(&room.path().join(name), Access::Map).unwrap();
    let (here, there) = (open("here"), open("there"));
    for (name, info) in here.tensors() {
        assert_eq!(there.tensors()[name], *info);
        let distance = distance(info.dtype, &there.read(name).unwrap(), &here.read(name).unwrap(), None);
        assert!(distance.ulps <= 1.0, "{name}: {distance:?}");
    }
    let absent = match chosen.as_str() {
        "cpu-candle" => ("cuda", "cuda:0: this build has no such devices; the feature `cuda` brings them"),
        kind if kind.starts_with("cuda") => ("cuda:99", "cuda:99: no such device: "),
        _ => ("metal:99", "metal:99: no such device: "),
    };
    for (device, reason) in
        [absent, ("gpu", "gpu: no such device; there are cpu-candle, cuda, cuda:N, metal and metal:N")]
    {
        let (code, out, err) = apply(&["--device", device], "refused");
        assert_eq!((code, out.as_str()), (Some(2), ""));
        let line = err.lines().next().unwrap_or_default();
        assert!(line.starts_with(&format!("error: --device {reason}")), "{line}");
        assert!(!room.path().join("refused").exists());
    }
}
