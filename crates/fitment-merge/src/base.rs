//! The base of the result: what the adapters record of theirs, as one; and the base at hand.

use crate::culprit::Culprit;
use crate::exact::Fault;
use crate::gather::{Key, key};
use crate::input::{Input, Note, Options};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::identity::{hex, sha256};
use fitment_core::model::{Base, BaseTensor, Digest, Edit, Target, TensorName};
use fitment_core::tensor::Dtype;
use fitment_math::round::wide;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What the adapters say of their bases together.
pub(crate) struct Joined {
    pub(crate) base: Base,
    pub(crate) notes: Vec<Note>,
}

/// Joins the records of all adapters; where they contradict each other there is a culprit.
pub(crate) fn join(inputs: &[Input<'_>], options: &Options<'_>, culprits: &mut Vec<Culprit>) -> Joined {
    let used: Vec<&Input<'_>> = inputs.iter().filter(|input| input.weight != 0.0).collect();
    let mut joiner = Joiner {
        base: used.first().map(|input| input.adapter.base.clone()).unwrap_or_default(),
        notes: Vec::new(),
        other: Vec::new(),
        allow_base_mismatch: options.allow_base_mismatch,
        culprits,
    };
    let mut tensors: BTreeMap<Key, (&Input<'_>, BaseTensor)> = BTreeMap::new();
    for input in &used {
        joiner.facts(used[0], input);
        for tensor in &input.adapter.base.tensors {
            match tensors.get_mut(&entry_key(tensor)) {
                None => {
                    tensors.insert(entry_key(tensor), (input, tensor.clone()));
                }
                Some((first, known)) => joiner.tensor((first, known), (input, tensor)),
            }
        }
    }
    let Joiner { mut base, mut notes, mut other, .. } = joiner;
    notes.dedup();
    notes.extend(strangers(&used));
    let at_hand = options.base.filter(|_| options.allow_base_mismatch);
    for (_, tensor) in tensors.values_mut() {
        if at_hand.is_some_and(|base| take(tensor, base)) {
            other.push(tensor.name.to_string());
        }
    }
    if !other.is_empty() {
        other.sort_unstable();
        other.dedup();
        notes.push(Note::OtherBase { tensors: other, is_at_hand: at_hand.is_some() });
    }
    base.tensors = tensors.into_values().map(|(_, tensor)| tensor).collect();
    unbind(&mut base, &used, &mut notes);
    Joined { base, notes }
}

/// The first two adapters of which nothing tells whether they are for one model: no architecture that both record, no tensor
/// that both touch, no base that both name.
fn strangers(used: &[&Input<'_>]) -> Option<Note> {
    let touched = |input: &Input<'_>| -> BTreeSet<Key> {
        input.adapter.edits.iter().filter_map(Edit::target).map(key).collect()
    };
    let (first, others) = used.split_first()?;
    let known = touched(first);
    let is_stranger = |input: &&&Input<'_>| {
        let (a, b) = (&first.adapter.base, &input.adapter.base);
        let is_one_name = a.name.is_some() && a.name == b.name;
        // Two that differ are refused.
        let is_told = is_one_name || (a.architecture.is_some() && b.architecture.is_some());
        let own = touched(input);
        let has_both = !known.is_empty() && !own.is_empty();
        has_both && !is_told && known.is_disjoint(&own)
    };
    let other = others.iter().find(is_stranger)?;
    Some(Note::NothingShared { first: first.name.clone(), second: other.name.clone() })
}

/// Takes dtype and digests of the base at hand for what is recorded; whether they differ. What it lacks, or cannot
/// read, is left to who asks for it.
fn take(tensor: &mut BaseTensor, base: &dyn Checkpoint) -> bool {
    let target = Target { experts: tensor.experts, ..Target::whole(tensor.name.clone()) };
    let (mut dtype, mut digests) = (None, Vec::new());
    for name in target.base_names() {
        let Some(info) = base.tensors().get(&name) else { return false };
        dtype = Some(info.dtype);
        if !tensor.digests.is_empty() {
            let Ok(bytes) = base.read(&name) else { return false };
            digests.push(sha256(&bytes));
        }
    }
    let is_other = tensor.dtype.is_some_and(|known| dtype.is_some_and(|found| found != known))
        || tensor.digests != digests;
    (tensor.dtype, tensor.digests) = (dtype.or(tensor.dtype), digests);
    is_other
}

/// Forgets tensors that no edit touches: where the weight of a module is 0 there is none.
pub(crate) fn keep_touched(adapter: &mut Adapter<'_>) {
    let touched: BTreeSet<Key> = adapter.edits.iter().filter_map(Edit::target).map(key).collect();
    adapter.base.tensors.retain(|tensor| tensor.unchanged || touched.contains(&entry_key(tensor)));
}

/// The records while they are joined.
struct Joiner<'j> {
    base: Base,
    notes: Vec<Note>,
    /// Tensors of other content, as allowed.
    other: Vec<String>,
    allow_base_mismatch: bool,
    culprits: &'j mut Vec<Culprit>,
}

