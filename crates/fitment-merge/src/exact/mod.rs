//! The exact merge: what each target becomes without loss.

mod additive;
mod change;
mod dora;
mod elements;
pub(crate) mod hidden;
mod whole;

use crate::base::{self, BaseView};
use crate::culprit::Culprit;
use crate::error::Error;
use crate::gather::{Gathered, Key, Touch, gather, is_additive};
use crate::input::{Input, Limit, Merged, Note, Options, SiteRule};
use crate::parallel;
pub(crate) use change::same_part;
use change::{Change, Start};
pub(crate) use elements::positions;
use fitment_core::Adapter;
use fitment_core::model::{ConfigEdit, Edit, TensorName};
use std::collections::BTreeMap;
pub(crate) use whole::{corrected, restored};

/// What every part of the merge looks at.
pub(crate) struct Context<'c, 'a> {
    pub(crate) inputs: &'c [Input<'a>],
    pub(crate) base: BaseView<'c>,
}

impl Context<'_, '_> {
    /// All uses of a tied tensor, where adapters mean different ones: each is composed by itself (spec section 10).
    fn uses(&self, touches: &[Touch<'_>]) -> Option<Vec<TensorName>> {
        let first = touches.first()?;
        if touches.iter().all(|touch| touch.uses() == first.uses()) {
            return None;
        }
        let name = &first.edit.target()?.name;
        let others = self.base.tied(name)?;
        Some([name].into_iter().chain(others).cloned().collect())
    }

    fn names(&self, files: impl Iterator<Item = usize>) -> Vec<String> {
        let mut files: Vec<usize> = files.collect();
        files.dedup();
        files.into_iter().map(|file| self.inputs[file].name.clone()).collect()
    }
}

/// Why a target is not merged.
pub(crate) enum Fault {
    NeedsBase(String),
    NotExact(String),
    /// The method has no result for it.
    Undefined(String),
    /// A DoRA is told to a method.
    Magnitude,
    /// A number is too large for the result's dtype.
    Overflow(String),
    /// What is asked for, and what the base has.
    BaseAtHand(String, String),
    Failed(Error),
}

impl Fault {
    pub(crate) fn exact(reason: &str) -> Self {
        Fault::NotExact(reason.to_owned())
    }

    pub(crate) fn factors_overflow() -> Self {
        Fault::Overflow("the factors overflow".to_owned())
    }
}

/// The edits of a target, and whether multipliers were rounded on their way into factors.
pub(crate) type Done<'a> = (Vec<Edit<'a>>, bool);

/// Weights that are no numbers.
///
/// # Errors
/// [`Error::NoInput`]; [`Error::Params`] for rules that are none.
pub(crate) fn weights(inputs: &[Input<'_>], options: &Options<'_>) -> Result<Vec<Culprit>, Error> {
    if inputs.is_empty() {
        return Err(Error::NoInput);
    }
    if let Some(Limit::Dynamic { rule, value, .. }) = options.limit
        && let Some(reason) = rule.fault(value)
    {
        return Err(Error::Params { reason });
    }
    if let Some(reason) = options.weights.faults(inputs.len()).into_iter().next() {
        return Err(Error::Params { reason });
    }
    let odd = inputs.iter().filter(|input| !input.weight.is_finite());
    let odd = odd.map(|input| Culprit::Weight { name: input.name.clone(), weight: input.weight });
    let unmatched =
        options.weights.unmatched(inputs).into_iter().map(|pattern| Culprit::Unmatched { pattern });
    Ok(odd.chain(unmatched).collect())
}

/// What is no edit of a weight: config keys, then interventions.
pub(crate) fn others<'a>(
    context: &Context<'_, 'a>,
    gathered: &Gathered<'a>,
    culprits: &mut Vec<Culprit>,
    hidden_by: (SiteRule, Option<&[u64]>),
) -> Vec<Edit<'a>> {
    let config = config(context, gathered, culprits).into_iter().map(Edit::Config);
    let mut edits: Vec<Edit<'a>> = config.collect();
    edits.extend(hidden::merge(context, gathered, culprits, hidden_by).into_iter().map(Edit::Intervention));
    edits
}

