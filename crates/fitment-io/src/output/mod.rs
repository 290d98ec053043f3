//! A new checkpoint on disk.

mod carry;
mod config;
mod index;
mod shard;
mod write_back;

pub(crate) use carry::is_tokenizer;

use crate::atomic::{Place, Staging, below, create_new};
use crate::base::CheckpointDir;
use crate::error::{Error, Result};
use fitment_core::checkpoint::{Checkpoint as _, CheckpointError, CheckpointSink, OutputTensor};
use serde_json::Value;
use shard::{OutputShard, assign};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
pub(crate) use write_back::WriteBack;

/// A value to set in the carried `config.json`: keys from the outermost object to the value, and the value.
pub type ConfigEdit = (Vec<String>, Value);

/// How an output is made.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// Replace what is there.
    pub force: bool,
    /// Take tokenizer files from this folder instead of the base's.
    pub tokenizer: Option<PathBuf>,
    /// Other inputs that the output must not replace or lie in (adapters). The base and the tokenizer are known.
    pub inputs: Vec<PathBuf>,
}

/// What an output consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Weight files, by name.
    pub shards: Vec<String>,
    /// Files carried over from the base or from the tokenizer's folder.
    pub carried: Vec<String>,
    /// What the base's folder holds and the output does not: other weight formats, hidden files, linked folders.
    pub left_out: Vec<String>,
}

/// A checkpoint being written: a folder with the base's shards, or one safetensors file.
///
/// Until [`CheckpointOutput::finish`] everything lies under a hidden name beside its place; dropped before that, it
/// disappears.
#[derive(Debug)]
pub struct CheckpointOutput<'b> {
    base: &'b CheckpointDir,
    staging: Staging,
    shards: Vec<OutputShard>,
    /// Shard and entry of each tensor.
    places: BTreeMap<String, (usize, usize)>,
    finished: Finished,
}

impl<'b> CheckpointOutput<'b> {
    /// Prepares the output: checks its place and the free space, lays the tensors out in the base's files, gives them
    /// their full length, and writes everything but the tensors.
    ///
    /// A base of one file becomes one file when `target` ends in `.safetensors`, else a folder with that file.
    ///
    /// # Errors
    /// [`Error`]; then nothing is left behind.
    pub fn create(
        base: &'b CheckpointDir,
        target: &Path,
        (tensors, config): (&[&OutputTensor], &[ConfigEdit]),
        options: &OutputOptions,
    ) -> Result<Self> {
        let is_file = target.extension().is_some_and(|ending| ending == "safetensors");
        if is_file && base.is_folder() {
            let reason = "names a file, but the base is a folder: name a folder";
            return Err(Error::BadOutput { path: target.to_owned(), reason });
        }
        if base.is_gguf() && !is_file {
            let reason =
                "the base is a GGUF file, which has no config.json: name a file that ends in .safetensors";
            return Err(Error::BadOutput { path: target.to_owned(), reason });
        }
        if let Some(name) = base.unnamed().first() {
            let message = format!("holds {name:?}, whose name in transformers is not known");
            return Err(Error::content(base.path(), message));
        }
        let inputs: Vec<&Path> = [base.path()]
            .into_iter()
            .chain(options.tokenizer.as_deref())
            .chain(options.inputs.iter().map(PathBuf::as_path))
            .collect();
        let layouts = assign(base, tensors);
        let carried = carry::plan(base, options.tokenizer.as_deref())?;
        let written = carried.files.iter().map(|file| file.name.as_str());
        let place = match is_file {
            true => Place::file(target, options.force, &inputs)?,
            false => Place::folder(target, (options.force, &inputs), &written.collect())?,
        };
        let weights: u64 = layouts.iter().map(shard::PlannedShard::len).fold(0, u64::saturating_add);
        place.check_space(weights.saturating_add(carried.bytes()))?;

        let mut finished = Finished { left_out: carried.left_out.clone(), ..Finished::default() };
        let mut places = BTreeMap::new();
        let mut shards = Vec::with_capacity(layouts.len());
        let write_back = WriteBack::start();
        let staging = if is_file {
            let (staging, file) = Staging::file(place)?;
            let only = layouts.into_iter().next().unwrap_or_default();
            shards.push(only.open(staging.path().to_owned(), file, write_back)?);
            staging
        } else {
            let staging = Staging::folder(place)?;
            for planned in layouts {
                let path = below(staging.path(), &planned.name)?;
                let file = create_new(&path)?;
                shards.push(planned.open(path, file, write_back.clone())?);
            }
            staging
        };
        for (number, shard) in shards.iter().enumerate() {
            let entries = shard.entries.iter().enumerate();
            places.extend(entries.map(|(at, entry)| (entry.name.clone(), (number, at))));
            finished.shards.push(shard.name.clone());
        }
        let output = Self { base, staging, shards, places, finished };
        if is_file { Ok(output) } else { output.add_files(&carried, config) }
    }

    /// Everything of the folder that is not weights.
    fn add_files(mut self, carried: &carry::Carried, config: &[ConfigEdit]) -> Result<Self> {
        let folder = self.staging.path();
        for file in &carried.files {
            carry::copy(&file.from, &below(folder, &file.name)?)?;
            self.finished.carried.push(file.name.clone());
        }
        if let Some(text) = &self.base.config_text {
            let text = config::edit(text, config)
                .map_err(|message| Error::content(&self.base.path().join("config.json"), message))?;
            carry::write(&folder.join("config.json"), text.as_bytes())?;
            self.finished.carried.push("config.json".to_owned());
        }
        if let Some(base) = &self.base.index {
            let text = index::text(base, &self.shards);
            carry::write(&folder.join(&base.name), text.as_bytes())?;
        }
        self.finished.carried.sort();
        Ok(self)
    }

    /// Where the output lies until it is finished: complete and readable once all tensors are written.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Makes everything durable and puts the output in its place.
    ///
    /// # Errors
    /// [`Error`]; then the output is not there, and what was there before still is.
    pub fn finish(self) -> Result<Finished> {
        shard::sync_all(&self.shards)?;
        self.staging.commit()?;
        Ok(self.finished)
    }

    fn place(&self, name: &str) -> std::result::Result<(&OutputShard, usize), CheckpointError> {
        let (shard, entry) = self.places.get(name).ok_or_else(|| CheckpointError::missing(name))?;
        Ok((&self.shards[*shard], *entry))
    }
}

impl CheckpointSink for CheckpointOutput<'_> {
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> std::result::Result<(), CheckpointError> {
        let (shard, entry) = self.place(name)?;
        shard.write(entry, at, bytes)
    }

    fn copy(&self, name: &str, from: &str) -> std::result::Result<(), CheckpointError> {
        let (shard, entry) = self.place(name)?;
        if self.base.is_gguf() {
            return shard.write(entry, 0, &self.base.read(from)?);
        }
        let (source, place) = self.base.place(from).ok_or_else(|| CheckpointError::missing(from))?;
        shard.copy(entry, &source.file, source.range(place))
    }
}
