//! The tensors of a weight file, sorted by module and by what they are to it.

use super::config::Refusal;
use super::keys::{self, Part, Whole};
use super::rules;
use fitment_core::Finding;
use fitment_core::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// A tensor under its key.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: String,
    pub(super) tensor: Tensor<'a>,
}

/// What a file holds for one module beside whole parameters.
#[derive(Clone, Debug, Default)]
pub(super) struct Module<'a> {
    /// The output projection inside nn.MultiheadAttention.
    pub(super) in_attention: bool,
    /// The path is that of a parameter: its factors are of all experts.
    pub(super) is_parameter: bool,
    pub(super) a: Option<Entry<'a>>,
    pub(super) b: Option<Entry<'a>>,
    pub(super) bias: Option<Entry<'a>>,
    pub(super) embedding_a: Option<Entry<'a>>,
    pub(super) embedding_b: Option<Entry<'a>>,
    pub(super) magnitude: Option<Entry<'a>>,
    pub(super) tokens: Option<Entry<'a>>,
}

impl<'a> Module<'a> {
    /// Whether any factor is there.
    pub(super) fn has_lora(&self) -> bool {
        self.a.is_some() || self.b.is_some() || self.embedding_a.is_some() || self.embedding_b.is_some()
    }

    /// Both factors of a linear or convolutional module: `lora_A`, `lora_B`.
    pub(super) fn factors(&self) -> Option<(&Entry<'a>, &Entry<'a>)> {
        Some((self.a.as_ref()?, self.b.as_ref()?))
    }

    /// Both factors of an embedding: `lora_embedding_A`, `lora_embedding_B`.
    pub(super) fn embedding_factors(&self) -> Option<(&Entry<'a>, &Entry<'a>)> {
        Some((self.embedding_a.as_ref()?, self.embedding_b.as_ref()?))
    }

    fn slot(&mut self, part: &Part) -> Option<&mut Option<Entry<'a>>> {
        match part {
            Part::LoraA => Some(&mut self.a),
            Part::LoraB => Some(&mut self.b),
            Part::LoraBias => Some(&mut self.bias),
            Part::EmbeddingA => Some(&mut self.embedding_a),
            Part::EmbeddingB => Some(&mut self.embedding_b),
            Part::Magnitude => Some(&mut self.magnitude),
            Part::TokenRows => Some(&mut self.tokens),
            Part::Whole(..) | Part::ValueHead | Part::Foreign(_) | Part::Unknown => None,
        }
    }

    /// Every entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry<'a>> {
        let all = [
            &self.a,
            &self.b,
            &self.bias,
            &self.embedding_a,
            &self.embedding_b,
            &self.magnitude,
            &self.tokens,
        ];
        all.into_iter().flatten()
    }
}

/// The copies of one whole parameter, by the wrapper under which each was saved.
pub(super) type Copies<'a> = BTreeMap<Whole, Entry<'a>>;

/// Everything in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents<'a> {
    /// By module path.
    pub(super) modules: BTreeMap<String, Module<'a>>,
    /// Whole parameters, by module path and parameter.
    pub(super) whole: BTreeMap<(String, String), Copies<'a>>,
    /// What was trained beside the model, and is no part of it.
    pub(super) beside: Vec<Entry<'a>>,
}

impl Contents<'_> {
    /// Whether a module is nn.MultiheadAttention: its output projection is wrapped inside it.
    pub(super) fn is_attention(&self, module: &str) -> bool {
        self.modules.get(&format!("{module}.out_proj")).is_some_and(|module| module.in_attention)
    }
}

/// What came out of sorting.
#[derive(Debug, Default)]
pub(super) struct Sorted<'a> {
    pub(super) contents: Contents<'a>,
    pub(super) findings: Vec<Finding>,
    pub(super) refusal: Option<Refusal>,
}

