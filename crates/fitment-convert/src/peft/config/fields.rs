//! Typed access to the config's JSON: a value of another type is a finding and reads as absent.

use crate::lora_keys::brief;
use crate::peft::rules;
use fitment_core::Finding;
use serde_json::{Map, Value};

/// The config's fields, and what is wrong with those that were asked for.
pub(super) struct Fields<'j> {
    fields: &'j Map<String, Value>,
    pub(super) findings: Vec<Finding>,
}

impl<'j> Fields<'j> {
    pub(super) fn new(fields: &'j Map<String, Value>) -> Self {
        Self { fields, findings: Vec::new() }
    }

    pub(super) fn fault(&mut self, key: &str, message: String) {
        self.findings.push(Finding::new(&rules::P_CONFIG_FIELD, key, message));
    }

    /// A value that is there and not null.
    pub(super) fn value(&self, key: &str) -> Option<&'j Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// Reads a value by `read`, or says that it is not `what`.
    fn typed<T>(&mut self, key: &str, what: &str, read: impl FnOnce(&'j Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            self.fault(key, format!("is {}, expected {what}", brief(value)));
        }
        read
    }

    pub(super) fn flag(&mut self, key: &str) -> bool {
        self.typed(key, "true or false", Value::as_bool).unwrap_or(false)
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A rank: a positive integer.
    pub(super) fn rank(&mut self, key: &str) -> Option<u64> {
        self.typed(key, "a positive integer", positive)
    }

    pub(super) fn number(&mut self, key: &str) -> Option<f64> {
        self.typed(key, "a finite number", Value::as_f64)
    }

    /// A string, or a list of strings.
    pub(super) fn text_or_texts(&mut self, key: &str) -> Option<TextOrTexts> {
        self.typed(key, "a string or a list of strings", |value| match value {
            Value::String(text) => Some(TextOrTexts::Text(text.clone())),
            value => texts(value).map(TextOrTexts::Texts),
        })
    }

    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        self.typed(key, "a list of strings", texts).unwrap_or_default()
    }

    /// An integer, or a list of integers.
    pub(super) fn integers(&mut self, key: &str) -> Option<Vec<u64>> {
        self.typed(key, "a non-negative integer or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(Value::as_u64).collect(),
            value => value.as_u64().map(|number| vec![number]),
        })
    }

    /// A map of patterns, in the order of the file.
    pub(super) fn patterns<T>(
        &mut self,
        key: &str,
        what: &str,
        read: fn(&Value) -> Option<T>,
    ) -> Vec<(String, T)> {
        let what = format!("a map from patterns to {what}");
        let read_all = |value: &'j Value| {
            let entry = |(pattern, value): (&String, &Value)| Some((pattern.clone(), read(value)?));
            value.as_object()?.iter().map(entry).collect()
        };
        self.typed(key, &what, read_all).unwrap_or_default()
    }
}

/// One string or several.
pub(super) enum TextOrTexts {
    Text(String),
    Texts(Vec<String>),
}

pub(super) fn positive(value: &Value) -> Option<u64> {
    value.as_u64().filter(|rank| *rank > 0)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}
