//! A base checkpoint on disk.

mod folder;
mod index;
mod model;
mod shard;

pub(crate) use index::Index;
pub(crate) use shard::Shard;

use crate::error::{Error, Result};
use crate::file;
use fitment_core::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use fitment_core::json;
use fitment_core::limits::MAX_CONFIG_BYTES;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How the bytes of tensors are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Through a map of the file: nothing is copied.
    #[default]
    Map,
    /// Into memory, tensor by tensor: for file systems whose files may vanish or shrink under a map.
    Read,
}

/// A base checkpoint: a Hugging Face folder, sharded or not, one safetensors file, or a GGUF file by the names of transformers.
#[derive(Debug)]
pub struct CheckpointDir {
    root: PathBuf,
    is_folder: bool,
    pub(crate) shards: Vec<Shard>,
    pub(crate) index: Option<Index>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Shard and entry of each tensor.
    places: BTreeMap<String, (usize, usize)>,
    config: Option<Map<String, Value>>,
    pub(crate) config_text: Option<String>,
    model: Option<model::ModelFile>,
}

impl CheckpointDir {
    /// Opens the checkpoint and reads every header. What the index says is trusted over what lies in the folder.
    ///
    /// # Errors
    /// [`Error`] when it is no checkpoint of safetensors, when a shard is missing, broken or a git-lfs pointer, when the
    /// index and the shards disagree, or when a path in the index would leave the folder.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let is_folder = file::stat(path)?.is_dir();
        if !is_folder && model::is_gguf(path)? {
            return Self::of_model(path);
        }
        let (shards, index) = if is_folder { folder::open(path, access)? } else { single(path, access)? };
        let mut base = Self {
            root: path.to_owned(),
            is_folder,
            shards,
            index,
            tensors: BTreeMap::new(),
            places: BTreeMap::new(),
            config: None,
            config_text: None,
            model: None,
        };
        base.list_tensors()?;
        if is_folder {
            base.read_config()?;
        }
        Ok(base)
    }

    fn of_model(path: &Path) -> Result<Self> {
        let file = model::ModelFile::open(path)?;
        Ok(Self {
            root: path.to_owned(),
            is_folder: false,
            shards: Vec::new(),
            index: None,
            tensors: file.model.tensors().clone(),
            places: BTreeMap::new(),
            config: Some(file.model.config().clone()),
            config_text: None,
            model: Some(file),
        })
    }

    /// Whether it is a GGUF file.
    pub(crate) fn is_gguf(&self) -> bool {
        self.model.is_some()
    }

    /// Tensors of a GGUF file whose names in transformers are not known.
    pub(crate) fn unnamed(&self) -> &[String] {
        self.model.as_ref().map_or(&[], |file| file.model.unnamed())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether it is a folder, not a single file.
    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// The shard that holds a tensor, and the tensor's number among the shard's entries.
    pub(crate) fn place(&self, name: &str) -> Option<(&Shard, usize)> {
        let (shard, entry) = self.places.get(name)?;
        Some((&self.shards[*shard], *entry))
    }

    /// The number of the shard that holds a tensor.
    pub(crate) fn shard_of(&self, name: &str) -> Option<usize> {
        self.places.get(name).map(|(shard, _)| *shard)
    }

    fn list_tensors(&mut self) -> Result<()> {
        for (number, shard) in self.shards.iter().enumerate() {
            for (at, entry) in shard.container.entries().iter().enumerate() {
                let info = TensorInfo { dtype: entry.dtype, shape: entry.shape.clone() };
                self.tensors.insert(entry.name.clone(), info);
                self.places.insert(entry.name.clone(), (number, at));
            }
        }
        let Some(index) = &self.index else { return Ok(()) };
        let is_there = |name: &str, file: &str| {
            self.places.get(name).is_some_and(|(shard, _)| self.shards[*shard].name == file)
        };
        match index.entries().find(|(name, file)| !is_there(name, file)) {
            None => Ok(()),
            Some((name, file)) => Err(Error::content(
                &self.root.join(file),
                format!("lacks {name:?}, which the index puts there"),
            )),
        }
    }

    fn read_config(&mut self) -> Result<()> {
        let path = self.root.join("config.json");
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let bytes = file::read_small(&path, MAX_CONFIG_BYTES as u64)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::content(&path, "not UTF-8"))?;
        match json::parse(text.as_bytes()) {
            Ok(Value::Object(config)) => self.config = Some(config),
            Ok(_) => return Err(Error::content(&path, "not a JSON object")),
            Err(fault) => return Err(Error::Json { path, fault }),
        }
        self.config_text = Some(text);
        Ok(())
    }
}

fn single(path: &Path, access: Access) -> Result<(Vec<Shard>, Option<Index>)> {
    if let Some(format) = folder::foreign_format(path) {
        return Err(Error::WeightFormat { path: path.to_owned(), format });
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::NotUnicode { path: path.to_owned() })?;
    Ok((vec![Shard::open(path, name, access)?], None))
}

impl Checkpoint for CheckpointDir {
    fn config(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str) -> std::result::Result<Cow<'_, [u8]>, CheckpointError> {
        if let Some(file) = &self.model {
            return file.read(name);
        }
        let (shard, entry) = self.place(name).ok_or_else(|| CheckpointError::missing(name))?;
        shard.read(entry)
    }

    fn quantised(&self, name: &str) -> Option<&'static str> {
        self.model.as_ref()?.model.quantised(name)
    }
}
