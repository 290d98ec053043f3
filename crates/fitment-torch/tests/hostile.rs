//! What no weight file needs is refused, by name and with its place, and so is every kind of damage.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_torch::{Error, Fault, TorchFile};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch")
}

fn read(name: &str, bytes: &[u8]) -> Result<usize, Error> {
    Ok(TorchFile::read(name, bytes)?.state_dict()?.tensors.len())
}

fn files(kind: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder().join(kind)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "bin") {
            files.push((path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

/// `BLESS=1` writes what is expected from what is found.
#[test]
fn every_hostile_file_is_refused_for_its_own_reason() {
    let mut found = String::new();
    for (name, bytes) in files("hostile") {
        let error = read(&name, &bytes).expect_err(&name);
        for finding in error.findings() {
            found.push_str(&format!("{finding}\n"));
        }
    }
    let path = folder().join("hostile/expected.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    let difference = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(expected == found, "{difference:?}");
}

#[test]
fn what_would_run_code_is_called_unsafe() {
    let is_missed =
        |name: &str, bytes: &[u8]| !matches!(read(name, bytes).unwrap_err().fault, Fault::Unsafe { .. });
    let hostile = files("hostile");
    for wanted in [
        "reduce_system",
        "reduce_plain_0",
        "reduce_plain_2",
        "reduce_plain_5",
        "legacy_system",
        "stack_global_eval",
        "memo_global",
        "getattr_chain",
        "dotted_name",
        "nested",
        "inst",
        "obj",
        "newobj",
        "newobj_ex",
        "build",
        "extension",
        "unused_global",
        "many_globals",
        "global_then_broken",
        "control_characters",
        "hub_load",
        "numpy",
    ] {
        let (name, bytes) =
            hostile.iter().find(|(name, _)| name.strip_suffix(".bin") == Some(wanted)).unwrap();
        assert!(!is_missed(name, bytes), "{name}");
    }
}

#[test]
fn every_cut_of_a_file_is_refused() {
    for name in ["zip_2.bin", "zip_5.bin", "legacy_2.bin", "packed_again.bin"] {
        let bytes = fs::read(folder().join("sound").join(name)).unwrap();
        for len in 0..bytes.len() {
            assert!(read(name, &bytes[..len]).is_err(), "{name} cut at {len}");
        }
    }
}

#[test]
fn every_flipped_bit_in_an_archive_is_noticed_or_changes_no_value() {
    let bytes = fs::read(folder().join("sound/zip_2.bin")).unwrap();
    let sound = TorchFile::read("zip_2.bin", &bytes).unwrap().state_dict().unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let Ok(file) = TorchFile::read("zip_2.bin", &flipped) else { continue };
        let state = file.state_dict().unwrap();
        for (ours, theirs) in state.tensors.iter().zip(&sound.tensors) {
            assert_eq!((&ours.name, ours.tensor.bytes()), (&theirs.name, theirs.tensor.bytes()), "byte {at}");
        }
    }
}
