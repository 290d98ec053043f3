//! Files that go from the base's folder into the output's as they are.

use crate::adapter::relative;
use crate::atomic::create_new;
use crate::base::CheckpointDir;
use crate::error::{Error, Result};
use crate::{file, sys};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Folders inside folders: a sentence-transformers model has one level.
const MAX_DEPTH: usize = 5;

/// Endings of files that hold weights, in any format.
const WEIGHTS: &[&str] = &[
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "ggml",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "ot",
    "npz",
    "npy",
    "tflite",
    "mlmodel",
    "mlpackage",
    "pkl",
    "pickle",
    "pdparams",
    "engine",
    "llamafile",
];

/// Files of a tokenizer, by name; others by their ending.
const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "target.spm",
    "chat_template.jinja",
    "chat_template.json",
    "bpe.codes",
];
const TOKENIZER_ENDINGS: &[&str] = &["tiktoken", "spm"];

/// One file to carry.
#[derive(Debug)]
pub(super) struct CarriedFile {
    /// Path below the output folder.
    pub(super) name: String,
    pub(super) from: PathBuf,
    len: u64,
}

/// All files to carry.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) files: Vec<CarriedFile>,
    pub(super) left_out: Vec<String>,
}

impl Carried {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).fold(0, u64::saturating_add)
    }
}

/// What of the base's folder, and of the tokenizer's, goes along.
pub(super) fn plan(base: &CheckpointDir, tokenizer: Option<&Path>) -> Result<Carried> {
    let mut carried = Carried::default();
    if base.is_folder() {
        walk(base, base.path(), MAX_DEPTH, &mut carried)?;
    }
    if let Some(folder) = tokenizer {
        take_tokenizer(folder, &mut carried)?;
    }
    carried.files.sort_by(|a, b| a.name.cmp(&b.name));
    carried.left_out.sort();
    Ok(carried)
}

fn walk(base: &CheckpointDir, folder: &Path, depth: usize, carried: &mut Carried) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let path = entry.path();
        let Ok(name) = relative(base.path(), &path) else {
            // No loader asks for a name that is not Unicode.
            carried.left_out.push(path.display().to_string());
            continue;
        };
        let kind = entry.file_type().map_err(Error::io(&path, "open"))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            carried.left_out.push(name);
        } else if kind.is_dir() && depth > 0 {
            walk(base, &path, depth - 1, carried)?;
        } else if !is_written_anew(base, &name) {
            let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
            match meta.filter(|_| !is_weights(&name)) {
                Some(meta) => carried.files.push(CarriedFile { name, from: path, len: meta.len() }),
                None => carried.left_out.push(name),
            }
        }
    }
    Ok(())
}

/// The base's weights, its index and its config have their own successors.
fn is_written_anew(base: &CheckpointDir, name: &str) -> bool {
    name == "config.json"
        || base.shards.iter().any(|shard| shard.name == name)
        || base.index.as_ref().is_some_and(|index| index.name == name)
}

fn is_weights(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `pytorch_model.bin.index.json` and its kin name weights that are not there any more.
    let name = name.strip_suffix(".index.json").unwrap_or(&name);
    name.rsplit_once('.').is_some_and(|(_, ending)| WEIGHTS.contains(&ending))
}

pub(crate) fn is_tokenizer(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    TOKENIZER.contains(&name) || ending.is_some_and(|ending| TOKENIZER_ENDINGS.contains(&ending))
}

/// Replaces the base's tokenizer by another one: none of the old files stays, for a tokenizer is made of all its files.
fn take_tokenizer(folder: &Path, carried: &mut Carried) -> Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let path = entry.path();
        let name = entry.file_name().to_str().map(str::to_owned).unwrap_or_default();
        if is_tokenizer(&name) {
            let len = file::stat(&path)?.len();
            files.push(CarriedFile { name, from: path, len });
        }
    }
    if files.is_empty() {
        return Err(Error::content(
            folder,
            "holds no tokenizer: neither tokenizer.json nor another of its files",
        ));
    }
    carried.files.retain(|file| !is_tokenizer(&file.name));
    carried.files.extend(files);
    Ok(())
}

/// Copies a small file and makes it durable.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let (source, len) = file::open(from)?;
    file::refuse_pointer(from, &source, len)?;
    let target = create_new(to)?;
    sys::copy_range(&source, 0, &target, 0, len).map_err(Error::io(to, "write"))?;
    target.sync_all().map_err(Error::io(to, "write"))
}

/// Writes a small file and makes it durable.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(path, "write"))
}
