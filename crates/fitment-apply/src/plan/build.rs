use super::bind::{Expected, Records};
use super::config::{self, Wanted};
use super::finite::Scanner;
use super::gather::{Touch, gather};
use super::job::{Compute, Job, Output};
use super::{Input, Options, Plan};
use crate::note::Note;
use crate::refusal::{Culprit, Refusal};
use fitment_core::checkpoint::quantised::{self, Scheme};
use fitment_core::checkpoint::{Checkpoint, Names, OutputTensor, TensorInfo};
use fitment_core::identity::sha256;
use fitment_core::model::ConfigValue;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Names that are compared with a missing one are looked through for so many culprits only.
const MAX_NEAREST: usize = 32;

/// The plan while it is made.
pub(super) struct Builder<'b, 'a> {
    pub(super) inputs: &'b [Input<'a>],
    pub(super) base: &'b dyn Checkpoint,
    pub(super) options: &'b Options,
    pub(super) records: Records<'a>,
    pub(super) culprits: Vec<Culprit>,
    pub(super) notes: Vec<Note>,
    pub(super) outputs: BTreeMap<String, Output<'a>>,
    pub(super) digests: BTreeMap<String, Vec<Expected>>,
    /// Base tensors that the result lacks.
    pub(super) removed: BTreeSet<String>,
    /// Tied tensors that get tensors of their own for each use, with the adapter that asks for it.
    pub(super) untied: Vec<(String, usize)>,
    /// Rows before and after.
    pub(super) grown: Vec<(u64, u64)>,
    names: Option<Names<'b>>,
    missing: usize,
}

pub(super) fn build<'a>(
    inputs: &[Input<'a>],
    base: &dyn Checkpoint,
    options: &Options,
) -> Result<Plan<'a>, Refusal> {
    if let Some((scheme, evidence)) = quantised::find(base) {
        Refusal::unless_empty(vec![Culprit::Quantised { scheme, evidence }])?;
    }
    let gathered = gather(inputs, options);
    refuse_blocks(gathered.touches.keys(), base)?;
    let mut builder = Builder {
        inputs,
        base,
        options,
        records: Records::new(inputs),
        culprits: gathered.culprits,
        notes: gathered.notes,
        outputs: BTreeMap::new(),
        digests: BTreeMap::new(),
        removed: BTreeSet::new(),
        untied: Vec::new(),
        grown: Vec::new(),
        names: None,
        missing: 0,
    };
    if let Some(dtype) = options.dtype.filter(|dtype| !dtype.is_weight()) {
        builder.culprits.push(Culprit::OutputDtype { dtype });
    }
    builder.note_unbound(&gathered.touches);
    builder.check_finite(&gathered.touches);
    for (name, touches) in &gathered.touches {
        builder.target(name, touches, &gathered.touches);
    }
    builder.expect_unchanged();
    builder.copy_the_rest();
    let wanted = config::join(&gathered.config, inputs, &mut builder.culprits);
    let config = builder.config(wanted);
    if let Some(applied) = builder.already_applied() {
        builder.culprits = vec![applied];
    }
    Refusal::unless_empty(std::mem::take(&mut builder.culprits))?;
    Ok(Plan {
        outputs: builder.outputs.into_values().collect(),
        digests: builder.digests,
        config,
        notes: builder.notes,
        files: inputs.iter().map(|input| input.name.clone()).collect(),
        allow_base_mismatch: options.allow_base_mismatch,
    })
}

