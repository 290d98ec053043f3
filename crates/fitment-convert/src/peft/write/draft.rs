//! A PEFT folder in the making.

use crate::loss::Loss;
use crate::peft::keys::PREFIX;
use fitment_core::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// What will stand in the folder.
#[derive(Debug, Default)]
pub(super) struct Draft<'a> {
    /// By key.
    pub(super) tensors: BTreeMap<String, Tensor<'a>>,
    /// Modules with a LoRA.
    pub(super) modules: BTreeMap<String, Adapted>,
    /// What all modules of single experts have, where there are any: the config says it for them.
    pub(super) experts: Option<Adapted>,
    /// Parameters with a LoRA, by their whole path.
    pub(super) parameters: BTreeMap<String, Adapted>,
    /// Modules whose `lora_B` has a bias.
    pub(super) biased: BTreeSet<String>,
    /// Modules saved whole.
    pub(super) saved: BTreeSet<String>,
    /// Modules of which only the bias is replaced.
    pub(super) bias_only: BTreeSet<String>,
    /// Rows by module.
    pub(super) tokens: BTreeMap<String, Vec<u64>>,
    pub(super) losses: Vec<Loss>,
}

/// A module with a LoRA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Adapted {
    pub(super) alpha: f64,
    pub(super) rank: u64,
    /// What PEFT will compute from the two.
    pub(super) scale: f64,
    pub(super) kind: Kind,
}

/// Of which class the module must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    /// GPT-2's linear layer, stored `[in, out]`.
    Conv1d,
    Conv,
    Embedding,
    /// None: a parameter, whatever module it is in.
    Parameter,
}

impl<'a> Draft<'a> {
    /// All that has a LoRA, by path.
    pub(super) fn adapted(&self) -> impl Iterator<Item = (&String, &Adapted)> {
        self.modules.iter().chain(&self.parameters)
    }

    /// Puts a tensor under the key of a module's part.
    pub(super) fn put(&mut self, module: &str, part: &str, tensor: Tensor<'a>) {
        self.tensors.insert(format!("{PREFIX}{module}.{part}"), tensor);
    }

    /// Notes an edit that PEFT cannot hold.
    pub(super) fn lose(&mut self, target: &str, kind: &'static str, reason: &str) {
        self.losses.push(Loss::NotHeld { target: target.to_owned(), kind, reason: reason.to_owned() });
    }
}
