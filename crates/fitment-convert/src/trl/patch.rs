//! A patch as it lies in its file.

use super::index::{self, Encoding};
use super::rules;
use crate::files::Files;
use crate::weights;
use fitment_core::container::{Profile, read_header};
use fitment_core::finding::Rule;
use fitment_core::tensor::Tensor;
use fitment_core::{Finding, Severity, is_fitment};
use fitment_math::not_finite;
use serde_json::Value;
use std::collections::BTreeMap;

/// What TRL calls the file, in its metadata.
pub(super) const FORMAT: &str = "sparse_weight_patch";

/// How the tensors of a parameter are called, by generation: index, then values.
pub(super) const ENDINGS: [(&str, &str); 2] = [(".indices", ".values"), (".idx", ".val")];

/// A patch.
#[derive(Debug)]
pub(super) struct Patch<'a> {
    pub(super) path: String,
    pub(super) metadata: BTreeMap<String, String>,
    /// Parameters with some new elements, in the file's order.
    pub(super) sparse: Vec<Sparse<'a>>,
    /// The tensors of parameters without a new element.
    pub(super) idle: Vec<(String, Tensor<'a>)>,
    /// Whole parameters.
    pub(super) whole: Vec<(String, Tensor<'a>)>,
    pub(super) findings: Vec<Finding>,
}

/// New elements of one parameter.
#[derive(Debug)]
pub(super) struct Sparse<'a> {
    pub(super) name: String,
    /// Keys of index and values.
    pub(super) keys: [String; 2],
    /// U32 or I64 `[n]`.
    pub(super) index: Tensor<'a>,
    /// `[n]`.
    pub(super) value: Tensor<'a>,
}

/// The only patch among the files, with its path.
pub(super) fn file<'f, 'a>(files: &'f Files<'a>) -> Option<(&'f str, &'a [u8])> {
    let mut found = files.iter().filter(|(path, bytes)| path.ends_with(".safetensors") && is_patch(bytes));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn is_patch(bytes: &[u8]) -> bool {
    if is_fitment(bytes, bytes.len() as u64) {
        return false;
    }
    let Ok((container, _)) = read_header(bytes, bytes.len() as u64, Profile::Foreign) else { return false };
    let is_named = container.metadata().and_then(|metadata| metadata.get("format")?.as_str()) == Some(FORMAT);
    let names = || container.entries().iter().map(|entry| &*entry.name);
    let (index, value) = ENDINGS[0];
    let is_paired = |name: &str| name.ends_with(index) || name.ends_with(value);
    is_named || (names().all(is_paired) && names().any(|name| name.ends_with(index)))
}

/// How the metadata say that positions are told; the first generation says nothing.
pub(super) fn encoding(metadata: &BTreeMap<String, String>) -> Encoding {
    match metadata.get("encoding").map(String::as_str) {
        Some("gap_delta") => Encoding::Gaps,
        _ => Encoding::Raw,
    }
}

/// Takes the patch apart, with every breach.
pub(super) fn inspect<'a>(files: &Files<'a>) -> Patch<'a> {
    let only = || files.iter().next().filter(|_| files.len() == 1);
    let (path, bytes) = match file(files).or_else(only) {
        Some((path, bytes)) => (path.to_owned(), Some(bytes)),
        None => (String::new(), None),
    };
    let mut patch = Patch {
        path,
        metadata: BTreeMap::new(),
        sparse: Vec::new(),
        idle: Vec::new(),
        whole: Vec::new(),
        findings: Vec::new(),
    };
    let Some(bytes) = bytes else {
        patch.report(&rules::L_FILE, "", "there is not one patch among the files");
        return patch;
    };
    let read = weights::safetensors(&patch.path, bytes, &rules::L_FILE);
    patch.findings = read.findings;
    patch.metadata = read.metadata;
    if patch.findings.iter().any(|finding| finding.severity == Severity::Error) || !patch.check_metadata() {
        return patch;
    }
    patch.sort(read.tensors.into_iter().collect());
    patch.check_counts();
    patch
}