/// Sorts tensors by their keys.
pub(super) fn sort<'a>(tensors: &[(String, Tensor<'a>)]) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    let (mut bare, mut named) = (Vec::new(), BTreeMap::<String, Vec<&str>>::new());
    let mut wrapped = Vec::new();
    for (name, tensor) in tensors {
        let key = keys::parse(name);
        if !key.has_prefix && key.part != Part::ValueHead {
            bare.push(name.as_str());
        }
        wrapped.extend(key.wrapper.map(|wrapper| (wrapper, name.as_str())));
        if let Some(adapter) = &key.adapter_name {
            named.entry(adapter.clone()).or_default().push(name);
        }
        let entry = Entry { key: name.clone(), tensor: tensor.clone() };
        sorted.put(key, entry);
    }
    sorted.note_spellings(&bare, &named);
    sorted.note_beside(&wrapped);
    sorted
}

impl<'a> Sorted<'a> {
    fn put(&mut self, key: keys::Key, entry: Entry<'a>) {
        let twice = match &key.part {
            Part::Unknown => {
                let message = "no part of a LoRA adapter: PEFT ignores it";
                self.findings.push(Finding::new(&rules::P_KEY_UNKNOWN, &entry.key, message));
                return;
            }
            Part::Foreign(what) => {
                self.refusal.get_or_insert_with(|| {
                    let reason =
                        "the file holds tensors of another method or variant than plain LoRA and DoRA";
                    Refusal::new(what.clone(), reason, "merge it with PEFT (merge_and_unload)")
                });
                return;
            }
            Part::ValueHead => {
                self.contents.beside.push(entry);
                return;
            }
            Part::Whole(kind, param) => {
                let copies = self.contents.whole.entry((key.module, param.clone())).or_default();
                let twice = copies.get(kind).map(|other| other.key.clone());
                copies.entry(*kind).or_insert_with(|| entry.clone());
                twice
            }
            part => {
                let module = self.contents.modules.entry(key.module).or_default();
                module.in_attention |= key.in_attention;
                match module.slot(part) {
                    Some(Some(other)) => Some(other.key.clone()),
                    Some(slot) => {
                        *slot = Some(entry.clone());
                        None
                    }
                    None => None,
                }
            }
        };
        if let Some(other) = twice {
            let message = format!("means the same tensor as {other}");
            self.findings.push(Finding::new(&rules::P_KEY_TWICE, entry.key, message));
        }
    }

    /// What the training left in keys, and beside the model.
    fn note_beside(&mut self, wrapped: &[(&'static str, &str)]) {
        if let Some((wrapper, first)) = wrapped.first() {
            let message = format!("holds {wrapper} ({} keys do)", wrapped.len());
            self.findings.push(Finding::new(&rules::P_KEY_WRAPPED, *first, message));
        }
        if let Some(first) = self.contents.beside.first() {
            let message = "is of a value head: it is kept, and changes nothing";
            self.findings.push(Finding::new(&rules::P_VALUE_HEAD, &first.key, message));
        }
    }

    fn note_spellings(&mut self, bare: &[&str], named: &BTreeMap<String, Vec<&str>>) {
        let count = |keys: &[&str]| {
            if keys.len() > 1 { format!(" (and {} more)", keys.len() - 1) } else { String::new() }
        };
        if let Some(first) = bare.first() {
            let message = format!("lacks {}{}", keys::PREFIX, count(bare));
            self.findings.push(Finding::new(&rules::P_KEY_PREFIX, *first, message));
        }
        for (adapter, keys) in named {
            let first = keys.first().copied().unwrap_or_default();
            let message = format!("holds the adapter's name {adapter:?}{}", count(keys));
            self.findings.push(Finding::new(&rules::P_KEY_ADAPTER_NAME, first, message));
        }
        let names: BTreeSet<&String> = named.keys().collect();
        if names.len() > 1 {
            let message = format!("keys hold different adapters' names: {names:?}");
            self.findings.push(Finding::new(&rules::P_KEY_TWICE, "", message));
        }
    }
}
