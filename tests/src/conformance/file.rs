//! A Fitment file taken apart, and a second writer of the format that checks nothing.

use std::collections::BTreeMap;

use fitment_core::container::{Profile, read_header};
use fitment_core::identity::{content_id, hex, tensor_digest};
use fitment_core::json::to_canonical;
use fitment_core::tensor::{Dtype, Shape};
use serde_json::{Map, Value, json};

/// Dtype, extents and bytes of a stored tensor.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub dims: Vec<u64>,
    /// Elements.
    pub bytes: Vec<u8>,
}

impl Stored {
    fn digest(&self, name: &str) -> [u8; 32] {
        let shape = Shape::new(&self.dims).expect("vectors have small shapes");
        tensor_digest(name, self.dtype, &shape, &self.bytes)
    }
}

/// A file whose parts can be changed one by one.
#[derive(Clone, Debug)]
pub struct File {
    /// The manifest.
    pub manifest: Value,
    /// The stored tensors, by name.
    pub tensors: BTreeMap<String, Stored>,
}

impl File {
    /// A file of these edits and tensors, sealed.
    pub fn of<'t>(edits: Value, tensors: impl IntoIterator<Item = (&'t str, Stored)>) -> Self {
        let manifest = json!({ "edits": edits, "fitment": "1.0-draft" });
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        Self { manifest, tensors }.sealed()
    }

    /// Takes a valid file apart.
    ///
    /// # Panics
    /// If it is none.
    pub fn open(bytes: &[u8]) -> Self {
        let (container, _) =
            read_header(bytes, bytes.len() as u64, Profile::Fitment).expect("the vector is valid");
        let text = container.metadata_text("fitment").expect("the vector has a manifest");
        let stored = |entry: &fitment_core::container::Entry| Stored {
            dtype: entry.dtype,
            dims: entry.shape.dims().to_vec(),
            bytes: bytes[container.data_range(entry)].to_vec(),
        };
        Self {
            manifest: serde_json::from_str(text).expect("the manifest is JSON"),
            tensors: container.entries().iter().map(|entry| (entry.name.clone(), stored(entry))).collect(),
        }
    }

    /// Sets what a JSON pointer addresses, in place or as a new field.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
        match self.manifest.pointer_mut(parent).expect("the parent is there") {
            Value::Object(fields) => {
                fields.insert(key.replace("~1", "/"), value);
            }
            Value::Array(items) if key == "-" => items.push(value),
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
            other => panic!("{parent} is {other}"),
        }
        self
    }

    /// Removes the field that a JSON pointer addresses.
    #[must_use]
    pub fn without(mut self, pointer: &str) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
        let fields = self.manifest.pointer_mut(parent).and_then(Value::as_object_mut);
        fields.expect("an object").shift_remove(&key.replace("~1", "/")).expect("the field is there");
        self
    }

    /// Adds or replaces a stored tensor.
    #[must_use]
    pub fn store(mut self, name: &str, tensor: Stored) -> Self {
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    /// Drops a stored tensor.
    #[must_use]
    pub fn unstore(mut self, name: &str) -> Self {
        self.tensors.remove(name).expect("the tensor is stored");
        self
    }

    /// Derives digests, features and content id again.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        let digests: Map<String, Value> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), hex(&tensor.digest(name)).into()))
            .collect();
        self.manifest["tensors"] = digests.into();
        self.manifest["requires"] = requires(&self.manifest["edits"]).into_iter().collect();
        self.identified()
    }

    /// Derives the content id again.
    #[must_use]
    pub fn identified(self) -> Self {
        let tensors = self.tensors.clone();
        self.identified_by(|name| Some(tensors.get(name)?.digest(name)))
    }

    fn identified_by(mut self, digest: impl Fn(&str) -> Option<[u8; 32]>) -> Self {
        let edits = self.manifest["edits"].as_array().expect("edits are a list");
        let mut used: Vec<&str> = edits
            .iter()
            .filter(|edit| edit["kind"] != "bits")
            .filter_map(|edit| edit.get("tensors")?.as_object())
            .flat_map(Map::values)
            .filter_map(Value::as_str)
            .collect();
        used.sort_unstable();
        used.dedup();
        let digests: Vec<[u8; 32]> = used.into_iter().filter_map(digest).collect();
        let core: Vec<Value> = edits.iter().map(function).collect();
        let id = content_id(&digests, &to_canonical(&json!({ "edits": core })));
        self.manifest["id"] = id.into();
        self
    }

    /// Derives the content id from the digests as they are recorded, right or wrong.
    #[must_use]
    pub fn id_of_recorded(self) -> Self {
        let recorded = self.manifest["tensors"].clone();
        self.identified_by(|name| {
            let text = recorded[name].as_str()?;
            let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal");
            Some(std::array::from_fn(byte))
        })
    }

    /// The file, in canonical form.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&to_canonical(&self.manifest))
    }

    /// The file with this text for a manifest.
    pub fn bytes_with(&self, manifest: &str) -> Vec<u8> {
        let mut order: Vec<(&String, &Stored)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype.bits()));
        let mut header = format!(r#"{{"__metadata__":{{"fitment":{}}}"#, to_canonical(manifest));
        let mut data = Vec::new();
        for (name, tensor) in order {
            let (start, end) = (data.len(), data.len() + tensor.bytes.len());
            let (name, dims) = (to_canonical(name), to_canonical(&json!(tensor.dims)));
            let dtype = tensor.dtype;
            header +=
                &format!(r#",{name}:{{"dtype":"{dtype}","shape":{dims},"data_offsets":[{start},{end}]}}"#);
            data.extend_from_slice(&tensor.bytes);
        }
        header.push('}');
        join(&padded(&header), &data)
    }
}

