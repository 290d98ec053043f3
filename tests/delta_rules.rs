//! Every rule of the formats of deltas is broken by some file, and told by its code.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{Files, FormatId};
use fitment_core::container::write_container;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use std::collections::{BTreeMap, BTreeSet};

fn tensor(dtype: Dtype, dims: &[u64], bytes: &[u8]) -> Tensor<'static> {
    Tensor::owned(dtype, Shape::new(dims).unwrap(), bytes.to_vec()).unwrap()
}

fn file(tensors: &[(&str, Tensor<'static>)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata = metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
    let mut bytes = Vec::new();
    let items = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor));
    write_container(&metadata.collect::<BTreeMap<_, _>>(), items, &mut bytes).unwrap();
    bytes
}

fn index(dtype: Dtype, positions: &[i32]) -> Tensor<'static> {
    let bytes: Vec<u8> = positions.iter().flat_map(|position| position.to_le_bytes()).collect();
    tensor(dtype, &[positions.len() as u64], &bytes)
}

fn values(numbers: &[u16]) -> Tensor<'static> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tensor(Dtype::BF16, &[numbers.len() as u64], &bytes)
}

/// The codes that files break, and those of the table.
fn codes(format: FormatId, files: &[(&str, &[u8])]) -> BTreeSet<&'static str> {
    let files: Files<'_> = files.iter().copied().collect();
    let findings = (format.format().checks.unwrap().check)(&files, None).unwrap();
    for finding in &findings {
        assert!(!finding.message.contains('\n'), "{finding}");
    }
    findings.iter().map(|finding| finding.code.0).collect()
}

fn all(format: FormatId) -> BTreeSet<&'static str> {
    format.format().checks.unwrap().rules.iter().map(|rule| rule.code.0).collect()
}

#[test]
fn every_rule_of_patches_is_broken_by_some_file() {
    let pair = |of_index, of_value| [("w.indices", of_index), ("w.values", of_value)];
    let sound = pair(index(Dtype::I32, &[0, 3]), values(&[0x3f80, 0x4000]));
    let patch = |tensors: &[(&str, Tensor<'static>)], metadata: &[(&str, &str)]| {
        let named = [&[("format", "sparse_weight_patch")], metadata].concat();
        codes(FormatId::Trl, &[("patch.safetensors", &file(tensors, &named))])
    };
    assert!(patch(&sound, &[("num_changed_params", "1"), ("total_changed_elements", "2")]).is_empty());
    let far = tensor(Dtype::U32, &[2], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let broken = [
        codes(FormatId::Trl, &[("patch.safetensors", b"version https://git-lfs")]),
        codes(FormatId::Trl, &[]),
        patch(&sound, &[("version", "2")]),
        patch(&sound, &[("encoding", "nvcomp_cascaded")]),
        patch(&sound[..1], &[]),
        patch(&[("w", values(&[0]))], &[]),
        patch(&pair(index(Dtype::I32, &[0, 3]), values(&[0x3f80])), &[]),
        patch(&pair(index(Dtype::F32, &[0, 3]), values(&[0x3f80, 0x4000])), &[]),
        patch(&pair(index(Dtype::I32, &[3, 3]), values(&[0x3f80, 0x4000])), &[]),
        patch(&pair(index(Dtype::I32, &[-1, 3]), values(&[0x3f80, 0x4000])), &[]),
        patch(&pair(far, values(&[0x3f80, 0x4000])), &[("encoding", "gap_delta")]),
        patch(&pair(index(Dtype::I32, &[0, 3]), values(&[0x3f80, 0x7fc0])), &[]),
        patch(&pair(index(Dtype::I32, &[0, 3]), tensor(Dtype::U8, &[2], &[1, 2])), &[]),
        patch(&sound, &[("total_changed_elements", "7")]),
        patch(&sound, &[("changed_params", "[]")]),
        // Without a base there is nothing to hold the checksum against: deltas.rs has it.
        BTreeSet::from(["L009"]),
    ];
    for (number, codes) in broken.iter().enumerate() {
        assert_eq!(codes.len(), 1, "{number}: {codes:?}");
    }
    assert_eq!(broken.into_iter().flatten().collect::<BTreeSet<_>>(), all(FormatId::Trl));
}

#[test]
fn every_rule_of_folders_of_differences_is_broken_by_some_folder() {
    let half = |numbers: &[u16]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        tensor(Dtype::F16, &[numbers.len() as u64], &bytes)
    };
    let folder = |files: &[(&str, &[u8])]| codes(FormatId::Fastchat, files);
    let one = |tensors: &[(&str, Tensor<'static>)]| folder(&[("model.safetensors", &file(tensors, &[]))]);
    let sound = file(&[("w", half(&[0x3c00, 0]))], &[]);
    let index = |text: &'static str| {
        folder(&[("model.safetensors", &sound), ("model.safetensors.index.json", text.as_bytes())])
    };
    assert!(one(&[("w", half(&[0x3c00, 0])), ("n", tensor(Dtype::I64, &[1], &[0; 8]))]).is_empty());
    assert!(index(r#"{"weight_map": {"w": "model.safetensors"}}"#).is_empty());
    let broken = [
        folder(&[("config.json", b"{}")]),
        folder(&[("model.safetensors", b"version https://git-lfs")]),
        folder(&[("model-1.safetensors", &sound), ("model-2.safetensors", &sound)]),
        index("[]"),
        index(r#"{"weight_map": {"w": "other.safetensors"}}"#),
        index(r#"{"weight_map": {"w": "model.safetensors", "v": "model.safetensors"}}"#),
        index(r#"{"weight_map": {}}"#),
        one(&[("w", half(&[0x3c00])), ("n", tensor(Dtype::I64, &[1], &[1, 0, 0, 0, 0, 0, 0, 0]))]),
        one(&[("w", half(&[0x7c00]))]),
        one(&[("w", half(&[0]))]),
    ];
    for (number, codes) in broken.iter().enumerate() {
        assert_eq!(codes.len(), 1, "{number}: {codes:?}");
    }
    assert_eq!(broken.into_iter().flatten().collect::<BTreeSet<_>>(), all(FormatId::Fastchat));
}
