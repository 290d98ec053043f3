//! `fitment apply` under kill, interruption, limits and damage: a clear error, and nothing lost or left behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::container::write_container;
use fitment_core::identity::sha256;
use fitment_core::model::{Adapter, BaseTensor, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_tests::place::scratch;
use fitment_tests::program::fitment;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TENSORS: usize = 12;
const ROWS: u64 = 512;
const COLUMNS: u64 = 1024;

/// Numbers of no meaning, always the same.
fn noise(dims: &[u64], salt: u64) -> Tensor<'static> {
    let count = dims.iter().product::<u64>();
    let one = |at: u64| {
        let mixed = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt).rotate_left(23);
        (mixed % 2001) as f32 / 1000.0 - 1.0
    };
    let bytes: Vec<u8> = (0..count).flat_map(|at| one(at).to_le_bytes()).collect();
    Tensor::owned(Dtype::F32, Shape::new(dims).unwrap(), bytes).unwrap()
}

fn name(number: usize) -> String {
    format!("model.layers.{number}.weight")
}

/// A base of two shards, 24 MB, and an adapter bound to it.
fn prepare(root: &Path) {
    let base = root.join("base");
    fs::create_dir(&base).unwrap();
    let mut adapter = Adapter::default();
    let mut map = serde_json::Map::new();
    for (number, half) in [0..TENSORS / 2, TENSORS / 2..TENSORS].into_iter().enumerate() {
        let file = format!("model-{}-of-2.safetensors", number + 1);
        let tensors: Vec<(String, Tensor<'static>)> =
            half.map(|number| (name(number), noise(&[ROWS, COLUMNS], number as u64))).collect();
        for (name, tensor) in &tensors {
            map.insert(name.clone(), file.clone().into());
            let text = TensorName::new(name.clone()).unwrap();
            adapter.edits.push(Edit::Lora(Lora {
                target: Target::whole(text.clone()),
                form: LoraForm::Matrix,
                transposed: false,
                scale: 0.5,
                up: noise(&[ROWS, 4], 91),
                down: noise(&[4, COLUMNS], 92),
                mid: None,
                magnitude: None,
                origin: Origin::default(),
            }));
            adapter.base.tensors.push(BaseTensor {
                unchanged: false,
                component: None,
                name: text,
                experts: None,
                dtype: Some(Dtype::F32),
                shape: Some(tensor.shape().clone()),
                digests: vec![sha256(tensor.bytes())],
                extra: serde_json::Map::new(),
            });
        }
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut out = fs::File::create(base.join(file)).unwrap();
        write_container(&metadata, tensors.iter().map(|(name, t)| (name.clone(), t)), &mut out).unwrap();
    }
    adapter.base.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": map});
    fs::write(base.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(base.join("config.json"), "{}").unwrap();
    let mut out = fs::File::create(root.join("adapter.safetensors")).unwrap();
    fitment_core::write(&adapter, &mut out).unwrap();
}

fn apply(root: &Path) -> Command {
    let mut command = fitment();
    command.current_dir(root).args(["apply", "base", "adapter.safetensors", "-o", "out"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The output's files and a digest of each.
fn content(root: &Path) -> BTreeMap<String, [u8; 32]> {
    let out = root.join("out");
    names(&out).into_iter().map(|name| (name.clone(), sha256(&fs::read(out.join(name)).unwrap()))).collect()
}

/// Nothing but what was there before.
fn assert_untouched(root: &Path) {
    assert_eq!(names(root), ["adapter.safetensors", "base"]);
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a run makes, and how long it takes.
fn reference(root: &Path) -> (BTreeMap<String, [u8; 32]>, Duration) {
    fitment_tests::program::path(); // built before the clock starts
    let begin = Instant::now();
    let output = apply(root).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let took = begin.elapsed();
    let content = content(root);
    fs::remove_dir_all(root.join("out")).unwrap();
    (content, took)
}

#[test]
fn a_kill_at_any_moment_leaves_nothing_or_everything() {
    let folder = scratch();
    let root = folder.path();
    prepare(root);
    let (whole, took) = reference(root);
    let mut killed = 0;
    for step in 0..24 {
        let mut run = apply(root).spawn().unwrap();
        std::thread::sleep(took * step / 20);
        run.kill().unwrap();
        run.wait().unwrap();
        if root.join("out").exists() {
            assert_eq!(content(root), whole);
            fs::remove_dir_all(root.join("out")).unwrap();
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "no run was killed in time");
    let output = apply(root).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(content(root), whole);
    assert_eq!(names(root), ["adapter.safetensors", "base", "out"], "leavings of killed runs");
}

#[test]
fn an_interruption_ends_with_130_and_removes_what_was_begun() {
    let folder = scratch();
    let root = folder.path();
    prepare(root);
    let (_, took) = reference(root);
    let mut interrupted = 0;
    for step in 1..10 {
        let run = apply(root).spawn().unwrap();
        std::thread::sleep(took * step / 10);
        Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
        let output = run.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => fs::remove_dir_all(root.join("out")).unwrap(),
            // Before the program listens, the signal ends it.
            None => assert!(!root.join("out").exists()),
            code => {
                assert_eq!(code, Some(130), "{}", stderr(&output));
                assert_untouched(root);
                interrupted += 1;
            }
        }
    }
    assert!(interrupted > 0, "no run was interrupted in time");
}

#[test]
fn a_limit_on_file_sizes_is_one_clear_line() {
    let folder = scratch();
    let root = folder.path();
    prepare(root);
    let program: PathBuf = fitment_tests::program::path().to_owned();
    // The signal of that limit would end the process: with it ignored, the write fails, as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 4000; exec \"$0\" apply base adapter.safetensors -o out";
    let output = Command::new("bash").args(["-c", script]).arg(program).current_dir(root).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("error: ") && text.contains("File too large"), "{text}");
    assert_untouched(root);
}

#[test]
fn a_flipped_bit_in_the_base_is_found_and_named() {
    let folder = scratch();
    let root = folder.path();
    prepare(root);
    let shard = root.join("base/model-2-of-2.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let output = apply(root).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let line =
        "error: this is not the base that adapter.safetensors was made for: model.layers.9.weight differs";
    assert!(text.contains(line) && text.contains("hint: "), "{text}");
    assert_untouched(root);
}

#[test]
fn a_base_cut_short_is_one_clear_line() {
    let folder = scratch();
    let root = folder.path();
    prepare(root);
    let shard = root.join("base/model-1-of-2.safetensors");
    let bytes = fs::read(&shard).unwrap();
    for len in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&shard, &bytes[..len]).unwrap();
        let output = apply(root).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "cut to {len} bytes");
        let text = stderr(&output);
        assert!(text.contains("error: ") && text.contains("model-1-of-2.safetensors"), "{text}");
        assert_untouched(root);
    }
}

/// Into another format a Fitment file is written while its digests are still computed: they decide whether the output appears.
#[test]
fn a_flipped_bit_in_an_adapter_is_found_before_its_conversion_appears() {
    let folder = scratch();
    let root = folder.path();
    prepare(root);
    let path = root.join("adapter.safetensors");
    let convert = |to: &str, out: &str| {
        let mut command = fitment();
        command.current_dir(root).args(["convert", "adapter.safetensors", "--to", to, "-o", out]);
        command.output().unwrap()
    };
    let sound = convert("peft", "out");
    assert!(sound.status.success(), "{}", stderr(&sound));
    fs::remove_dir_all(root.join("out")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    for (to, out) in [("peft", "out"), ("mlx", "out"), ("fitment", "out.safetensors")] {
        let output = convert(to, out);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{to}: {text}");
        assert!(text.contains("M014") && text.contains("adapter.safetensors"), "{to}: {text}");
        assert_untouched(root);
    }
}
