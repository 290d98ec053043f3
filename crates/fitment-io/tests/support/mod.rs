//! Folders of checkpoints to read and write.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use fitment_core::checkpoint::{Checkpoint, CheckpointSink, OutputTensor};
use fitment_core::container::write_container;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{CheckpointDir, CheckpointOutput};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a tensor of `len` bytes that no other has.
pub fn pattern(name: &str, len: usize) -> Vec<u8> {
    let seed: u8 = name.bytes().fold(1, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    (0..len).map(|at| seed.wrapping_add((at % 251) as u8)).collect()
}

/// A safetensors file of U8 tensors.
pub fn write_shard(path: &Path, tensors: &[(&str, usize)], metadata: &[(&str, &str)]) {
    let owned: Vec<(String, Tensor<'static>)> = tensors
        .iter()
        .map(|(name, len)| {
            let shape = Shape::new(&[*len as u64]).unwrap();
            ((*name).to_owned(), Tensor::owned(Dtype::U8, shape, pattern(name, *len)).unwrap())
        })
        .collect();
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    let mut bytes = Vec::new();
    write_container(&metadata, owned.iter().map(|(name, tensor)| (name.clone(), tensor)), &mut bytes)
        .unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A sharded Hugging Face folder with everything around it.
pub fn hf_folder(root: &Path) -> PathBuf {
    let base = root.join("base");
    let format = [("format", "pt")];
    write_shard(&base.join("model-00001-of-00002.safetensors"), &[("embed", 5000), ("a", 7)], &format);
    write_shard(&base.join("model-00002-of-00002.safetensors"), &[("b", 300_000), ("head", 0)], &format);
    let map = r#"{"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",
        "embed": "model-00001-of-00002.safetensors", "head": "model-00002-of-00002.safetensors"}"#;
    let index = format!(r#"{{"metadata": {{"total_size": 1, "x": 2}}, "weight_map": {map}}}"#);
    write(&base.join("model.safetensors.index.json"), &index);
    write(&base.join("config.json"), "{\n  \"vocab_size\": 4,\n  \"tie\":  true\n}\n");
    write(&base.join("tokenizer.json"), "{\"old\": 1}");
    write(&base.join("vocab.txt"), "old");
    write(&base.join("1_Pooling/config.json"), "{\"pool\": 1}");
    write(&base.join("pytorch_model.bin"), "pickle");
    write(&base.join("pytorch_model.bin.index.json"), "{}");
    write(&base.join("consolidated.safetensors"), "stale");
    write(&base.join(".gitattributes"), "x");
    base
}

/// The base's tensors as the output's.
pub fn same_tensors(base: &CheckpointDir) -> Vec<OutputTensor> {
    let each = base.tensors().iter().map(|(name, info)| OutputTensor {
        name: name.clone(),
        info: info.clone(),
        beside: Some(name.clone()),
    });
    each.collect()
}

/// Copies every tensor and finishes.
pub fn copy_all(
    base: &CheckpointDir,
    target: &Path,
    options: &fitment_io::OutputOptions,
) -> fitment_io::Result<()> {
    let tensors = same_tensors(base);
    let tensors: Vec<&OutputTensor> = tensors.iter().collect();
    let output = CheckpointOutput::create(base, target, (&tensors, &[]), options)?;
    for tensor in tensors {
        output.copy(&tensor.name, &tensor.name).unwrap();
    }
    output.finish().map(|_| ())
}

/// Every file below a folder, with its content.
pub fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(folder, folder, &mut files);
    files
}

/// Names in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An error with its causes, in one line, as the command line prints it.
pub fn line(error: &dyn std::error::Error, root: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text.replace(root.to_str().unwrap(), "ROOT")
}