pub(crate) fn merge<'a>(inputs: &[Input<'a>], options: &Options<'_>) -> Result<Merged<'a>, Error> {
    let mut culprits = weights(inputs, options)?;
    let joined = base::join(inputs, options, &mut culprits);
    if culprits.iter().any(Culprit::is_other_model) {
        return Err(Error::Refused { culprits });
    }
    let gathered = gather(inputs, options.weights);

    let context = Context { inputs, base: BaseView::new(options.base, &joined.base) };
    let (mut edits, mut rounded) = (Vec::new(), 0);
    let met = gathered.met();
    let work: Vec<(&Key, &Vec<Touch<'a>>)> = gathered.tensors.iter().collect();
    let done = parallel::map(&work, |(key, touches)| target(&context, touches, met.contains(*key)));
    for ((_, touches), done) in work.into_iter().zip(done) {
        match done {
            Ok((done, was_rounded)) => {
                edits.extend(done);
                rounded += usize::from(was_rounded);
            }
            Err(Fault::Failed(error)) => return Err(error),
            Err(fault) => culprits.push(culprit(&context, touches, fault)),
        }
    }
    edits.extend(others(&context, &gathered, &mut culprits, (options.site_rule, options.subspace)));
    if !culprits.is_empty() {
        return Err(Error::Refused { culprits });
    }
    let mut notes = joined.notes;
    let turned: Vec<String> =
        edits.iter().filter(|edit| dora::is_turned(edit)).filter_map(Edit::label).collect();
    if !turned.is_empty() {
        notes.push(Note::Magnitudes { targets: turned });
    }
    if rounded > 0 {
        notes.push(Note::Rounded { targets: rounded });
    }
    let weightless = inputs.iter().filter(|input| input.weight == 0.0);
    notes.extend(weightless.map(|input| Note::Weightless { name: input.name.clone() }));
    let adapter = Adapter { base: joined.base, edits, ..Adapter::default() };
    Ok(Merged { adapter, notes, truncated: Vec::new() })
}

pub(crate) fn culprit(context: &Context<'_, '_>, touches: &[Touch<'_>], fault: Fault) -> Culprit {
    let target = touches.first().and_then(|touch| touch.edit.label()).unwrap_or_default();
    let names = context.names(touches.iter().map(|touch| touch.file));
    match fault {
        Fault::NeedsBase(reason) => Culprit::NeedsBase { target, names, reason },
        Fault::BaseAtHand(expected, found) => Culprit::BaseAtHand { target, expected, found },
        Fault::NotExact(reason) => Culprit::NotExact { target, names, reason },
        Fault::Undefined(reason) => Culprit::Undefined { target, names, reason },
        Fault::Overflow(reason) => {
            let hint = Some("take smaller weights, or a smaller lambda");
            Culprit::Apart { target, names, reason, hint }
        }
        Fault::Magnitude => Culprit::Magnitude { target, names },
        Fault::Failed(error) => Culprit::NotExact { target, names, reason: error.to_string() },
    }
}

/// What one tensor, or bundle, becomes.
pub(crate) fn target<'a>(
    context: &Context<'_, 'a>,
    touches: &[Touch<'a>],
    is_met: bool,
) -> Result<Done<'a>, Fault> {
    if is_met {
        return Err(Fault::exact(
            "one adapter changes a bundle of experts, another one expert by its own name",
        ));
    }
    if touches.iter().all(|touch| is_additive(touch.edit)) {
        return additive::merge(touches);
    }
    let is_alone = touches.windows(2).all(|pair| pair[0].file == pair[1].file);
    if is_alone && touches.iter().all(|touch| touch.weight == 1.0) {
        return Ok((touches.iter().map(|touch| touch.edit.clone()).collect(), false));
    }
    match context.uses(touches) {
        None => one_use(context, touches),
        Some(uses) => {
            let (mut edits, mut rounded) = (Vec::new(), false);
            for name in uses {
                let applies = |touch: &Touch<'a>| touch.uses().is_empty() || touch.uses().contains(&name);
                let touches: Vec<Touch<'a>> = touches.iter().copied().filter(applies).collect();
                let touches: Vec<Touch<'a>> = touches.into_iter().map(|touch| touch.for_use()).collect();
                let (mut more, was_rounded) = one_use(context, &touches)?;
                more.iter_mut()
                    .filter_map(Edit::target_mut)
                    .for_each(|target| target.uses = vec![name.clone()]);
                edits.extend(more);
                rounded |= was_rounded;
            }
            Ok((edits, rounded))
        }
    }
}

/// What a tensor, or one use of a tied one, becomes.
fn one_use<'a>(context: &Context<'_, 'a>, touches: &[Touch<'a>]) -> Result<Done<'a>, Fault> {
    if touches.iter().all(|touch| is_additive(touch.edit)) {
        return additive::merge(touches);
    }
    let is_alone = touches.windows(2).all(|pair| pair[0].file == pair[1].file);
    if is_alone && touches.iter().all(|touch| touch.weight == 1.0) {
        return Ok((touches.iter().map(|touch| touch.edit.clone()).collect(), false));
    }
    let changes = change::changes(touches)?;
    let added: Vec<Touch<'a>> = changes.iter().flat_map(|change| change.added.iter().copied()).collect();
    let (mut edits, mut rounded) = start(context, &changes, !added.is_empty())?;
    if !matches!(changes_kind(&changes), Kind::Dora) {
        let (more, was_rounded) = additive::merge(&added)?;
        edits.extend(more);
        rounded |= was_rounded;
    }
    Ok((edits, rounded))
}

