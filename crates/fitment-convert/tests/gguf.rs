//! Control vectors: what the real tools wrote, damage, and the way back.
#![allow(clippy::unwrap_used, reason = "tests")]

use fitment_convert::{Error, Files, FormatId, ReadOptions, WriteOptions, detect, read, write};
use fitment_core::model::{Edit, Intervention, Phase, Select, Site};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf");
    let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = folders.filter(|path| path.join("case.json").exists()).collect();
    cases.sort();
    assert!(cases.len() >= 4);
    cases
}

fn vector(case: &Path) -> Vec<u8> {
    std::fs::read(case.join("vector.gguf")).unwrap()
}

fn one<'a>(bytes: &'a [u8]) -> Files<'a> {
    [("vector.gguf", bytes)].into_iter().collect()
}

fn interventions<'e, 'a>(edits: &'e [Edit<'a>]) -> Vec<(u64, &'e Intervention<'a>)> {
    let steered = |edit: &'e Edit<'a>| match edit {
        Edit::Intervention(edit) => match edit.site {
            Site::Layer { layer, .. } => (layer, edit),
            Site::Module(_) => panic!("{}", edit.site),
        },
        other => panic!("{}", other.kind()),
    };
    edits.iter().map(steered).collect()
}

fn numbers(edit: &Intervention<'_>) -> Vec<f64> {
    let bytes = edit.up_bias.as_ref().unwrap().bytes();
    bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

#[test]
fn directions_are_those_that_the_tool_was_given_and_files_come_back_byte_for_byte() {
    for case in cases() {
        let bytes = vector(&case);
        let files = one(&bytes);
        assert_eq!(detect(&files).unwrap(), FormatId::Gguf);
        let converted = read(&files, &ReadOptions::default()).unwrap();
        let facts: Value = serde_json::from_slice(&std::fs::read(case.join("case.json")).unwrap()).unwrap();
        let wanted = facts["directions"].as_object().unwrap();
        let found = interventions(&converted.adapter.edits);
        assert_eq!(found.len(), wanted.len());
        for (layer, edit) in found {
            let expected: Vec<f64> =
                wanted[&layer.to_string()].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
            assert_eq!(numbers(edit), expected);
            assert_eq!(
                (edit.scale, edit.positions.phase, &edit.positions.select),
                (1.0, Phase::EveryForward, &Select::All)
            );
        }
        assert_eq!(converted.adapter.base.architecture.as_deref(), facts["model_hint"].as_str());
        // Through a Fitment file and back.
        let fitment = fitment_core::to_bytes(&converted.adapter).unwrap();
        let again = fitment_core::read(&fitment).unwrap();
        let written = write(&again, FormatId::Gguf, &WriteOptions::default()).unwrap();
        let mut back = Vec::new();
        written.files[0].write_to(&mut back).unwrap();
        assert!(back == bytes && written.losses.is_empty(), "{}", case.display());
        assert_eq!(written.files[0].path, "vector.gguf");
    }
}

#[test]
fn a_vector_without_its_source_is_laid_out_anew_with_its_strength() {
    let bytes = vector(&cases()[0]);
    let mut adapter = read(&one(&bytes), &ReadOptions::default()).unwrap().adapter;
    let expected: Vec<Vec<f64>> =
        interventions(&adapter.edits).iter().map(|(_, edit)| numbers(edit)).collect();
    for edit in &mut adapter.edits {
        if let Edit::Intervention(edit) = edit {
            edit.scale = -0.5;
        }
    }
    for adapter in [adapter.clone(), {
        adapter.source = None;
        adapter
    }] {
        let written = write(&adapter, FormatId::Gguf, &WriteOptions::default()).unwrap();
        let mut back = Vec::new();
        written.files[0].write_to(&mut back).unwrap();
        let again = read(&one(&back), &ReadOptions::default()).unwrap();
        assert!(again.findings.is_empty());
        for ((_, edit), expected) in interventions(&again.adapter.edits).iter().zip(&expected) {
            let halved: Vec<f64> = expected.iter().map(|number| -0.5 * number).collect();
            assert_eq!(numbers(edit), halved);
        }
    }
}

#[test]
fn what_a_control_vector_cannot_hold_is_listed_and_nothing_at_all_is_an_error() {
    let bytes = vector(&cases()[0]);
    let mut adapter = read(&one(&bytes), &ReadOptions::default()).unwrap().adapter;
    if let Edit::Intervention(edit) = &mut adapter.edits[0] {
        edit.positions.phase = Phase::Prompt;
    }
    let written = write(&adapter, FormatId::Gguf, &WriteOptions::default()).unwrap();
    let lost = &written.losses[0];
    assert!(
        lost.changes_function() && lost.to_string().contains("a control vector acts on every token"),
        "{lost}"
    );
    adapter.edits.truncate(1);
    let error = write(&adapter, FormatId::Gguf, &WriteOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

/// A header with one tensor of four floats, and what is done to it.
fn forge(key: &str, value: &str, name: &str, (kind, dims, offset): (u32, &[u64], u64)) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(1u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    text(&mut out, key);
    out.extend(8u32.to_le_bytes());
    text(&mut out, value);
    text(&mut out, name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    [1f32, 2.0, 3.0, 4.0].iter().for_each(|number| out.extend(number.to_le_bytes()));
    out
}

fn codes(bytes: &[u8]) -> String {
    let findings = fitment_convert::gguf::check(&one(bytes), None).unwrap();
    findings.iter().map(|finding| finding.code.0).collect::<Vec<_>>().join(" ")
}

#[test]
fn lies_have_their_codes() {
    const ARCH: &str = "general.architecture";
    let sound = (0, &[4u64][..], 0);
    let good = forge(ARCH, "controlvector", "direction.1", sound);
    assert_eq!(codes(&good), "G011", "only the layer count is missing");
    let with = |name: &str, tensor| codes(&forge(ARCH, "controlvector", name, tensor));
    assert_eq!(with("direction.0", sound), "G009 G011");
    assert_eq!(with("direction.01", sound), "G009 G011");
    assert_eq!(with("blk.0.lora_a", sound), "G009 G011");
    assert_eq!(with("direction.1", (2, &[32], 0)), "G005");
    assert_eq!(with("direction.1", (1, &[8], 0)), "G009 G011", "F16");
    assert_eq!(with("direction.1", (0, &[2, 2], 0)), "G009 G011");
    assert_eq!(with("direction.1", (0, &[4, 1], 0)), "G011", "one axis, by ggml's count");
    assert_eq!(with("direction.1", (0, &[], 0)), "G004");
    assert_eq!(with("direction.1", (0, &[1, 1, 1, 1, 1], 0)), "G004");
    assert_eq!(with("direction.1", (0, &[u64::MAX, 4], 0)), "G004");
    assert_eq!(with("direction.1", (0, &[5], 0)), "G001");
    assert_eq!(with("direction.1", (0, &[4], 16)), "G006");
    assert_eq!(with("direction.1", (0, &[4], 32)), "G007");
    assert_eq!(with(&"n".repeat(64), sound), "G004");
    assert_eq!(with("", sound), "G004");
    assert_eq!(codes(&forge("", "controlvector", "direction.1", sound)), "G003");
    assert_eq!(codes(&forge(ARCH, "llama", "blk.0", sound)), "G008");
    assert_eq!(codes(&forge("general.name", "controlvector", "direction.1", sound)), "G008");
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        codes(&bytes)
    };
    assert_eq!(changed(4, 1), "G002");
    assert_eq!(changed(0, b'g'), "G002");
    assert_eq!(changed(4, 9), "G002");
    assert_eq!(changed(12, 1), "G001", "2³² tensors");
    assert_eq!(changed(22, 1), "G001", "a million keys");
    let end = good.len();
    assert_eq!(changed(end - 17, 1), "G007", "padding that is not zero");
    assert_eq!(codes(&[&good[..], &[0; 16]].concat()), "G011", "padded behind");
    assert_eq!(codes(&[&good[..], &[0; 32]].concat()), "G007");
    assert_eq!(codes(&[&good[..], b"x"].concat()), "G007");
    let nan = [&good[..end - 4], &f32::NAN.to_le_bytes()].concat();
    assert_eq!(codes(&nan), "G009 G011");
    assert_eq!(codes(&[&good[..end - 16], &[0; 16]].concat()), "G012 G011");
    let mut big_endian = good.clone();
    big_endian[4..8].copy_from_slice(&[0, 0, 0, 3]);
    let findings = fitment_convert::gguf::check(&one(&big_endian), None).unwrap();
    assert_eq!(findings[0].message, "the file is big-endian (version 3)");
}

#[test]
fn every_cut_and_every_flipped_bit_of_every_fixture_ends_in_a_result() {
    for case in cases() {
        let bytes = vector(&case);
        for end in 0..bytes.len() {
            let options = ReadOptions { from: Some(FormatId::Gguf), ..ReadOptions::default() };
            // Writers differ in whether they pad behind the last tensor.
            let is_padding = bytes.len() - end < 64 && bytes[end..].iter().all(|byte| *byte == 0);
            assert!(is_padding || read(&one(&bytes[..end]), &options).is_err(), "{end}");
        }
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            if let Ok(converted) =
                read(&one(&bytes), &ReadOptions { from: Some(FormatId::Gguf), ..ReadOptions::default() })
            {
                let written = write(&converted.adapter, FormatId::Gguf, &WriteOptions::default()).unwrap();
                let mut back = Vec::new();
                written.files[0].write_to(&mut back).unwrap();
                assert!(back == bytes, "bit {at} of {}", case.display());
            }
        }
    }
}
