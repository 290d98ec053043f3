//! The pairs of a file, and every breach of the rules of LoRA.

use super::super::container::{Container, Entry};
use super::super::facts::Facts;
use super::super::rules;
use super::super::value::Value;
use super::{A, ADAPTER, ADAPTER_TYPE, ALPHA, B, EMBEDDING, INVOCATION_TOKENS, LORA, TYPE};
use fitment_core::Finding;
use fitment_core::finding::Rule;
use fitment_core::tensor::{Shape, Tensor};
use fitment_math::not_finite;
use std::collections::BTreeMap;

/// What a sound file holds.
#[derive(Debug)]
pub(in crate::gguf) struct Contents<'a> {
    pub(super) facts: Facts,
    /// 0 where there is none.
    pub(super) alpha: f32,
    pub(super) invocation_tokens: Vec<u64>,
    /// In the order of the file.
    pub(super) pairs: Vec<Pair<'a>>,
}

/// The factors of one tensor of the base, as they are stored.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    /// The tensor without `.weight`.
    pub(super) stem: String,
    pub(super) a: Tensor<'a>,
    pub(super) b: Tensor<'a>,
}

/// Reads a file as far as it is sound.
pub(in crate::gguf) fn inspect<'a>(container: &Container<'a>) -> (Option<Contents<'a>>, Vec<Finding>) {
    let facts = match Facts::of_metadata(&container.metadata) {
        Ok(facts) => facts,
        Err(said) => {
            let said = said.map_or("missing".to_owned(), |name| crate::error::one_line(&name));
            let message = format!("it is {said}, whose names in transformers are not known here");
            return (None, vec![Finding::new(&rules::G_ARCHITECTURE, "general.architecture", message)]);
        }
    };
    let mut checker = Checker { container, findings: Vec::new() };
    let (alpha, invocation_tokens) = checker.metadata();
    let pairs = checker.pairs(&facts);
    (Some(Contents { facts, alpha, invocation_tokens, pairs }), checker.findings)
}

struct Checker<'c, 'a> {
    container: &'c Container<'a>,
    findings: Vec<Finding>,
}

impl<'a> Checker<'_, 'a> {
    fn report(&mut self, rule: &Rule, place: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(rule, place, message));
    }

    /// Alpha and invocation tokens.
    fn metadata(&mut self) -> (f32, Vec<u64>) {
        for (key, wanted) in [(TYPE, ADAPTER), (ADAPTER_TYPE, LORA)] {
            let found = self.container.get(key);
            if found.and_then(Value::as_text) != Some(wanted) {
                let said = found.map_or("missing".to_owned(), Value::to_string);
                self.report(&rules::G_ADAPTER, key, format!("it is {said}, {wanted} is asked for"));
            }
        }
        let alpha = match self.container.get(ALPHA) {
            Some(Value::F32(alpha)) if alpha.is_finite() => *alpha,
            None => 0.0,
            Some(other) => {
                self.report(&rules::G_ADAPTER, ALPHA, format!("it is {other}, a finite f32 is asked for"));
                0.0
            }
        };
        if alpha == 0.0 {
            self.report(&rules::G_ALPHA, ALPHA, "it is 0 or missing: every scale is 1");
        }
        let token = |value: &Value| match value {
            Value::U32(token) => Some(u64::from(*token)),
            _ => None,
        };
        let tokens = match self.container.get(INVOCATION_TOKENS) {
            None => Some(Vec::new()),
            Some(Value::List(tokens)) => tokens.iter().map(token).collect(),
            Some(_) => None,
        };
        if tokens.is_none() {
            self.report(&rules::G_ADAPTER, INVOCATION_TOKENS, "it is no list of u32");
        }
        (alpha, tokens.unwrap_or_default())
    }

    fn pairs(&mut self, facts: &Facts) -> Vec<Pair<'a>> {
        let mut stems: Vec<&str> = Vec::new();
        let mut halves: BTreeMap<&str, [Option<&Entry<'a>>; 2]> = BTreeMap::new();
        for entry in &self.container.tensors {
            let name = &*entry.name;
            let half =
                name.strip_suffix(A).map(|stem| (stem, 0)).or(name.strip_suffix(B).map(|stem| (stem, 1)));
            match half {
                Some((stem, half)) => {
                    let pair = halves.entry(stem).or_insert_with(|| {
                        stems.push(stem);
                        [None, None]
                    });
                    pair[half] = Some(entry);
                }
                None if name.ends_with("_norm.weight") => {
                    self.report(&rules::G_UNAPPLIED, name, "is a norm, not a factor");
                }
                None => self.report(&rules::G_PAIR, name, "is no factor of a weight"),
            }
        }
        if self.container.tensors.is_empty() {
            self.report(&rules::G_PAIR, "", "the file holds nothing");
        }
        let mut pairs = Vec::with_capacity(stems.len());
        for stem in stems {
            match halves.get(stem) {
                Some([Some(a), Some(b)]) => pairs.extend(self.pair(facts, stem, a, b)),
                Some([a, _]) => {
                    let missing = if a.is_some() { B } else { A };
                    self.report(&rules::G_PAIR, &format!("{stem}{missing}"), "is missing");
                }
                None => {}
            }
        }
        pairs
    }

    fn pair(&mut self, facts: &Facts, stem: &str, a: &Entry<'a>, b: &Entry<'a>) -> Option<Pair<'a>> {
        let architecture = facts.architecture;
        if architecture.is_unapplied(stem) {
            let message = format!("{} computes with it without a look at adapters", architecture.name);
            self.report(&rules::G_UNAPPLIED, &a.name, message);
            return None;
        }
        let Some(module) = architecture.module(stem) else {
            let message = format!("{} has no {stem}.weight", architecture.name);
            self.report(&rules::G_NAME, &a.name, message);
            return None;
        };
        let is_stack = module.contains("{e}");
        if let Some(message) = misfit(stem, is_stack, &a.dims, &b.dims) {
            self.report(&rules::G_FACTORS, &format!("{stem}.weight"), message);
            return None;
        }
        let [a, b] = [a, b].map(|entry| {
            let shape = Shape::new(&entry.dims).ok()?;
            if let Some(at) = not_finite::first(entry.dtype, entry.bytes) {
                self.report(&rules::G_VALUE, &entry.name, format!("element {at} is NaN or infinite"));
            }
            Tensor::borrowed(entry.dtype, shape, entry.bytes).ok()
        });
        Some(Pair { stem: stem.to_owned(), a: a?, b: b? })
    }
}

/// What is wrong with the axes of two factors.
fn misfit(stem: &str, is_stack: bool, a: &[u64], b: &[u64]) -> Option<String> {
    let shown = |wanted: &str| Some(format!("lora_a is {a:?}, lora_b {b:?}: {wanted}"));
    let (a_rank, b_rank) = match (a, b) {
        (&[a_stack, a_rank, _], &[b_stack, _, b_rank]) if is_stack && a_stack == b_stack => (a_rank, b_rank),
        (&[_, a_rank], &[_, b_rank]) if stem == EMBEDDING => (a_rank, b_rank),
        (&[a_rank, _], &[_, b_rank]) if !is_stack => (a_rank, b_rank),
        _ if is_stack => return shown("three axes each are asked for, of as many experts"),
        _ => return shown("two axes each are asked for"),
    };
    if a.iter().chain(b).any(|dim| *dim == 0) {
        return shown("none is 0");
    }
    (a_rank != b_rank).then(|| shown("their ranks differ")).flatten()
}