impl Joiner<'_> {
    fn differ(
        &mut self,
        what: &str,
        first: (&Input<'_>, String),
        second: (&Input<'_>, String),
        can_be_allowed: bool,
    ) {
        self.culprits.push(Culprit::OtherBase {
            what: what.to_owned(),
            first: (first.0.name.clone(), first.1),
            second: (second.0.name.clone(), second.1),
            can_be_allowed,
        });
    }

    /// Name, architecture, layout, config, tied tensors.
    fn facts(&mut self, first: &Input<'_>, input: &Input<'_>) {
        let theirs = &input.adapter.base;
        match (&self.base.name, &theirs.name) {
            (Some(first), Some(second)) if first != second => {
                let note = Note::OtherName { first: first.clone(), second: second.clone() };
                self.notes.push(note);
            }
            (None, Some(name)) => self.base.name = Some(name.clone()),
            _ => {}
        }
        if self.base.revision != theirs.revision {
            self.base.revision = None;
        }
        match (self.base.architecture.clone(), &theirs.architecture) {
            (Some(a), Some(b)) if a != *b => {
                self.differ("architecture", (first, a), (input, b.clone()), false)
            }
            (None, Some(_)) => self.base.architecture.clone_from(&theirs.architecture),
            _ => {}
        }
        if self.base.layout != theirs.layout {
            let [a, b] = [self.base.layout.to_text(), theirs.layout.to_text()];
            self.differ("names of tensors", (first, a), (input, b), false);
        }
        for (key, b) in &theirs.config {
            match self.base.config.get(key).cloned() {
                Some(a) if a != *b => self.differ(key, (first, a.to_string()), (input, b.to_string()), false),
                Some(_) => {}
                None => {
                    self.base.config.insert(key.clone(), b.clone());
                }
            }
        }
        for (name, uses) in &theirs.tied {
            self.base.tied.entry(name.clone()).or_insert_with(|| uses.clone());
        }
    }

    /// Two records of one tensor.
    fn tensor(
        &mut self,
        (first, known): (&Input<'_>, &mut BaseTensor),
        (input, tensor): (&Input<'_>, &BaseTensor),
    ) {
        let name = tensor.name.as_str();
        match (&known.shape, &tensor.shape) {
            (Some(a), Some(b)) if a != b => {
                return self.differ(name, (first, a.to_string()), (input, b.to_string()), false);
            }
            (None, Some(_)) => known.shape.clone_from(&tensor.shape),
            _ => {}
        }
        match (known.dtype, tensor.dtype) {
            (Some(a), Some(b)) if a != b && !self.allow_base_mismatch => {
                return self.differ(name, (first, a.to_string()), (input, b.to_string()), true);
            }
            (Some(a), Some(b)) if a != b => self.other.push(name.to_owned()),
            (None, Some(_)) => known.dtype = tensor.dtype,
            _ => {}
        }
        known.unchanged &= tensor.unchanged;
        if known.digests.is_empty() {
            known.digests.clone_from(&tensor.digests);
        } else if !tensor.digests.is_empty() && known.digests != tensor.digests {
            if self.allow_base_mismatch {
                self.other.push(name.to_owned());
                return;
            }
            let short =
                |digests: &[Digest]| digests.first().map(|digest| format!("SHA-256 {}…", &hex(digest)[..16]));
            let [a, b] = [&known.digests, &tensor.digests].map(|digests| short(digests).unwrap_or_default());
            self.differ(name, (first, a), (input, b), true);
        }
    }
}

/// Digests stand for all tensors, or for none.
fn unbind(base: &mut Base, used: &[&Input<'_>], notes: &mut Vec<Note>) {
    let is_bound = |input: &&&Input<'_>| input.adapter.base.is_bound();
    let bound = used.iter().filter(is_bound).count();
    let has_all = base.tensors.iter().all(|tensor| !tensor.digests.is_empty());
    if bound > 0 && (bound < used.len() || !has_all) {
        base.tensors.retain(|tensor| !tensor.unchanged);
        base.tensors.iter_mut().for_each(|tensor| tensor.digests.clear());
        notes.push(Note::Unbound);
    }
}

pub(crate) fn entry_key(tensor: &BaseTensor) -> Key {
    let component = tensor.component.as_ref().map(ToString::to_string);
    (component, tensor.name.to_string(), tensor.experts.map(|range| (range.start, range.end)))
}

/// The base at hand, where there is one.
pub(crate) struct BaseView<'c> {
    base: Option<&'c dyn Checkpoint>,
    recorded: &'c Base,
}

/// A tensor of the base in binary64.
pub(crate) struct Held {
    pub(crate) values: Vec<f64>,
    pub(crate) dtype: Dtype,
    pub(crate) dims: Vec<u64>,
    /// Its raw bytes, tensor by tensor for a bundle.
    pub(crate) bytes: Vec<u8>,
    /// Their SHA-256, where it was asked for.
    pub(crate) digest: Option<Digest>,
}

/// A tensor of the base as it is.
pub(crate) struct Raw<'c> {
    pub(crate) dtype: Dtype,
    pub(crate) dims: Vec<u64>,
    /// Tensor by tensor for a bundle.
    pub(crate) bytes: Cow<'c, [u8]>,
    /// Their SHA-256, where it was asked for.
    pub(crate) digest: Option<Digest>,
}

impl<'c> BaseView<'c> {
    pub(crate) fn new(base: Option<&'c dyn Checkpoint>, recorded: &'c Base) -> Self {
        Self { base, recorded }
    }

    /// The other uses of a tied tensor.
    pub(crate) fn tied(&self, name: &TensorName) -> Option<&Vec<TensorName>> {
        self.recorded.tied.get(name)
    }

    /// The dtype of a target in the base, as far as it is known.
    pub(crate) fn dtype(&self, target: &Target) -> Option<Dtype> {
        let at_hand = || self.base?.tensors().get(&target.base_names().next()?).map(|info| info.dtype);
        let wanted = key(target);
        let recorded = self.recorded.tensors.iter().find(|tensor| entry_key(tensor) == wanted);
        recorded.and_then(|tensor| tensor.dtype).or_else(at_hand)
    }

    /// A whole target of the base at hand in binary64, held against its digest.
    pub(crate) fn read(&self, target: &Target, reason: &str) -> Result<Held, Fault> {
        let Raw { dtype, dims, bytes, digest } = self.raw(target, reason)?;
        let values = wide(dtype, &bytes)
            .ok_or_else(|| Fault::NotExact(format!("{dtype} is no weight to compute with")))?;
        Ok(Held { values, dtype, dims, bytes: bytes.into_owned(), digest })
    }

    /// A whole target of the base at hand as it is, all experts of a bundle one after the other; held against its digest.
    pub(crate) fn raw(&self, target: &Target, reason: &str) -> Result<Raw<'c>, Fault> {
        let Some(base) = self.base else { return Err(Fault::NeedsBase(reason.to_owned())) };
        if !target.slice.is_empty() || target.component.is_some() {
            return Err(Fault::NotExact("it is a part of a tensor, or of a pipeline".to_owned()));
        }
        let wanted = key(target);
        let recorded = self.recorded.tensors.iter().find(|tensor| entry_key(tensor) == wanted);
        let mut all: Option<Raw<'c>> = None;
        for (index, name) in target.base_names().enumerate() {
            let Some(info) = base.tensors().get(&name) else {
                return Err(Fault::BaseAtHand(name, "no such tensor".to_owned()));
            };
            let bytes = base.read(&name).map_err(|error| Fault::Failed(crate::Error::Base(error)))?;
            let digest = recorded.and_then(|tensor| tensor.digests.get(index));
            if let Some(digest) = digest {
                let found = sha256(&bytes);
                if found != *digest {
                    let [asked, found] = [digest, &found].map(|digest| format!("SHA-256 {}", hex(digest)));
                    return Err(Fault::BaseAtHand(asked, found));
                }
            }
            match &mut all {
                None => {
                    let (dtype, dims) = (info.dtype, info.shape.dims().to_vec());
                    all = Some(Raw { dtype, dims, bytes, digest: digest.copied() });
                }
                Some(all) => {
                    all.bytes.to_mut().extend_from_slice(&bytes);
                    all.digest = None;
                }
            }
        }
        let mut all = all.ok_or_else(|| Fault::NotExact("it is a bundle of no experts".to_owned()))?;
        if let Some(range) = target.experts {
            all.dims.insert(0, range.count());
        }
        Ok(all)
    }
}
