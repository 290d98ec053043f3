//! The files of a version: its index, and the changed tensors with their checksums.

use super::checksum::Checksum;
use super::encoding::Encoding;
use super::rules;
use crate::error::{Error, one_line};
use crate::files::Files;
use crate::several;
use fitment_core::container::{Container, Profile, read_header};
use fitment_core::limits::MAX_FOREIGN_HEADER_BYTES;
use fitment_core::tensor::Dtype;
use fitment_core::{Finding, Severity, json, payload};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Keys of the index's `metadata`.
pub(super) const VERSION: &str = "version";
pub(super) const BASE_VERSION: &str = "base_version";
pub(super) const ENCODING: &str = "delta_encoding";
pub(super) const COMPRESSION: &str = "compression_format";
pub(super) const CHECKSUM: &str = "checksum_format";
pub(super) const ZSTD: &str = "zstd";

/// The change of one tensor.
#[derive(Debug)]
pub(super) struct Delta<'a> {
    pub(super) name: String,
    /// One zstd frame.
    pub(super) frame: &'a [u8],
    /// Bytes that it announces.
    pub(super) content: u64,
    /// Of the new bytes.
    pub(super) checksum: String,
}

/// One version.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    /// Empty for the root, else the sub-folder with a slash behind it.
    pub(super) prefix: String,
    /// The sub-folders of other versions.
    pub(super) others: Vec<String>,
    /// The index's `metadata`, as far as they are texts.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) encoding: Option<Encoding>,
    pub(super) checksum: Option<Checksum>,
    /// In order of the names. Only sound ones.
    pub(super) deltas: Vec<Delta<'a>>,
    /// Paths of all files that were read.
    pub(super) used: BTreeSet<String>,
    pub(super) findings: Vec<Finding>,
}

/// The sub-folders (with a slash behind; empty for the root) that hold a version.
pub(super) fn versions(files: &Files<'_>) -> BTreeSet<String> {
    let prefix = |path: &str| {
        path.strip_suffix(INDEX)
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('/'))
            .map(str::to_owned)
    };
    files.iter().filter_map(|(path, bytes)| prefix(path).filter(|_| is_delta(bytes))).collect()
}

/// Whether an index is that of a delta: ordinary sharded checkpoints have one of the same name. A damaged one that speaks of an
/// encoding is.
fn is_delta(index: &[u8]) -> bool {
    let key = format!("\"{ENCODING}\"");
    if !index.windows(key.len()).any(|window| window == key.as_bytes()) {
        return false;
    }
    json::parse(index)
        .map_or(true, |index| index.get("metadata").is_some_and(|meta| meta.get(ENCODING).is_some()))
}

/// Opens the version that is meant.
///
/// # Errors
/// [`Error::Ambiguous`] when the folder holds several and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let mut folders = versions(files);
    let prefix = several::choose(&folders, adapter_name)?;
    folders.remove(&prefix);
    let mut folder = Folder { prefix, others: folders.into_iter().collect(), ..Folder::default() };
    let path = format!("{}{INDEX}", folder.prefix);
    let Some(bytes) = files.get(&path) else {
        folder.breach(&rules::S_INDEX, path, "is missing");
        return Ok(folder);
    };
    folder.used.insert(path);
    if let Some(map) = folder.read_index(bytes) {
        folder.read_files(files, &map);
    }
    Ok(folder)
}

impl<'a> Folder<'a> {
    /// What the metadata say under a key; nothing where they do not.
    pub(super) fn said(&self, key: &str) -> &str {
        self.metadata.get(key).map_or("", String::as_str)
    }

    fn breach(
        &mut self,
        rule: &fitment_core::finding::Rule,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.findings.push(Finding::new(rule, one_line(&place.into()), message));
    }