/// What is left of a target before anything is added to it.
enum Kind {
    Removed,
    Whole,
    Rows,
    Elements,
    Dora,
    Mixed,
}

fn changes_kind(changes: &[Change<'_>]) -> Kind {
    let is = |test: fn(&Start<'_>) -> bool| changes.iter().all(|change| test(&change.start));
    if is(|start| matches!(start, Start::Remove(_))) {
        Kind::Removed
    } else if is(|start| matches!(start, Start::Nothing | Start::Dora(_))) {
        Kind::Dora
    } else if is(|start| matches!(start, Start::Nothing | Start::Rows(_))) {
        Kind::Rows
    } else if is(|start| matches!(start, Start::Nothing | Start::Elements(_))) {
        Kind::Elements
    } else if is(|start| !matches!(start, Start::Dora(_) | Start::Remove(_))) {
        Kind::Whole
    } else {
        Kind::Mixed
    }
}

fn start<'a>(
    context: &Context<'_, 'a>,
    changes: &[Change<'a>],
    is_added_to: bool,
) -> Result<Done<'a>, Fault> {
    match changes_kind(changes) {
        Kind::Removed => match changes {
            [Change { start: Start::Remove(first), .. }, ..]
                if changes.iter().all(|change| change.weight == 1.0) =>
            {
                Ok((vec![Edit::Remove((*first).clone())], false))
            }
            _ => Err(Fault::exact("a tensor is removed with weight 1, or not at all")),
        },
        Kind::Whole => whole::merge(context, changes, is_added_to),
        Kind::Rows => elements::rows(context, changes, is_added_to),
        Kind::Elements => elements::single(context, changes, is_added_to),
        Kind::Dora => dora::merge(context, changes),
        Kind::Mixed => {
            let kinds: Vec<&str> = changes.iter().map(|change| change.start.name()).collect();
            Err(Fault::NotExact(format!("no edit does what {} do together", kinds.join(" and "))))
        }
    }
}

/// Keys of the config: each once, with one value.
fn config(
    context: &Context<'_, '_>,
    gathered: &Gathered<'_>,
    culprits: &mut Vec<Culprit>,
) -> Vec<ConfigEdit> {
    let mut set: BTreeMap<(Option<String>, &str), (usize, &ConfigEdit)> = BTreeMap::new();
    for (file, edit) in &gathered.config {
        let key = (edit.component.as_ref().map(ToString::to_string), edit.value.key());
        match set.get(&key) {
            Some((first, other)) if other.value != edit.value => culprits.push(Culprit::Apart {
                target: edit.value.key().to_owned(),
                names: context.names([*first, *file].into_iter()),
                reason: format!("one sets it to {}, the other to {}", other.value.json(), edit.value.json()),
                hint: None,
            }),
            Some(_) => {}
            None => {
                set.insert(key, (*file, edit));
            }
        }
    }
    set.into_values().map(|(_, edit)| edit.clone()).collect()
}
