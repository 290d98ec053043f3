//! Which files of a folder are its weights.

use super::{Access, Index, Shard};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names under which loaders look for weights: transformers, diffusers.
const STEMS: &[&str] = &["model", "diffusion_pytorch_model"];

/// Endings of other weight formats and what they are called.
const FOREIGN: &[(&str, &str)] = &[
    ("gguf", "GGUF"),
    ("bin", "a PyTorch pickle (.bin)"),
    ("pt", "a PyTorch pickle (.pt)"),
    ("pth", "a PyTorch pickle (.pth)"),
    ("ckpt", "a PyTorch pickle (.ckpt)"),
    ("h5", "HDF5"),
    ("msgpack", "Flax msgpack"),
    ("npz", "NumPy's archive"),
    ("onnx", "ONNX"),
];

/// The foreign weight format that a file's ending names.
pub(crate) fn foreign_format(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    FOREIGN.iter().find(|(known, _)| *known == ending).map(|(_, format)| *format)
}

/// Opens every shard of a folder.
pub(super) fn open(folder: &Path, access: Access) -> Result<(Vec<Shard>, Option<Index>)> {
    let exists = |name: &str| folder.join(name).symlink_metadata().is_ok();
    let mut found: Vec<String> = Vec::new();
    for stem in STEMS {
        let names = [format!("{stem}.safetensors.index.json"), format!("{stem}.safetensors")];
        found.extend(names.into_iter().filter(|name| exists(name)));
    }
    match found.as_slice() {
        [] => Err(no_weights(folder)?),
        [name] if name.ends_with(".json") => sharded(folder, name, access),
        [name] => Ok((vec![Shard::open(&folder.join(name), name, access)?], None)),
        [index, whole]
            if index.ends_with(".json") && Index::read(folder, index)?.entries().all(|(_, f)| f == whole) =>
        {
            sharded(folder, index, access)
        }
        [first, second, ..] => {
            let message = format!("holds both {first} and {second}: remove the one that is not meant");
            Err(Error::content(folder, message))
        }
    }
}

fn sharded(folder: &Path, name: &str, access: Access) -> Result<(Vec<Shard>, Option<Index>)> {
    let index = Index::read(folder, name)?;
    let files: BTreeSet<&str> = index.entries().map(|(_, file)| file).collect();
    let mut shards: Vec<Shard> = Vec::with_capacity(files.len());
    for file in files {
        let path = folder.join(file);
        if path.symlink_metadata().is_err() {
            return Err(Error::content(&path, format!("missing: {name} names this shard")));
        }
        shards.push(Shard::open(&path, file, access)?);
    }
    refuse_doubles(&shards)?;
    Ok((shards, Some(index)))
}

/// A tensor in two of the shards has two values; which one a loader takes depends on the loader.
fn refuse_doubles(shards: &[Shard]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for shard in shards {
        for entry in shard.container.entries() {
            if let Some(other) = seen.insert(entry.name.as_str(), &shard.name) {
                let message = format!("holds {:?}, which {other} holds too", entry.name);
                return Err(Error::content(&shard.path, message));
            }
        }
    }
    Ok(())
}

/// What to say about a folder in which no weights were found.
fn no_weights(folder: &Path) -> Result<Error> {
    let mut others: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        others.push(entry.map_err(Error::io(folder, "list"))?.path());
    }
    others.sort();
    let path = folder.to_owned();
    if others.iter().any(|path| path.file_name().is_some_and(|name| name == "adapter_config.json")) {
        return Ok(Error::NotABase { path, message: "is an adapter's folder, not a base checkpoint" });
    }
    if others.iter().any(|path| path.file_name().is_some_and(|name| name == "model_index.json")) {
        let message =
            "is a diffusers pipeline: name the folder of one component (unet, transformer, text_encoder)";
        return Ok(Error::NotABase { path, message });
    }
    if let Some((file, format)) =
        others.iter().find_map(|path| Some((path, foreign_format(path).filter(|_| path.is_file())?)))
    {
        if format == "GGUF" {
            let message = "has no model.safetensors and no index: name the GGUF file itself";
            return Ok(Error::NotABase { path, message });
        }
        return Ok(Error::WeightFormat { path: file.clone(), format });
    }
    let safetensors =
        others.iter().any(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    let message = if safetensors {
        "has no model.safetensors and no index: name the safetensors file that is the base"
    } else {
        "has no weights: no model.safetensors and no model.safetensors.index.json"
    };
    Ok(Error::NotABase { path, message })
}
