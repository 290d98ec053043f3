//! The oracles of the fuzz targets on every fixture and vector, whole and damaged.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_tests::{oracle, place};
use std::fs;
use std::path::{Path, PathBuf};

fn files_below(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, wanted));
        } else if path.file_name().and_then(|name| name.to_str()).is_some_and(wanted) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The bytes, cut at some places, and with some bits flipped.
fn damaged(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![bytes.to_vec()];
    for part in 1..8 {
        all.push(bytes[..bytes.len() * part / 8].to_vec());
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(bytes.len() * part / 9) {
            *byte ^= 1 << (part % 8);
        }
        all.push(flipped);
    }
    all
}

#[test]
fn the_container_oracle_holds() {
    let vectors =
        files_below(&place::root().join("spec/conformance"), &|name| name.ends_with(".safetensors"));
    assert!(vectors.len() > 100);
    for path in vectors {
        for (at, bytes) in damaged(&fs::read(&path).unwrap()).iter().enumerate() {
            eprintln!("{} damage {at}", path.display());
            oracle::container(bytes);
        }
    }
}

#[test]
fn the_manifest_oracle_holds() {
    let vectors =
        files_below(&place::root().join("spec/conformance/valid"), &|name| name.ends_with(".safetensors"));
    for path in vectors {
        let bytes = fs::read(path).unwrap();
        let container = fitment_core::container::read_foreign(&bytes).unwrap();
        let text = container.metadata_text("fitment").unwrap();
        for bytes in damaged(text.as_bytes()) {
            oracle::manifest(&String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn the_peft_oracle_holds() {
    let configs = files_below(&place::fixture("peft"), &|name| name == "adapter_config.json");
    assert!(configs.len() > 60);
    for config in configs {
        let Ok(weights) = fs::read(config.with_file_name("adapter_model.safetensors")) else { continue };
        let config = fs::read(config).unwrap();
        for config in damaged(&config) {
            oracle::peft(&oracle::join_peft(&config, &weights));
        }
        for weights in damaged(&weights) {
            oracle::peft(&oracle::join_peft(&config, &weights));
        }
    }
}

#[test]
fn the_torch_oracle_holds() {
    let files = files_below(&place::fixture("torch"), &|name| name.ends_with(".bin"));
    assert!(files.len() > 120);
    for path in files {
        for (at, bytes) in damaged(&fs::read(&path).unwrap()).iter().enumerate() {
            eprintln!("{} damage {at}", path.display());
            oracle::torch(bytes);
        }
    }
}

#[test]
fn the_oracle_of_pickles_in_torch_files_holds() {
    // A pickle as the whole of an archive's data.pkl: those of the fixtures that are plain, and a sound one.
    let sound = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n\
        X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.";
    let plain = files_below(&place::fixture("torch"), &|name| {
        name.starts_with("reduce_plain") || name.starts_with("legacy")
    });
    let pickles = plain.iter().map(|path| fs::read(path).unwrap()).chain([sound.to_vec()]);
    for pickle in pickles {
        for bytes in damaged(&pickle) {
            oracle::torch_pickle(&bytes);
        }
    }
}

#[test]
fn the_gguf_oracle_holds() {
    let mut files = files_below(&place::fixture("gguf"), &|name| name.ends_with(".gguf"));
    // Of LoRA, those that need no base.
    let lora = files_below(&place::fixture("gguf-lora"), &|name| name == "lora.gguf");
    let plain = ["gpt2", "qwen3", "qwen3_moe"];
    files.extend(
        lora.into_iter().filter(|path| plain.iter().any(|case| path.parent().unwrap().ends_with(case))),
    );
    assert!(files.len() >= 7);
    for path in files {
        damaged(&fs::read(&path).unwrap()).iter().for_each(|bytes| oracle::gguf(bytes));
    }
}

#[test]
fn the_payload_oracle_holds() {
    let mut payloads = 0;
    for path in files_below(&place::root().join("spec/conformance"), &|name| name.contains("bits")) {
        let bytes = fs::read(path).unwrap();
        let Ok(container) = fitment_core::container::read_foreign(&bytes) else { continue };
        for entry in container.entries().iter().filter(|entry| entry.name.ends_with(".bits.z")) {
            let z = &bytes[container.data_range(entry)];
            for (dtype, elements) in [(8u8, 12u16), (8, 4), (8, 300), (4, 3), (1, 2), (11, 3)] {
                let head = [&[dtype][..], &elements.to_le_bytes()].concat();
                damaged(z).iter().for_each(|z| oracle::payload(&[&head[..], z].concat()));
                payloads += 1;
            }
        }
    }
    assert!(payloads > 60, "{payloads}");
}
