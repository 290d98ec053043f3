//! What came from PEFT goes back as it was: tensors bit for bit, the config byte for byte.

use crate::experts_back::OTHER_LAYOUTS;
use crate::fixture::{Base, Folder, cases, root, tensors_of, text, torch_tensors_of};
use fitment_convert::torch::{Archive, Item};
use fitment_convert::{Content, Files, FormatId, ReadOptions, WriteOptions, Written, read, write};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::tensor::Tensor;
use std::collections::BTreeMap;

/// Plain files by path, and the tensors of all containers by name.
type Parts = (BTreeMap<String, Vec<u8>>, BTreeMap<String, Tensor<'static>>);

fn parts(written: &Written<'_>) -> Parts {
    let (mut files, mut tensors) = (BTreeMap::new(), BTreeMap::new());
    for file in &written.files {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, file.byte_len());
        match file.content {
            Content::Container { .. } => tensors.extend(tensors_of(&bytes)),
            Content::Torch(_) => tensors.extend(torch_tensors_of(&bytes)),
            Content::Bytes(_) | Content::Pieces(_) => {}
        }
        files.insert(file.path.clone(), bytes);
    }
    (files, tensors)
}

fn assert_equal_tensors(name: &str, a: &BTreeMap<String, Tensor<'_>>, b: &BTreeMap<String, Tensor<'_>>) {
    assert!(a.keys().eq(b.keys()), "{name}: {:?} against {:?}", a.keys(), b.keys());
    for (key, a) in a {
        let b = &b[key];
        assert!(a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes(), "{name}: {key}");
    }
}

#[test]
fn every_case_comes_back_equal_with_and_without_a_stop_at_a_fitment_file() {
    let mut done = 0;
    for (name, path, case) in cases(&root()) {
        if OTHER_LAYOUTS.contains(&name.as_str()) {
            continue;
        }
        let folder = Folder::read(&path.join(text(&case, "adapter").unwrap()));
        let base = text(&case, "base").map(|base| Base::read(&path.join(base)));
        let base = base.as_ref().map(|base| base as &dyn Checkpoint);
        let files = folder.files();
        let Ok(converted) = read(&files, &ReadOptions { base, ..ReadOptions::default() }) else { continue };
        let stop = fitment_core::to_bytes(&converted.adapter).unwrap();
        for adapter in [&converted.adapter, &fitment_core::read(&stop).unwrap()] {
            let written = write(adapter, FormatId::Peft, &WriteOptions::default()).unwrap();
            assert_eq!(written.losses, [], "{name}");
            let (files_back, tensors_back) = parts(&written);
            let own = |path: &str| !path.contains('/') && path.starts_with("adapter_model");
            let original = files.iter().filter(|(path, _)| own(path)).flat_map(|(path, bytes)| {
                match path.rsplit('.').next() {
                    Some("safetensors") => tensors_of(bytes),
                    Some("bin") => torch_tensors_of(bytes),
                    _ => BTreeMap::new(),
                }
            });
            assert_equal_tensors(&name, &original.collect(), &tensors_back);
            assert_eq!(
                files_back["adapter_config.json"],
                files.get("adapter_config.json").unwrap(),
                "{name}"
            );
            // PEFT's writer and this one lay one dtype out alike: where it does, whole files are equal.
            if name == "linear" {
                assert_eq!(
                    files_back["adapter_model.safetensors"],
                    files.get("adapter_model.safetensors").unwrap()
                );
            }
        }
        done += 1;
    }
    assert!(done >= 45, "only {done} cases");
}

#[test]
fn kept_files_come_back_and_others_are_listed() {
    let folder = Folder::read(&root().join("resized_vocab/adapter"));
    let base = Base::read(&root().join("resized_vocab/base"));
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let converted = read(&folder.files(), &options).unwrap();
    let losses: Vec<(&str, bool)> =
        converted.losses.iter().map(|loss| (loss.id(), loss.changes_function())).collect();
    assert_eq!(losses, [("file_left", false), ("tokenizer_left", true), ("file_left", false)]);
    let files = folder.files();
    let converted = read(&files, &ReadOptions { keep_files: true, ..options }).unwrap();
    assert_eq!(converted.losses, []);
    let (written, _) = parts(&write(&converted.adapter, FormatId::Peft, &WriteOptions::default()).unwrap());
    for (path, bytes) in files.iter().filter(|(path, _)| !path.ends_with(".safetensors")) {
        assert_eq!(written[path], bytes, "{path}");
    }
}