impl<'a> Patch<'a> {
    fn report(&mut self, rule: &Rule, place: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    /// Whether the layout is one that is read.
    fn check_metadata(&mut self) -> bool {
        let known: &[(&str, &[&str])] = &[
            ("format", &[FORMAT, "pt"]),
            ("version", &["1"]),
            ("encoding", &["raw", "gap_delta", "nvcomp_cascaded"]),
            ("sparse", &["True", "False"]),
        ];
        let mut is_known = true;
        for (key, values) in known {
            let Some(said) = self.metadata.get(*key).filter(|said| !values.contains(&said.as_str())) else {
                continue;
            };
            let message = format!("it is {said:?}, known are {}", values.join(", "));
            self.report(&rules::L_METADATA, key, message);
            is_known = false;
        }
        let is_sparse = self.metadata.get("sparse").is_none_or(|sparse| sparse != "False");
        if is_sparse && self.metadata.get("encoding").is_some_and(|said| said == "nvcomp_cascaded") {
            let message = "it is nvcomp_cascaded: positions are compressed by nvCOMP, which only a GPU reads";
            self.report(&rules::L_ENCODING, "encoding", message);
            is_known = false;
        }
        is_known
    }

    /// Pairs of tensors, and whole parameters.
    fn sort(&mut self, mut tensors: BTreeMap<String, Tensor<'a>>) {
        let is_anchor = self.metadata.get("sparse").is_some_and(|sparse| sparse == "False");
        if is_anchor {
            for (name, tensor) in tensors {
                self.check_values(&name, &tensor);
                self.whole.push((name, tensor));
            }
            return;
        }
        for (of_index, of_value) in ENDINGS {
            let named = |key: &String| Some((key.strip_suffix(of_index)?.to_owned(), key.clone()));
            for (name, key) in tensors.keys().filter_map(named).collect::<Vec<_>>() {
                let value_key = format!("{name}{of_value}");
                let (Some(index), Some(value)) = (tensors.remove(&key), tensors.remove(&value_key)) else {
                    self.report(&rules::L_PAIR, &key, format!("there is no {value_key} beside it"));
                    continue;
                };
                self.pair(name, [key, value_key], &index, value);
            }
        }
        for key in tensors.keys() {
            let pairs = ENDINGS.map(|(index, value)| format!("{index} and {value}")).join(", or ");
            self.report(&rules::L_PAIR, key, format!("is none of a pair ({pairs})"));
        }
    }

    fn pair(&mut self, name: String, keys: [String; 2], index: &Tensor<'a>, value: Tensor<'a>) {
        let encoding = encoding(&self.metadata);
        let is_list = index.dims().len() == 1 && index.shape() == value.shape();
        if !index::is_index(index.dtype(), encoding) || !is_list {
            let found = format!("{} {}, for values {}", index.dtype(), index.shape(), value.shape());
            let asked = match encoding {
                Encoding::Raw => "I32, U32 or I64 [n]",
                Encoding::Gaps => "gaps of U16 or U32 [n]",
            };
            return self.report(&rules::L_INDEX, &keys[0], format!("{found}: expected {asked} and n values"));
        }
        if value.elements() == 0 {
            let [of_index, of_value] = keys;
            return self.idle.extend([(of_index, index.clone()), (of_value, value)]);
        }
        self.check_values(&keys[1], &value);
        match index::positions(index, encoding) {
            Err(message) => self.report(&rules::L_ORDER, &keys[0], message),
            Ok(index) => self.sparse.push(Sparse { name, keys, index, value }),
        }
    }

    fn check_values(&mut self, key: &str, tensor: &Tensor<'_>) {
        if !tensor.dtype().is_weight() {
            let message = format!("its values are {}", tensor.dtype());
            self.report(&rules::L_VALUE, key, message);
        } else if let Some(at) = not_finite::first(tensor.dtype(), tensor.bytes()) {
            self.report(&rules::L_VALUE, key, format!("element {at} is NaN or infinite"));
        }
    }

    fn check_counts(&mut self) {
        let elements = self.sparse.iter().map(|sparse| sparse.value.elements());
        let elements: u64 = elements.chain(self.whole.iter().map(|(_, tensor)| tensor.elements())).sum();
        let changed = self.sparse.len() + self.whole.len();
        let params = changed + self.idle.len() / 2;
        let said = |key: &str| self.metadata.get(key).and_then(|text| text.parse::<u64>().ok());
        let mut messages = Vec::new();
        if let Some(said) = said("total_changed_elements").filter(|said| *said != elements) {
            messages.push(("total_changed_elements", format!("it is {said}, there are {elements}")));
        }
        // The second generation counts every parameter that it looked at.
        let fits = |said: u64| (changed as u64..=params as u64).contains(&said);
        if let Some(said) = said("num_changed_params").filter(|said| !fits(*said)) {
            messages.push(("num_changed_params", format!("it is {said}, there are {params}")));
        }
        if let Some(names) = self.listed()
            && let Some(left) = self.sparse.iter().find(|sparse| !names.contains(&sparse.name))
        {
            messages.push(("changed_params", format!("it does not list {}", left.name)));
        }
        for (place, message) in messages {
            self.report(&rules::L_COUNT, place, message);
        }
    }

    /// The names in `changed_params`, where it is a list of texts.
    fn listed(&self) -> Option<Vec<String>> {
        let listed: Value =
            fitment_core::json::parse(self.metadata.get("changed_params")?.as_bytes()).ok()?;
        listed.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}
