//! What torch saved is read as torch reads it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::container::read_foreign;
use fitment_torch::{Form, Kind, Order, TorchFile, is_torch};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch/sound")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// Dtype, shape and bytes by name.
type Plain = BTreeMap<String, (String, Vec<u8>)>;

fn torch(name: &str) -> Plain {
    let bytes = bytes(name);
    let state = TorchFile::read(name, &bytes).unwrap().state_dict().unwrap();
    let plain = |named: fitment_torch::Named<'_>| {
        let tensor = named.tensor;
        (named.name, (format!("{} {}", tensor.dtype(), tensor.shape()), tensor.bytes().to_vec()))
    };
    state.tensors.into_iter().map(plain).collect()
}

fn expected(name: &str) -> Plain {
    let bytes = bytes(name);
    let container = read_foreign(&bytes).unwrap();
    let plain = |entry: &fitment_core::container::Entry| {
        let data = bytes[container.data_range(entry)].to_vec();
        (entry.name.clone(), (format!("{} {}", entry.dtype, entry.shape), data))
    };
    container.entries().iter().map(plain).collect()
}

#[test]
fn values_are_those_that_torch_sees() {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut seen = 0;
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "safetensors")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(is_torch(&bytes(&format!("{name}.bin"))), "{name}");
        assert_eq!(torch(&format!("{name}.bin")), expected(&format!("{name}.safetensors")), "{name}");
        seen += 1;
    }
    assert!(seen > 15, "{seen} files");
}

#[test]
fn both_forms_are_told_apart() {
    let form = |name: &str| TorchFile::read(name, &bytes(name)).unwrap().form().clone();
    assert_eq!(form("zip_4.bin"), Form::Zip { stem: "zip_4".to_owned() });
    assert_eq!(form("legacy_4.bin"), Form::Legacy);
}

#[test]
fn layouts_are_kept_in_view() {
    let bytes = bytes("strides.bin");
    let state = TorchFile::read("strides.bin", &bytes).unwrap().state_dict().unwrap();
    let orders: Vec<(&str, Order)> =
        state.tensors.iter().map(|named| (named.name.as_str(), named.view.order())).collect();
    assert_eq!(
        orders,
        [
            ("permuted", Order::Other),
            ("cut", Order::Other),
            ("expanded", Order::Other),
            ("scalar", Order::RowMajor),
            ("empty", Order::RowMajor),
            ("column", Order::ColumnMajor),
            ("unit", Order::RowMajor),
            ("row", Order::RowMajor),
            ("channels_last", Order::Other),
        ]
    );
}

#[test]
fn tied_tensors_share_a_storage() {
    let bytes = bytes("shared.bin");
    let state = TorchFile::read("shared.bin", &bytes).unwrap().state_dict().unwrap();
    let [embed, head, first, last] = &state.tensors[..] else { panic!("four tensors") };
    assert!(embed.tensor.is_same(&head.tensor));
    assert_eq!(embed.view.storage(), last.view.storage());
    assert_eq!(first.view.storage(), last.view.storage());
    assert_eq!(last.view.offset(), 9);
}

#[test]
fn values_beside_tensors_are_named_and_readable() {
    let bytes = bytes("checkpoint.bin");
    let file = TorchFile::read("checkpoint.bin", &bytes).unwrap();
    let others = file.state_dict().unwrap().others;
    assert!(
        others.contains(&"epoch".to_owned()) && others.contains(&"optimizer.param_groups.0.lr".to_owned())
    );
    let root = file.root();
    assert!(matches!(root.get("epoch").unwrap().kind(), Kind::Int(3)));
    assert!(matches!(root.get("negative").unwrap().kind(), Kind::Int(-5)));
    assert!(matches!(root.get("loss").unwrap().kind(), Kind::Float(0.25)));
    assert!(matches!(root.get("none").unwrap().kind(), Kind::None));
    assert!(matches!(root.get("bytes").unwrap().kind(), Kind::Bytes(b"\x00\xff")));
    assert!(matches!(root.get("big").unwrap().kind(), Kind::Other));
    assert_eq!(root.get("name").unwrap().as_text(), Some("run é"));
    assert_eq!(root.get("shape").unwrap().items().count(), 2);
    assert!(root.get("set").unwrap().items().next().is_some());
    assert!(root.get("nothing").is_none());
    // The state dict of a module has attributes.
    let metadata = root.get("model").unwrap().attributes().unwrap().get("_metadata").unwrap();
    assert_eq!(metadata.pairs().count(), 3);
}

#[test]
fn a_tensor_alone_is_a_value_and_no_state_dict() {
    let bytes = bytes("tensor_alone.bin");
    let file = TorchFile::read("tensor_alone.bin", &bytes).unwrap();
    let view = file.root().as_tensor().unwrap();
    assert_eq!(file.tensor(view).unwrap().dims(), &[3]);
    let error = file.state_dict().unwrap_err();
    assert_eq!(error.to_string(), "tensor_alone.bin: the file holds a tensor, a dict of tensors is expected");
}