/// A checkpoint holds no blocks of quantised numbers, of targets as of what would be copied.
fn refuse_blocks<'t>(
    targets: impl Iterator<Item = &'t String>,
    base: &dyn Checkpoint,
) -> Result<(), Refusal> {
    let culprit = |name: &String| {
        let kind = base.quantised(name)?;
        Some(Culprit::Quantised { scheme: Scheme::Gguf, evidence: format!("{name} is {kind}") })
    };
    let mut culprits: Vec<Culprit> = targets.filter_map(culprit).collect();
    if culprits.is_empty() {
        culprits.extend(base.tensors().keys().find_map(culprit));
    }
    Refusal::unless_empty(culprits)
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn file(&self, file: usize) -> String {
        self.inputs[file].name.clone()
    }

    fn note_unbound(&mut self, touches: &BTreeMap<String, Vec<Touch<'a>>>) {
        let used: BTreeSet<usize> = touches.values().flatten().map(|touch| touch.file).collect();
        let unbound = used.into_iter().filter(|file| !self.inputs[*file].adapter.base.is_bound());
        let notes: Vec<Note> = unbound.map(|file| Note::Unbound { file: self.file(file) }).collect();
        self.notes.extend(notes);
    }

    /// Where something does not fit: whether the base is what a bit-exact change makes. Rows that have grown and tensors that
    /// were created then say less than this.
    fn already_applied(&self) -> Option<Culprit> {
        if self.culprits.is_empty() {
            return None;
        }
        let (name, expected, result) = self.digests.iter().find_map(|(name, expected)| {
            expected.iter().find_map(|expected| Some((name, expected, expected.result?)))
        })?;
        let bytes = self.base.read(name).ok()?;
        let (file, target) = (self.file(expected.file), name.clone());
        (sha256(&bytes) == result && expected.digest != result)
            .then_some(Culprit::AlreadyApplied { file, target })
    }

    fn check_finite(&mut self, touches: &BTreeMap<String, Vec<Touch<'a>>>) {
        let mut scanner = Scanner::default();
        for (name, touches) in touches {
            for touch in touches {
                if let Some((role, position)) = scanner.first_fault(touch.edit) {
                    let (file, target) = (self.file(touch.file), name.clone());
                    self.culprits.push(Culprit::NotFinite { file, target, role, position });
                }
            }
        }
    }

    pub(super) fn missing_target(&mut self, name: &str, file: usize) {
        self.missing += 1;
        let base = self.base;
        let names = self.names.get_or_insert_with(|| Names::new(base.tensors().keys().map(String::as_str)));
        let nearest = if self.missing <= MAX_NEAREST { names.nearest(name) } else { None };
        let nearest = nearest.map(str::to_owned);
        self.culprits.push(Culprit::MissingTarget {
            file: self.file(file),
            target: name.to_owned(),
            nearest,
        });
    }

    fn copy_the_rest(&mut self) {
        let rest = self
            .base
            .tensors()
            .iter()
            .filter(|(name, _)| !self.outputs.contains_key(*name) && !self.removed.contains(*name));
        let copies: Vec<Output<'a>> = rest.map(|(name, info)| self.untouched(name, name, info)).collect();
        self.outputs.extend(copies.into_iter().map(|output| (output.tensor.name.clone(), output)));
    }

    /// A base tensor under a name of the result, in the dtype that was asked for.
    pub(super) fn untouched(&self, name: &str, from: &str, info: &TensorInfo) -> Output<'a> {
        let dtype = self.options.dtype.filter(|dtype| info.dtype.is_weight() && *dtype != info.dtype);
        let job = match dtype {
            None => Job::Copy { from: from.to_owned() },
            Some(_) => Job::Compute(Compute { base: Some((from.to_owned(), info.clone())), shares: vec![] }),
        };
        let info = TensorInfo { dtype: dtype.unwrap_or(info.dtype), shape: info.shape.clone() };
        Output { tensor: OutputTensor { name: name.to_owned(), info, beside: Some(from.to_owned()) }, job }
    }

    fn config(&mut self, wanted: Wanted) -> Vec<config::ConfigChange> {
        let tie = wanted.get("tie_word_embeddings").map(|(_, value)| *value);
        if let (Some(ConfigValue::TieWordEmbeddings(true)), Some((target, file))) = (tie, self.untied.first())
        {
            let culprit = Culprit::StaysTied { file: self.file(*file), target: target.clone() };
            self.culprits.push(culprit);
        }
        let mut wanted: BTreeMap<&'static str, Value> =
            wanted.into_iter().map(|(key, (_, value))| (key, value.json())).collect();
        let base = self.base.config();
        config::derive(&mut wanted, base, (!self.untied.is_empty(), &self.grown), &mut self.notes);
        config::changes(&wanted, self.options.dtype, base, &mut self.notes)
    }
}
