use super::Adapter;
use crate::identity::{hex, sha256};
use crate::json::to_canonical;
use crate::manifest::{self, Encoded};
use crate::tensor::Tensor;
use serde_json::{Map, Value};
use std::fmt::Write as _;

const BASE: &[&str] = &["name", "revision", "architecture", "layout"];
const BASE_TENSOR: &[&str] = &["component", "name", "experts", "dtype", "shape", "unchanged"];
const EDIT: &[&str] = &[
    "component",
    "target",
    "experts",
    "slice",
    "uses",
    "when",
    "form",
    "transposed",
    "site",
    "input_site",
    "dims",
    "scale",
    "activation",
    "subtract",
    "orthonormal",
    "magnitude",
    "positions",
    "overlap",
    "rounding",
    "dtype",
    "create",
    "reshape",
    "key",
    "value",
    "base",
    "result",
    "changed",
];
const ORIGIN: &[&str] = &["alpha", "rank", "rslora"];
const SOURCE: &[&str] = &["format", "version", "weights"];
const ABOUT: &[&str] = &["title", "description", "license", "triggers", "tags"];

/// The adapter as text, one fact a line (spec appendix A): what golden tests compare and what `spec/reader.py` prints
/// as well.
///
/// Weights appear by their SHA-256 only.
pub fn dump(adapter: &Adapter<'_>) -> String {
    let encoded = manifest::encode(adapter);
    let manifest = serde_json::to_value(&encoded.manifest).expect("wire types serialise");
    let mut dump = Dump { encoded: &encoded, out: String::new() };
    dump.manifest(&manifest);
    dump.out
}

struct Dump<'e> {
    encoded: &'e Encoded<'e>,
    out: String,
}

/// The object under a key; an empty one where there is none.
fn object<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Dump<'_> {
    fn manifest(&mut self, manifest: &Value) {
        self.line(format_args!("fitment {}", to_canonical(&manifest["fitment"])));
        self.line(format_args!("id {}", text(manifest, "id")));
        let features: Vec<&str> = list(manifest, "requires").filter_map(Value::as_str).collect();
        self.line(format_args!("{}", [&["requires"], &features[..]].concat().join(" ")));
        if let Some(base) = manifest.get("base") {
            self.base(base);
        }
        for (index, edit) in list(manifest, "edits").enumerate() {
            self.edit(index, edit);
        }
        if let Some(source) = manifest.get("source") {
            self.source(source);
        }
        if let Some(about) = manifest.get("about") {
            self.fields("about", about, ABOUT, false);
            self.unknown("about.extra", about, &[ABOUT]);
        }
        let known = ["fitment", "requires", "id", "base", "edits", "tensors", "source", "about"];
        self.unknown("extra", manifest, &[&known]);
    }

    fn base(&mut self, base: &Value) {
        self.fields("base", base, BASE, false);
        self.entries("base.config", object(base, "config"));
        self.entries("base.tied", object(base, "tied"));
        let digests = self.encoded.tensors.get(text(base, "digests"));
        let mut rows = digests.into_iter().flat_map(|digests| digests.bytes().chunks(32));
        for tensor in list(base, "tensors") {
            self.fields("base.tensor", tensor, BASE_TENSOR, false);
            self.unknown("base.tensor.extra", tensor, &[BASE_TENSOR]);
            let experts: Vec<u64> = list(tensor, "experts").filter_map(Value::as_u64).collect();
            let count = if let [start, end] = experts[..] { end.saturating_sub(start) } else { 1 };
            for row in rows.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX)) {
                self.line(format_args!("base.digest {}", hex(row)));
            }
        }
        self.unknown("base.extra", base, &[BASE, &["config", "tied", "tensors", "digests"]]);
    }

    fn edit(&mut self, index: usize, edit: &Value) {
        self.fields(&format!("edit {index} {}", text(edit, "kind")), edit, EDIT, true);
        for (role, stored) in object(edit, "tensors") {
            let tensor = self.tensor(stored);
            self.line(format_args!("  {role} {tensor}"));
        }
        if let Some(origin) = edit.get("origin") {
            self.fields("  origin", origin, ORIGIN, false);
            self.entries("  origin.key", object(origin, "keys"));
            self.unknown("  origin.extra", origin, &[ORIGIN, &["keys"]]);
        }
        self.unknown("  extra", edit, &[EDIT, &["kind", "tensors", "origin"]]);
    }

    fn source(&mut self, source: &Value) {
        self.fields("source", source, SOURCE, false);
        for (name, place, key) in [("source.file", "files", "path"), ("source.kept", "kept", "key")] {
            for item in list(source, place) {
                let tensor = self.tensor(&item["tensor"]);
                self.line(format_args!("{name} {} {tensor}", to_canonical(&item[key])));
            }
        }
        self.entries("source.metadata", object(source, "metadata"));
        self.entries("source.option", object(source, "options"));
        self.unknown("source.extra", source, &[SOURCE, &["files", "kept", "metadata", "options"]]);
    }

    /// Dtype, shape and SHA-256 of a stored tensor.
    fn tensor(&self, stored: &Value) -> String {
        let shape = |tensor: &Tensor<'_>| to_canonical(tensor.dims());
        let tensor = stored.as_str().and_then(|name| self.encoded.tensors.get(name));
        let tensor = tensor.expect("an encoded manifest names stored tensors");
        format!("{} {} {}", tensor.dtype(), shape(tensor), hex(&sha256(tensor.bytes())))
    }

    fn fields(&mut self, head: &str, value: &Value, names: &[&str], always: bool) {
        let found: String = names
            .iter()
            .filter_map(|name| Some(format!(" {name}={}", to_canonical(value.get(*name)?))))
            .collect();
        if always || !found.is_empty() {
            self.line(format_args!("{head}{found}"));
        }
    }

    fn unknown(&mut self, head: &str, value: &Value, known: &[&[&str]]) {
        let none = Map::new();
        let fields = value.as_object().unwrap_or(&none).iter();
        self.entries(
            head,
            fields.filter(|(key, _)| !known.iter().any(|names| names.contains(&key.as_str()))),
        );
    }

    fn entries<'v>(&mut self, head: &str, fields: impl Iterator<Item = (&'v String, &'v Value)>) {
        let mut fields: Vec<_> = fields.collect();
        fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        for (key, value) in fields {
            let key = to_canonical(key);
            self.line(format_args!("{head} {key} {}", to_canonical(value)));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{line}").expect("writing to a string does not fail");
    }
}
