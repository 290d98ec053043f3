//! The files of an adapter on their way to a reader.

use crate::base::{Headers, refuse_deltas};
use crate::error::{self, Result, error};
use crate::opened::Opened;
use crate::output::Output;
use crate::room::Room;
use crate::said::Said;
use fitment_convert::{FormatId, ReadOptions};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::container::{Container, Profile, read_header};
use fitment_validate::{Input, Options, Outcome, output as reports, validate};
use serde_json::json;
use std::collections::BTreeMap;
use wasm_bindgen::prelude::wasm_bindgen;

/// Index tensors up to this size are fetched with the header of a large file: what acts where lies in them.
const SMALL_TENSOR: u64 = 1 << 20;

/// The files of one adapter, by path; of large safetensors files only what has been read so far.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct File {
    /// All of its bytes; of a file that is read in parts, zeros where nothing came yet.
    pub(crate) bytes: Room,
    /// Only the header, and index tensors, are really there.
    pub(crate) is_partial: bool,
}

#[wasm_bindgen]
impl Files {
    /// No files.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a whole file, under its path inside the adapter's folder, or its name.
    pub fn add(&mut self, path: String, bytes: Vec<u8>) {
        self.files.insert(path, File { bytes: Room::Own(bytes), is_partial: false });
    }

    /// Adds a safetensors file of `size` bytes of which only the first ones, with the whole header, are at hand.
    ///
    /// # Errors
    /// When the file is larger than what fits beside it in memory, or the header is not there.
    #[wasm_bindgen(js_name = addHeader)]
    pub fn add_header(&mut self, path: String, size: f64, prefix: &[u8]) -> Result<()> {
        let too_large = || error(&format!("{path}: too large to be opened in a browser"), Some(COMMAND_LINE));
        // Exact below 2⁵³; a fraction or a negative number would be cut, and is no size of a file.
        let size = size as u64;
        let len = usize::try_from(size).map_err(|_| too_large())?;
        let needed = prefix.first_chunk().map(|first| fitment_core::container::header_len(*first) + 8);
        if needed.is_none_or(|needed| needed > prefix.len() as u64) || prefix.len() > len {
            return Err(error(&format!("{path}: its header is not whole"), None));
        }
        let mut bytes = Room::fresh(len).ok_or_else(too_large)?;
        bytes.as_mut_slice()[..prefix.len()].copy_from_slice(prefix);
        self.files.insert(path, File { bytes, is_partial: true });
        Ok(())
    }

    /// Which parts of the files that were not read whole a reader has to see beside the header, as `[{path, start, end}]`: numbers
    /// of rows, positions, configs and digests. Those that lie in tensors of more than 1 MiB are left out.
    #[must_use]
    pub fn wants(&self) -> String {
        let mut wants = Vec::new();
        for (path, file) in self.files.iter().filter(|(_, file)| file.is_partial) {
            let Some(container) = container(file.bytes.as_slice()) else { continue };
            for entry in container.entries().iter().filter(|entry| !entry.dtype.is_weight()) {
                let range = container.data_range(entry);
                if range.len() as u64 <= SMALL_TENSOR {
                    wants.push(json!({"path": path, "start": range.start, "end": range.end}));
                }
            }
        }
        json!(wants).to_string()
    }

    /// Puts bytes to their place in a file that is read in parts.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn fill(&mut self, path: &str, at: f64, bytes: &[u8]) -> Result<()> {
        let file = self.files.get_mut(path);
        let place =
            file.and_then(|file| file.bytes.as_mut_slice().get_mut(at as usize..)?.get_mut(..bytes.len()));
        place.ok_or_else(|| error(&format!("{path}: no such place"), None))?.copy_from_slice(bytes);
        Ok(())
    }

    /// The format of the files.
    ///
    /// # Errors
    /// When none fits, or several do.
    pub fn detect(&self) -> Result<String> {
        let format = fitment_convert::detect(&self.blobs()).map_err(|failed| error::of_convert(&failed))?;
        Ok(format.to_string())
    }

    /// What `fitment validate --json` says of the files, without values where they are not all at hand.
    ///
    /// # Errors
    /// When the caller must say more, such as which of several formats it is.
    pub fn verdict(&self, name: &str, said: Option<String>) -> Result<String> {
        let found = outcome((name, &self.blobs(), self.is_partial()), said.as_deref(), None)?;
        Ok(reports::json(&[found]))
    }

    /// Converts the files. What the result lacks is in [`Output::losses`]; whoever takes it on says so.
    ///
    /// # Errors
    /// When the files cannot be read, or written in that format.
    pub fn convert(&self, to: &str, said: Option<String>) -> Result<Output> {
        whole(self.is_partial())?;
        let said = Said::parse(said.as_deref())?;
        Output::read(&self.blobs(), format(to)?, &said.options()?)
    }

    /// Reads the adapter; where it takes a base to know what the files do, with the headers of one. The files then stay where they
    /// are for as long as the module lives.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(self, said: Option<String>, base: Option<Headers>) -> Result<Opened> {
        let said = Said::parse(said.as_deref())?;
        let partial = self.is_partial();
        let base = base.as_ref().map(|base| base as &dyn Checkpoint);
        if base.is_some() {
            refuse_deltas(&self.detect()?)?;
        }
        let leaked = |(path, file): (String, File)| (path, file.bytes.leak());
        let files: Vec<(String, &'static [u8])> = self.files.into_iter().map(leaked).collect();
        let options = ReadOptions { unverified: partial, base, ..said.options()? };
        Opened::read(files, &options, partial)
    }
}

/// The files with the mark of those of which only headers are at hand.
pub(crate) fn marked(files: fitment_convert::Files<'_>, are_headers: bool) -> fitment_convert::Files<'_> {
    if are_headers { files.headers() } else { files }
}

/// Refuses what needs values of files that were not read whole.
pub(crate) fn whole(is_partial: bool) -> Result<()> {
    let message = "the values of the tensors are not at hand";
    if is_partial { Err(error(message, Some("read the files whole"))) } else { Ok(()) }
}

/// The format of that name.
pub(crate) fn format(name: &str) -> Result<FormatId> {
    name.parse().map_err(|fault: fitment_convert::NoSuchFormat| error(&fault.to_string(), None))
}

const COMMAND_LINE: &str = "`fitment inspect` and `fitment validate` read files of any size";

impl Files {
    fn blobs(&self) -> fitment_convert::Files<'_> {
        let files = self.files.iter().map(|(path, file)| (path.clone(), file.bytes.as_slice()));
        marked(files.collect(), self.is_partial())
    }

    fn is_partial(&self) -> bool {
        self.files.values().any(|file| file.is_partial)
    }
}

/// What the validator says of files that have a name, as deep as they are at hand.
pub(crate) fn outcome(
    (name, files, is_partial): (&str, &fitment_convert::Files<'_>, bool),
    said: Option<&str>,
    base: Option<&Headers>,
) -> Result<Outcome> {
    let said = Said::parse(said)?;
    let options = Options { structure_only: is_partial || base.is_some(), ..Options::default() };
    let input = Input { name, files, options: said.options()? };
    let base = base.map(|base| base as &dyn Checkpoint);
    validate(&input, base, &options).map_err(|failed| match failed {
        fitment_validate::Error::Input(failed) => error::of_convert(&failed),
        failed => error(&failed.to_string(), None),
    })
}

/// The header of a safetensors file, as far as it can be read.
pub(crate) fn container(bytes: &[u8]) -> Option<Container> {
    read_header(bytes, bytes.len() as u64, Profile::Foreign).ok().map(|(container, _)| container)
}
