//! Adapter folders as the tests change them, and what an adapter makes of its base.

use crate::compare::{Distance, distance};
use crate::place::scratch;
use crate::program::fitment;
use fitment_convert::Files;
use fitment_convert::torch::{Archive, Item, TorchFile};
use fitment_core::container::{read_foreign, write_container};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Files by name.
pub type Folder = BTreeMap<String, Vec<u8>>;

/// Dtype, shape and bytes of a tensor.
pub type Stored = (Dtype, Vec<u64>, Vec<u8>);

/// Tensors by name.
pub type Tensors = BTreeMap<String, Stored>;

/// The files of a folder.
///
/// # Panics
/// If it cannot be read.
pub fn load(folder: &Path) -> Folder {
    let name = |path: &Path| path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    let entries = fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    paths.map(|path| (name(&path), fs::read(path).expect("a file can be read"))).collect()
}

/// The same as a reader takes them.
pub fn files(folder: &Folder) -> Files<'_> {
    folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect()
}

/// The tensors of a safetensors file.
///
/// # Panics
/// If it is none.
pub fn tensors(bytes: &[u8]) -> Tensors {
    let container = read_foreign(bytes).expect("the file is safetensors");
    let entry = |entry: &fitment_core::container::Entry| {
        let data = bytes[container.data_range(entry)].to_vec();
        (entry.name.clone(), (entry.dtype, entry.shape.dims().to_vec(), data))
    };
    container.entries().iter().map(entry).collect()
}

/// A safetensors file of tensors.
///
/// # Panics
/// If one is shorter than its shape.
pub fn stored(tensors: &Tensors) -> Vec<u8> {
    let owned = |(name, (dtype, dims, bytes)): (&String, &Stored)| {
        let shape = Shape::new(dims).expect("the shape is one");
        (name.clone(), Tensor::owned(*dtype, shape, bytes.clone()).expect("the bytes are of the shape"))
    };
    let owned: Vec<(String, Tensor<'static>)> = tensors.iter().map(owned).collect();
    let mut bytes = Vec::new();
    let all = owned.iter().map(|(name, tensor)| (name.clone(), tensor));
    write_container(&BTreeMap::new(), all, &mut bytes).expect("every name comes once");
    bytes
}

/// A torch file whose tensors are changed: `change` gives the key and the tensor that take the place of one, or none.
///
/// # Panics
/// If it is no flat dict of tensors.
pub fn changed_torch<'a>(
    bytes: &'a [u8],
    change: impl Fn(&str, Tensor<'a>) -> Option<(String, Tensor<'a>)>,
) -> Vec<u8> {
    let state =
        TorchFile::read("x.pt", bytes).and_then(|file| file.state_dict()).expect("the file is torch's");
    let items: Vec<Item<'_>> = state
        .tensors
        .into_iter()
        .filter_map(|named| change(&named.name, named.tensor))
        .map(|(name, tensor)| Item::new(name, tensor))
        .collect();
    let mut written = Vec::new();
    Archive::new("x", &items)
        .and_then(|archive| archive.write_to(&mut written))
        .expect("the items are tensors");
    written
}

/// How far `fitment apply` on a base is from what a tool has made of it, by tensor; the bytes of each are compared too.
///
/// # Panics
/// If it fails, or if the tool has a tensor that is not there.
pub fn applied(
    base: &Path,
    adapter: &Path,
    options: &[&str],
    merged: &Tensors,
) -> BTreeMap<String, Distance> {
    let room = scratch();
    let out = room.path().join("out");
    let output = fitment().arg("apply").args([base, adapter]).args(options).arg("-o").arg(&out).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{adapter:?}: {}", String::from_utf8_lossy(&output.stderr));
    let read =
        |folder: &Path| tensors(&fs::read(folder.join("model.safetensors")).expect("a checkpoint is there"));
    let (old, new) = (read(base), read(&out));
    let compare = |(name, (dtype, dims, theirs)): (&String, &(Dtype, Vec<u64>, Vec<u8>))| {
        let ours = new.get(name).unwrap_or_else(|| panic!("{adapter:?}: there is no {name}"));
        assert_eq!((&ours.0, &ours.1), (dtype, dims), "{adapter:?}: {name}");
        (name.clone(), distance(*dtype, &ours.2, theirs, old.get(name).map(|tensor| &tensor.2[..])))
    };
    merged.iter().map(compare).collect()
}
