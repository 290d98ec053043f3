use fitment_convert::{Content, Files, OutputFile, Written};
use fitment_core::container::read_foreign;
use serde_json::{Map, Value};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// How the keys of all experts' factors end.
pub(crate) const STACKED: [&str; 4] = [
    ".experts.lora_A.weight",
    ".experts.lora_B.weight",
    ".experts.base_layer.lora_A.weight",
    ".experts.base_layer.lora_B.weight",
];

/// An adapter as the server finds it on disk: the config, and names and shapes of the tensors.
pub(crate) struct Form {
    /// `adapter_config.json`; empty where the format has none.
    pub(crate) config: Map<String, Value>,
    /// Keys and shapes, in the order of the keys.
    pub(crate) tensors: Vec<(String, Vec<u64>)>,
    /// Factors of experts are laid out otherwise than PEFT has them from 0.19.1 on.
    pub(crate) has_other_experts: bool,
}

impl Form {
    pub(crate) fn of(written: &Written<'_>) -> Self {
        let mut form = Self { config: Map::new(), tensors: Vec::new(), has_other_experts: false };
        for file in &written.files {
            form.add(file);
        }
        form.tensors.sort();
        form
    }

    /// A PEFT folder as it lies there; without tensors where they are in no single safetensors file.
    pub(crate) fn of_files(files: &Files<'_>, adapter: Option<&str>) -> Option<Self> {
        let folder = adapter.filter(|name| *name != "default").map(|name| format!("{name}/"));
        let path = |name: &str| format!("{}{name}", folder.as_deref().unwrap_or_default());
        let Ok(Value::Object(config)) = serde_json::from_slice(files.get(&path(CONFIG))?) else {
            return None;
        };
        let mut form = Self { config, tensors: Vec::new(), has_other_experts: false };
        if let Some(Ok(container)) = files.get(&path(WEIGHTS)).map(read_foreign) {
            let named =
                container.entries().iter().map(|entry| (entry.name.clone(), entry.shape.dims().to_vec()));
            form.tensors.extend(named);
        }
        form.tensors.sort();
        Some(form)
    }

    fn add(&mut self, file: &OutputFile<'_>) {
        match &file.content {
            Content::Container { tensors, .. } => {
                let named = tensors.iter().map(|(key, tensor)| (key.clone(), tensor.dims().to_vec()));
                self.tensors.extend(named);
            }
            Content::Bytes(bytes) if file.path == CONFIG => {
                if let Ok(Value::Object(config)) = serde_json::from_slice(bytes.as_slice()) {
                    self.config = config;
                }
            }
            _ => {}
        }
    }

    /// A field that says something: neither absent nor null, `false` or empty.
    pub(crate) fn said(&self, field: &str) -> Option<&Value> {
        self.config.get(field).filter(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    }

    /// The ranks of the pairs of factors, but of those that hold all experts in one.
    pub(crate) fn ranks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tensors.iter().filter_map(|(key, dims)| {
            let is_factor = key.ends_with(".lora_A.weight") || key.ends_with(".lora_embedding_A");
            let is_factor = is_factor && !STACKED.iter().any(|end| key.ends_with(end));
            Some((key.as_str(), *dims.first().filter(|_| is_factor)?))
        })
    }
}
