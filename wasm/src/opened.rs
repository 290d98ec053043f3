//! An adapter that was read.

use crate::base::{Headers, refuse_deltas};
use crate::error::{self, Result, error};
use crate::files::{container, format, marked, outcome, whole};
use crate::output::{Output, loss};
use crate::tensors::place;
use fitment_convert::{Converted, Files, FormatId, ReadOptions, detect, read};
use fitment_core::model::Edit;
use fitment_core::tensor::Tensor;
use fitment_report::Analysis;
use fitment_validate::{coverage, output as reports};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use wasm_bindgen::prelude::wasm_bindgen;

/// An adapter in memory.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Opened {
    files: Vec<(String, &'static [u8])>,
    format: FormatId,
    pub(crate) converted: Converted<'static>,
    /// Values of weights are not in `files`.
    pub(crate) is_partial: bool,
    /// It was read beside the headers of a base, whose values nobody has seen.
    on_headers: bool,
    /// What was computed so far, by edit.
    pub(crate) analyses: BTreeMap<usize, Analysis>,
}

impl Opened {
    pub(crate) fn read(
        files: Vec<(String, &'static [u8])>,
        options: &ReadOptions<'_>,
        is_partial: bool,
    ) -> Result<Self> {
        let failed = |failed: fitment_convert::Error| error::of_convert(&failed);
        let blobs = marked(files.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect(), is_partial);
        let format = options.from.map_or_else(|| detect(&blobs), Ok).map_err(failed)?;
        let mut converted = read(&blobs, &ReadOptions { from: Some(format), ..*options }).map_err(failed)?;
        if options.base.is_some() {
            // Taken from headers, they are of no tensor.
            converted.adapter.base.tensors.iter_mut().for_each(|tensor| tensor.digests.clear());
        }
        let on_headers = options.base.is_some();
        Ok(Self { files, format, converted, is_partial, on_headers, analyses: BTreeMap::new() })
    }

    pub(crate) fn blobs(&self) -> Files<'static> {
        marked(self.files.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect(), self.is_partial)
    }

    pub(crate) fn edit(&self, index: usize) -> Result<&Edit<'static>> {
        self.converted
            .adapter
            .edits
            .get(index)
            .ok_or_else(|| error(&format!("there is no edit {index}"), None))
    }
}

#[wasm_bindgen]
impl Opened {
    /// The name of its format.
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn format(&self) -> String {
        self.format.to_string()
    }

    /// Whether the values of the weights are not at hand.
    #[wasm_bindgen(getter, js_name = isPartial)]
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// What reading it dropped or assumed: `[{id, changes_function, message}]`.
    #[must_use]
    pub fn losses(&self) -> String {
        json!(self.converted.losses.iter().map(loss).collect::<Vec<_>>()).to_string()
    }

    /// Every stored tensor: `[{edit, target, kind, role, dtype, shape, bytes, place: {path, start, end} or null}]`.
    #[must_use]
    pub fn tensors(&self) -> String {
        let edits = self.converted.adapter.edits.iter().enumerate();
        let lines = edits.flat_map(|(index, edit)| {
            let target = edit.label().unwrap_or_default();
            let line = move |(role, tensor): (&'static str, &Tensor<'static>)| {
                json!({
                    "edit": index,
                    "target": target,
                    "kind": edit.kind(),
                    "role": role,
                    "dtype": tensor.dtype().name(),
                    "shape": tensor.dims(),
                    "bytes": tensor.bytes().len(),
                    "place": place(tensor, &self.files),
                })
            };
            edit.tensors().into_iter().map(line)
        });
        json!(lines.collect::<Vec<Value>>()).to_string()
    }

    /// Where in the files the tensors of an edit lie, in their order: `[{path, start, end}]`; nothing where they do not lie
    /// there as they are.
    ///
    /// # Errors
    /// When there is no such edit.
    pub fn places(&self, edit: usize) -> Result<Option<String>> {
        let tensors = self.edit(edit)?.tensors();
        let places: Option<Vec<_>> = tensors.iter().map(|(_, tensor)| place(tensor, &self.files)).collect();
        Ok(places.map(|places| json!(places).to_string()))
    }