    /// Reads the metadata; gives `weight_map`, where there is one.
    fn read_index(&mut self, bytes: &[u8]) -> Option<BTreeMap<String, String>> {
        // It lists the names of the headers.
        if bytes.len() as u64 > MAX_FOREIGN_HEADER_BYTES {
            let message = format!("{} bytes, at most {MAX_FOREIGN_HEADER_BYTES} are read", bytes.len());
            self.breach(&rules::S_INDEX, INDEX, message);
            return None;
        }
        let index = match json::parse(bytes) {
            Ok(index) => index,
            Err(fault) => {
                self.breach(&rules::S_INDEX, INDEX, one_line(&fault.to_string()));
                return None;
            }
        };
        match index.get("metadata").and_then(Value::as_object) {
            Some(metadata) => self.read_metadata(metadata),
            None => self.breach(&rules::S_INDEX, "metadata", "the index has no such object"),
        }
        let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
            self.breach(&rules::S_INDEX, "weight_map", "the index has no such object");
            return None;
        };
        let mut places = BTreeMap::new();
        for (name, file) in map {
            match file.as_str() {
                Some(file) => drop(places.insert(name.clone(), file.to_owned())),
                None => self.breach(&rules::S_INDEX, name, "its file in `weight_map` is no text"),
            }
        }
        Some(places)
    }

    fn read_metadata(&mut self, metadata: &Map<String, Value>) {
        for key in [VERSION, BASE_VERSION, ENCODING, COMPRESSION, CHECKSUM] {
            if !metadata.get(key).is_some_and(Value::is_string) {
                self.breach(&rules::S_INDEX, key, "the metadata of the index do not say it as a text");
            }
        }
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        self.metadata = metadata.iter().filter_map(text).collect();
        self.encoding = self.known(ENCODING, "xor, overwrite", Encoding::of_name);
        self.checksum = self.known(CHECKSUM, "xxh3-128, blake3, adler32", Checksum::of_name);
        self.known(COMPRESSION, ZSTD, |name| (name == ZSTD).then_some(()));
        self.check_versions();
    }

    fn check_versions(&mut self) {
        let (Some(version), Some(base)) = (self.metadata.get(VERSION), self.metadata.get(BASE_VERSION))
        else {
            return; // reported as that
        };
        let is_decimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &String| text.parse::<u64>().ok().filter(|_| is_decimal(text));
        let next = number(base).and_then(|base| base.checked_add(1));
        if next.is_none() || number(version) != next {
            let message = format!("is {:?}, the base's {:?}", one_line(version), one_line(base));
            self.breach(&rules::S_VERSION, VERSION, message);
        }
    }

    /// A word of the metadata that must be one of a few.
    fn known<T>(&mut self, key: &str, words: &str, of_name: impl Fn(&str) -> Option<T>) -> Option<T> {
        let word = self.metadata.get(key)?;
        let found = of_name(word);
        if found.is_none() {
            let message = format!("is {:?}; known are {words}", one_line(word));
            self.breach(&rules::S_UNSUPPORTED, key, message);
        }
        found
    }

    fn read_files(&mut self, files: &Files<'a>, map: &BTreeMap<String, String>) {
        let (mut sound, mut found) = (BTreeSet::new(), BTreeSet::new());
        for file in map.values().collect::<BTreeSet<_>>() {
            let path = format!("{}{file}", self.prefix);
            // Files are looked up among those of the folder only, so that no path leads out of it.
            let Some(bytes) = files.get(&path).filter(|_| !file.contains('/')) else {
                self.breach(&rules::S_FILE, file, "the index names this file, it does not lie beside it");
                continue;
            };
            self.used.insert(path);
            match read_header(bytes, bytes.len() as u64, Profile::Foreign) {
                Ok((container, findings)) => {
                    sound.insert(file);
                    self.findings.extend(findings.into_iter().map(|finding| of_file(file, finding)));
                    self.read_tensors(file, (bytes, &container), map, &mut found);
                }
                Err(finding) => self.findings.push(of_file(file, finding)),
            }
        }
        for (name, file) in map.iter().filter(|(name, file)| sound.contains(file) && !found.contains(*name)) {
            let message = format!("the index places it in {}, it is not there", one_line(file));
            self.breach(&rules::S_MAP, name, message);
        }
        self.deltas.sort_by(|a, b| a.name.cmp(&b.name));
    }

    fn read_tensors(
        &mut self,
        file: &str,
        (bytes, container): (&'a [u8], &Container),
        map: &BTreeMap<String, String>,
        found: &mut BTreeSet<String>,
    ) {
        for entry in container.entries() {
            let name = &entry.name;
            match map.get(name) {
                Some(place) if place == file => drop(found.insert(name.clone())),
                place => {
                    let said = place.map_or("does not name it".to_owned(), |place| {
                        format!("places it in {}", one_line(place))
                    });
                    self.breach(
                        &rules::S_MAP,
                        name,
                        format!("it lies in {}, the index {said}", one_line(file)),
                    );
                    continue;
                }
            }
            if entry.dtype != Dtype::U8 || entry.shape.axes() != 1 {
                let message = format!("is {} {}, expected U8 [n]", entry.dtype, entry.shape);
                self.breach(&rules::S_TENSOR, name, message);
                continue;
            }
            let frame = bytes.get(container.data_range(entry)).unwrap_or_default();
            let content = payload::content_size(frame);
            if let Err(fault) = &content {
                self.breach(&rules::S_FRAME, name, fault.message.clone());
            }
            let checksum = container.metadata_text(name);
            let fault = match (checksum, self.checksum) {
                (None, _) => Some(format!("the metadata of {} hold no checksum of it", one_line(file))),
                (Some(text), Some(format)) => format.fault(text),
                (Some(_), None) => None,
            };
            if let Some(fault) = fault {
                self.breach(&rules::S_CHECKSUM, name, fault);
            } else if let (Ok(content), Some(checksum)) = (content, checksum) {
                let checksum = checksum.to_owned();
                self.deltas.push(Delta { name: name.clone(), frame, content, checksum });
            }
        }
    }
}

/// A breach of the container, as one of this format; what only bends it stays what it is.
fn of_file(file: &str, finding: Finding) -> Finding {
    if finding.severity != Severity::Error {
        let place = [file, &finding.place].join(if finding.place.is_empty() { "" } else { ": " });
        return Finding { place: one_line(&place), ..finding };
    }
    let place = if finding.place.is_empty() { String::new() } else { format!("{}: ", finding.place) };
    Finding::new(&rules::S_FILE, one_line(file), format!("{place}{} ({})", finding.message, finding.code))
}
