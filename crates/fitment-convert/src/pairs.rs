//! The factors of modules by their keys, for formats in which a key is the module's path and a part.

use crate::finite;
use fitment_core::Finding;
use fitment_core::finding::Rule;
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::BTreeMap;

/// The tensors of one module, each with its key's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair<'a> {
    pub(crate) a: Option<Tensor<'a>>,
    pub(crate) b: Option<Tensor<'a>>,
    pub(crate) magnitude: Option<Tensor<'a>>,
}

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    A,
    B,
    Magnitude,
}

/// How a format spells keys, and which of its rules the tensors may break.
pub(crate) struct Spelling {
    /// Ends of keys.
    pub(crate) parts: &'static [(&'static str, Role)],
    /// Broken by a key without one of these ends.
    pub(crate) key: &'static Rule,
    /// Broken by a module with one factor.
    pub(crate) unit: &'static Rule,
    /// Broken by elements of other dtypes than F32, F16 and BF16.
    pub(crate) value: &'static Rule,
}

impl Spelling {
    fn end(&self, role: Role) -> &'static str {
        self.parts.iter().find(|(_, other)| *other == role).map_or("", |(end, _)| end)
    }

    /// The key of a module's tensor.
    pub(crate) fn key_of(&self, module: &str, role: Role) -> String {
        format!("{module}{}", self.end(role))
    }
}

/// Sorts tensors by module. A module is there with both factors, or not at all.
pub(crate) fn sort<'a>(
    tensors: Vec<(String, Tensor<'a>)>,
    spelling: &Spelling,
) -> (BTreeMap<String, Pair<'a>>, Vec<Finding>) {
    let keyed: Vec<(String, &Tensor<'_>)> =
        tensors.iter().map(|(key, tensor)| (key.clone(), tensor)).collect();
    let mut findings = finite::check_all(&keyed);
    let mut pairs: BTreeMap<String, Pair<'a>> = BTreeMap::new();
    for (key, tensor) in tensors {
        if !matches!(tensor.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let message = format!("its elements are {}", tensor.dtype());
            findings.push(Finding::new(spelling.value, &key, message));
        }
        let split = |(end, role): &(&str, Role)| Some((key.strip_suffix(end)?, *role));
        let Some((module, role)) = spelling.parts.iter().find_map(split) else {
            findings.push(Finding::new(spelling.key, &key, "is none of them"));
            continue;
        };
        let pair = pairs.entry(module.to_owned()).or_default();
        match role {
            Role::A => pair.a = Some(tensor),
            Role::B => pair.b = Some(tensor),
            Role::Magnitude => pair.magnitude = Some(tensor),
        }
    }
    for (module, pair) in &pairs {
        let missing = [(pair.a.is_none(), Role::A), (pair.b.is_none(), Role::B)];
        if let Some((_, role)) = missing.iter().find(|(is_missing, _)| *is_missing) {
            findings.push(Finding::new(spelling.unit, spelling.key_of(module, *role), "is missing"));
        }
    }
    pairs.retain(|_, pair| pair.a.is_some() && pair.b.is_some());
    if pairs.is_empty() && findings.is_empty() {
        findings.push(Finding::new(spelling.unit, "", "the file holds nothing"));
    }
    (pairs, findings)
}

impl<'a> Pair<'a> {
    /// Both factors.
    pub(crate) fn factors(&self) -> Option<(&Tensor<'a>, &Tensor<'a>)> {
        self.a.as_ref().zip(self.b.as_ref())
    }
}