/// Length, header and data as one file.
pub fn join(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The header with the fewest spaces that make its length a multiple of 8.
pub fn padded(header: &str) -> String {
    format!("{header}{}", " ".repeat(header.len().next_multiple_of(8) - header.len()))
}

/// What of an edit enters the content id (spec section 7.2).
fn function(edit: &Value) -> Value {
    const FIELDS: &[&str] = &[
        "kind",
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
        "tensors",
    ];
    let fields = edit.as_object().expect("an edit is an object").iter();
    fields
        .filter(|(key, _)| FIELDS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The features that edits use (spec section 3.2).
fn requires(edits: &Value) -> std::collections::BTreeSet<String> {
    let mut features = std::collections::BTreeSet::new();
    for edit in edits.as_array().expect("edits are a list") {
        let kind = edit["kind"].as_str().unwrap_or_default();
        features.insert(kind.to_owned());
        let fields = ["component", "experts", "slice", "uses", "when"]
            .iter()
            .filter(|field| edit.get(**field).is_some());
        features.extend(fields.map(|field| (*field).to_owned()));
        let has_role = |role: &str| edit.pointer(&format!("/tensors/{role}")).is_some();
        let options = [
            (edit["form"] == "conv", "lora", "conv"),
            (edit["form"] == "stacked", "lora", "stacked"),
            (edit.get("magnitude").is_some(), "lora", "magnitude"),
            (has_role("mid"), "lora", "mid"),
            (edit["transposed"] == true, "lora", "transposed"),
            (edit["create"] == true, "set", "create"),
            (edit["reshape"] == true, "set", "reshape"),
            (has_role("rows"), "set", "rows"),
            (has_role("exc_index"), "add", "exceptions"),
            (edit.get("activation").is_some(), "intervention", "activation"),
            (edit.get("dims").is_some(), "intervention", "dims"),
            (edit.get("input_site").is_some(), "intervention", "input_site"),
        ];
        let used = options.iter().filter(|(used, of, _)| *used && *of == kind);
        features.extend(used.map(|(_, of, option)| format!("{of}.{option}")));
    }
    features
}