#[test]
fn a_torch_file_comes_back_as_a_torch_file() {
    let folder = Folder::read(&root().join("pickled_adapter/adapter"));
    let base = Base::read(&root().join("pickled_adapter/base"));
    let files = folder.files();
    let converted = read(&files, &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap();
    let source = converted.adapter.source.as_ref().unwrap();
    assert_eq!(source.weights.as_deref(), Some("torch"));
    let written = write(&converted.adapter, FormatId::Peft, &WriteOptions::default()).unwrap();
    let (written, tensors) = parts(&written);
    assert!(written.keys().eq(["adapter_config.json", "adapter_model.bin"]));
    assert_eq!(tensors.len(), 8);
}

#[test]
fn a_torch_file_means_what_the_safetensors_file_means() {
    let sound = Folder::read(&root().join("linear/adapter"));
    let files = sound.files();
    let config = files.get("adapter_config.json").unwrap();
    let tensors = tensors_of(files.get("adapter_model.safetensors").unwrap());
    let items: Vec<Item<'_>> = tensors.into_iter().map(|(name, tensor)| Item::new(name, tensor)).collect();
    let mut bytes = Vec::new();
    Archive::new("adapter_model", &items).unwrap().write_to(&mut bytes).unwrap();
    let pickled: Files<'_> =
        [("adapter_config.json", config), ("adapter_model.bin", &bytes)].into_iter().collect();
    let read = |files: &Files<'_>| {
        let base = Base::read(&root().join("linear/base"));
        let mut adapter =
            read(files, &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap().adapter;
        adapter.source = None;
        fitment_core::to_bytes(&adapter).unwrap()
    };
    assert!(read(&pickled) == read(&files));
}

#[test]
fn shards_come_back_as_shards() {
    let folder = Folder::read(&root().join("sharded_adapter/adapter"));
    let base = Base::read(&root().join("sharded_adapter/base"));
    let files = folder.files();
    let converted = read(&files, &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap();
    let (written, _) = parts(&write(&converted.adapter, FormatId::Peft, &WriteOptions::default()).unwrap());
    let names = |name: &&str| name.contains("adapter_model");
    let original: Vec<&str> = files.iter().map(|(path, _)| path).filter(names).collect();
    assert!(written.keys().map(String::as_str).filter(names).eq(original.iter().copied()));
}

#[test]
fn an_adapter_of_a_sub_folder_goes_back_into_it() {
    let folder = Folder::read(&root().join("two_adapters/adapter"));
    let base = Base::read(&root().join("two_adapters/base"));
    let options = ReadOptions { base: Some(&base), adapter_name: Some("other"), ..ReadOptions::default() };
    let converted = read(&folder.files(), &options).unwrap();
    assert!(converted.losses.iter().any(|loss| loss.id() == "adapter_left"));
    let (written, tensors) =
        parts(&write(&converted.adapter, FormatId::Peft, &WriteOptions::default()).unwrap());
    assert!(written.keys().eq(["other/adapter_config.json", "other/adapter_model.safetensors"]));
    let original =
        crate::fixture::tensors(&root().join("two_adapters/adapter/other/adapter_model.safetensors"));
    assert_equal_tensors("other", &original, &tensors);
}

#[test]
fn a_changed_scale_gets_a_new_config() {
    let folder = Folder::read(&root().join("linear/adapter"));
    let base = Base::read(&root().join("linear/base"));
    let mut adapter =
        read(&folder.files(), &ReadOptions { base: Some(&base), ..ReadOptions::default() }).unwrap().adapter;
    if let fitment_core::model::Edit::Lora(lora) = &mut adapter.edits[0] {
        lora.scale *= 3.0;
    }
    let written = write(&adapter, FormatId::Peft, &WriteOptions::default()).unwrap();
    assert_eq!(written.losses[0].id(), "config_remade");
    let (files, _) = parts(&written);
    let files: BTreeMap<String, Vec<u8>> = files;
    let again = read(
        &files.iter().map(|(path, bytes)| (path.clone(), bytes.as_slice())).collect(),
        &ReadOptions { base: Some(&base), ..ReadOptions::default() },
    )
    .unwrap();
    let scales = |adapter: &fitment_core::Adapter<'_>| -> Vec<f64> {
        adapter
            .edits
            .iter()
            .map(|edit| match edit {
                fitment_core::model::Edit::Lora(lora) => lora.scale,
                _ => f64::NAN,
            })
            .collect()
    };
    assert_eq!(scales(&again.adapter), scales(&adapter));
}