    /// The manifest of a Fitment file, as it is written.
    #[must_use]
    pub fn manifest(&self) -> Option<String> {
        let texts = self.files.iter().filter_map(|(_, bytes)| container(bytes));
        let mut manifests =
            texts.filter_map(|container| container.metadata_text("fitment").map(str::to_owned));
        manifests.next()
    }

    /// The files that say what the adapter does beside its weights, as they are written: `[{path, text}]`. Those that a Fitment
    /// file carries, and the texts of a folder.
    #[must_use]
    pub fn texts(&self) -> String {
        let kept = self.converted.adapter.source.iter().flat_map(|source| &source.files);
        let kept = kept.map(|file| (file.path.as_str(), file.data.bytes()));
        let beside = self.files.iter().map(|(path, bytes)| (path.as_str(), *bytes));
        let mut seen = BTreeSet::new();
        let small = kept.chain(beside).filter(|(path, bytes)| bytes.len() <= MAX_TEXT && seen.insert(*path));
        let text = |(path, bytes): (&str, &[u8])| {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
            Some(json!({"path": path, "text": text}))
        };
        json!(small.filter_map(text).collect::<Vec<_>>()).to_string()
    }

    /// What the validator says of the fit to a base of which the headers are at hand: names and shapes, no values.
    ///
    /// # Errors
    /// For adapters that cannot be read without the values of their base.
    pub fn fit(&self, name: &str, said: Option<String>, base: &Headers) -> Result<String> {
        refuse_deltas(&self.format())?;
        let found = outcome((name, &self.blobs(), self.is_partial), said.as_deref(), Some(base))?;
        Ok(reports::json(&[found]))
    }

    /// Writes the adapter in a format. What the result lacks is in [`Output::losses`]; whoever takes it on says so.
    ///
    /// # Errors
    /// When its values are not at hand, or it cannot be written in that format.
    pub fn convert(&self, to: &str) -> Result<Output> {
        whole(self.is_partial)?;
        if self.on_headers {
            let message = "whether it holds copies of tensors of its base, only the values of the base tell";
            return Err(error(message, Some("`fitment convert ADAPTER --base BASE` reads them")));
        }
        Output::write(&self.converted, format(to)?)
    }

    /// Which targets a base has, by name alone: `{targets, hits, missing: [{name}], kinds: [{module, hit, missing, hits,
    /// of}]}`. A name without the prefix that a class of models puts before it counts as well.
    #[must_use]
    pub fn coverage(&self, base: &Headers) -> String {
        let names = base.all_names();
        let targets = self.converted.adapter.edits.iter().filter_map(Edit::target);
        let wanted: BTreeSet<String> =
            targets.flat_map(|target| target.base_names().map(|name| name.to_string())).collect();
        let on_disk = |wanted: &String| {
            let inside =
                |name: &&str| name.ends_with(&**wanted) && name[..name.len() - wanted.len()].ends_with('.');
            names.get(&**wanted).copied().or_else(|| names.iter().copied().find(inside))
        };
        let (mut hits, mut missing) = (BTreeSet::new(), Vec::new());
        for name in &wanted {
            match on_disk(name) {
                Some(found) => {
                    hits.insert(found);
                }
                None => missing.push(json!({"name": name})),
            }
        }
        let kinds: Vec<Value> = coverage::shares(hits.iter().copied(), names.iter().copied())
            .iter()
            .filter(|share| share.hits > 0)
            .map(|share| {
                json!({"module": share.kind, "hit": share.hit, "missing": share.missing, "hits": share.hits, "of": share.of})
            })
            .collect();
        json!({"targets": wanted.len(), "hits": hits.len(), "missing": missing, "kinds": kinds}).to_string()
    }
}

/// Bytes of a text that is shown as it is: longer ones are weights, or of no use to a reader.
const MAX_TEXT: usize = 1 << 20;
