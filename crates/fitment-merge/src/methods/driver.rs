//! A method over all targets: updates gathered, the method called, its result made an edit.

use super::updates::{LowRank, Updates, low_rank, of_edits};
use super::{Core, Dense, Factors, Failure, Method, Params, Run, Task};
use super::{each_factor, shares, stored};
use crate::base::{self, BaseView};
use crate::culprit::Culprit;
use crate::error::Error;
use crate::exact::{self, Context, Fault};
use crate::factors;
use crate::gather::{Gathered, Touch, gather, labels};
use crate::input::{Input, Limit, Merged, Note, Options, Truncated};
use crate::parallel;
use crate::room::Room;
use crate::truncate::reached;
use crate::weights::Schedule;
use fitment_core::Adapter;
use fitment_core::model::Edit;
use std::collections::{BTreeMap, BTreeSet};

/// What became of a target.
#[derive(Default)]
pub(super) struct Done<'a> {
    pub(super) edits: Vec<Edit<'a>>,
    pub(super) truncated: Option<Truncated>,
    pub(super) is_summed: bool,
    /// A matrix that a limit would make low-rank.
    pub(super) is_dense: bool,
}

/// What a target is merged by.
#[derive(Clone, Copy)]
struct How<'h> {
    method: &'static Method,
    params: &'h Params,
    /// Of all adapters at this target.
    weights: &'h [f64],
    limit: Option<Limit>,
}

pub(crate) fn merge<'a>(
    inputs: &[Input<'a>],
    options: &Options<'_>,
    (method, room): (&'static Method, &'a dyn Room),
) -> Result<Merged<'a>, Error> {
    if let Some(reason) = options.params.fault(method.name, method.params) {
        return Err(Error::Params { reason });
    }
    if matches!(method.run, Run::Pair(_)) && inputs.len() != 2 {
        let reason = format!("{} is between 2 adapters, {} named here", method.name, inputs.len());
        return Err(Error::Params { reason });
    }
    let mut culprits = exact::weights(inputs, options)?;
    let joined = base::join(inputs, options, &mut culprits);
    if culprits.iter().any(Culprit::is_other_model) {
        return Err(Error::Refused { culprits });
    }
    let gathered: Gathered<'a> = gather(inputs, options.weights);
    let labels = labels(inputs);
    let schedule = Schedule::new(options.weights, labels.iter().map(String::as_str));
    let context = Context { inputs, base: BaseView::new(options.base, &joined.base) };
    let met = gathered.met();
    let meeting = gathered.tensors.iter().filter(|(key, _)| met.contains(*key));
    culprits.extend(meeting.map(|(_, touches)| {
        let reason = "one adapter changes a bundle of experts, another one expert by its own name";
        exact::culprit(&context, touches, Fault::exact(reason))
    }));
    let work: Vec<&Vec<Touch<'a>>> = gathered.tensors.values().collect();
    if let Some(limit) = options.limit.filter(|_| method.is_ranked()) {
        let whole: Vec<Truncated> = work.iter().filter_map(|touches| all_ranks(touches)).collect();
        reached(&whole, limit)?;
    }
    let done = parallel::map(&work, |touches| {
        let label = touches.first().and_then(|touch| touch.edit.label()).unwrap_or_default();
        let weight = |(place, input): (usize, &Input<'a>)| input.weight * schedule.weight(&label, place);
        let weights: Vec<f64> = inputs.iter().enumerate().map(weight).collect();
        let params = schedule.params(&label, &options.params);
        target(
            &context,
            touches,
            &How { method, params: &params, weights: &weights, limit: options.limit },
            room,
        )
    });
    let mut merged =
        Merged { adapter: Adapter::default(), notes: joined.notes.clone(), truncated: Vec::new() };
    let (mut summed, mut dense) = (BTreeSet::new(), 0);
    for (touches, done) in work.iter().zip(done) {
        match done {
            Ok(done) => {
                summed
                    .extend(touches.first().and_then(|touch| touch.edit.label()).filter(|_| done.is_summed));
                dense += usize::from(done.is_dense);
                merged.adapter.edits.extend(done.edits);
                merged.truncated.extend(done.truncated);
            }
            Err(Fault::Failed(error)) => return Err(error),
            Err(fault) => culprits.push(exact::culprit(&context, touches, fault)),
        }
    }
    if matches!(method.run, Run::EachFactor(_)) {
        culprits.extend(averaged(inputs, &gathered));
    }
    merged.adapter.edits.extend(exact::others(
        &context,
        &gathered,
        &mut culprits,
        (options.site_rule, options.subspace),
    ));
    if !culprits.is_empty() {
        return Err(Error::Refused { culprits });
    }
    summed.extend(gathered.interventions.iter().map(|(_, _, edit)| edit.label()));
    if !summed.is_empty() {
        merged.notes.push(Note::Summed { targets: summed.into_iter().collect() });
    }
    if dense > 0 {
        merged.notes.push(Note::Dense { targets: dense });
    }
    merged.adapter.base = joined.base;
    Ok(merged)
}

/// The rank of all low-rank updates of a target side by side, of which nothing is cut.
fn all_ranks(touches: &[Touch<'_>]) -> Option<Truncated> {
    let rank = |touch: &Touch<'_>| if let Edit::Lora(lora) = touch.edit { lora.rank() } else { 0 };
    let from = touches.iter().map(rank).sum();
    let target = touches.first()?.edit.label()?;
    Some(Truncated { target, from, to: from, relative_error: 0.0 })
}

/// Sites at which several adapters act: their `U` and `W` have no means of their own.
fn averaged(inputs: &[Input<'_>], gathered: &Gathered<'_>) -> Vec<Culprit> {
    let mut sites: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (file, _, edit) in &gathered.interventions {
        sites.entry(edit.label()).or_default().insert(*file);
    }
    let shared = sites.into_iter().filter(|(_, files)| files.len() > 1);
    let culprit = |(target, files): (String, BTreeSet<usize>)| {
        Culprit::Undefined {
        target,
        names: files.into_iter().map(|file| inputs[file].name.clone()).collect(),
        reason: "U and W of interventions have no means of their own: (U, W) and (UQ, QᵀW) are one function for any orthogonal Q, and the mean depends on which was stored".to_owned(),
    }
    };
    shared.map(culprit).collect()
}

fn target<'a>(
    context: &Context<'_, 'a>,
    touches: &[Touch<'a>],
    how: &How<'_>,
    room: &'a dyn Room,
) -> Result<Done<'a>, Fault> {
    let How { method, params, limit, .. } = *how;
    let name = touches.first().and_then(|touch| touch.edit.label()).unwrap_or_default();
    // Rules by module may have set others than those of the command.
    if let Some(reason) = params.fault(method.name, method.params) {
        return Err(Fault::Failed(Error::Params { reason: format!("{name}: {reason}") }));
    }
    if !touches.iter().all(|touch| is_update(touch.edit)) {
        let (edits, _) = exact::target(context, touches, false)?;
        return Ok(Done { edits, is_summed: true, ..Done::default() });
    }
    match (method.run, low_rank(touches)?) {
        (Run::Core(run) | Run::Either(run, _), Some(updates)) => of_core(updates, how, &run),
        (Run::Shares(run) | Run::Pair(run), Some(updates)) => {
            of_core(updates, how, &|core| shares::of_factors(run, core))
        }
        (Run::Shares(run) | Run::Pair(run), None) => {
            of_elements(context, touches, how, (&|dense| shares::of_elements(run, dense, how.weights), room))
        }
        (Run::Ranked(run), Some(updates)) => of_core(updates, how, &|core| run(core, rank(core, limit))),
        (Run::EachFactor(run), Some(updates)) => {
            let factors = each_factor::merge(touches, run, (&name, params))?;
            of_factors(&updates, &[factors])
        }
        // A method of factors says nothing of biases and the like.
        (Run::Core(_) | Run::Ranked(_) | Run::EachFactor(_) | Run::Best, updates) => {
            let is_summed = updates.is_none();
            if is_summed && !matches!(method.run, Run::Best) {
                refuse_factors(method, touches)?;
            }
            let (edits, _) = exact::target(context, touches, false)?;
            Ok(Done { edits, is_summed, ..Done::default() })
        }
        (Run::Dense(run), Some(updates)) => of_tiles(touches, &updates, how, (&run, room)),
        (Run::Dense(run) | Run::Either(_, run), None) => of_elements(context, touches, how, (&run, room)),
    }
}

/// Whether an edit is a difference from what the base has there.
fn is_update(edit: &Edit<'_>) -> bool {
    match edit {
        Edit::Set(set) => !set.create && !set.reshape,
        Edit::Remove(_) => false,
        Edit::Lora(_)
        | Edit::Add(_)
        | Edit::SparseSet(_)
        | Edit::SparseAdd(_)
        | Edit::Bits(_)
        | Edit::Config(_)
        | Edit::Intervention(_) => true,
    }
}

/// Factors that a method of factors has no use for are not summed in its place.
fn refuse_factors(method: &Method, touches: &[Touch<'_>]) -> Result<(), Fault> {
    let is_low_rank = |touch: &&Touch<'_>| matches!(touch.edit, Edit::Lora(_));
    if !touches.iter().any(|touch| is_low_rank(&touch)) {
        return Ok(());
    }
    let beside = touches.iter().find(|touch| !is_low_rank(touch)).map(|touch| touch.edit.kind());
    let why = match beside {
        Some(kind) => format!("an edit of another kind ({kind}) stands beside low-rank updates"),
        None => "the factors read the tensor, or parts of it, in different ways".to_owned(),
    };
    Err(Fault::Undefined(format!("{why}: {} is of factors alone", method.name)))
}

/// A rule for elements, as a value.
type Rule<'r> = &'r dyn Fn(&Dense<'_>) -> Result<Vec<f32>, Failure>;

/// The result of a method of elements for low-rank updates: of each matrix by itself.
fn of_tiles<'a>(
    touches: &[Touch<'a>],
    updates: &LowRank<'a>,
    how: &How<'_>,
    (run, room): (Rule<'_>, &'a dyn Room),
) -> Result<Done<'a>, Fault> {
    let mut sums = Vec::with_capacity(updates.matrices.len());
    for matrix in &updates.matrices {
        let ((places, tasks), dims) = (matrix.elements(), matrix.dims());
        let dense =
            Dense { tasks: &tasks, places: &places, dims: &dims, name: &matrix.name, params: how.params };
        sums.push(elements(run, &dense)?);
    }
    stored::of_matrices(touches, sums, updates, (how.limit, room))
}

/// The same of edits of any kind: of the whole tensor.
fn of_elements<'a>(
    context: &Context<'_, 'a>,
    touches: &[Touch<'a>],
    how: &How<'_>,
    (run, room): (Rule<'_>, &'a dyn Room),
) -> Result<Done<'a>, Fault> {
    let ((places, tasks), dims) = of_edits(context, touches)?;
    let name = touches.first().and_then(|touch| touch.edit.label()).unwrap_or_default();
    let sum = {
        let dense = Dense { tasks: &tasks, places: &places, dims: &dims, name: &name, params: how.params };
        elements(run, &dense)?
    };
    drop(tasks);
    stored::of_tensor(touches, sum, dims, (how.limit, room))
}

/// What a rule makes of finite elements, which are finite too.
pub(super) fn elements(run: Rule<'_>, dense: &Dense<'_>) -> Result<Vec<f32>, Fault> {
    let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if !dense.tasks.iter().all(|(_, values)| is_finite(values)) {
        return Err(Fault::Undefined("an update holds what is no finite number in F32".to_owned()));
    }
    let values = run(dense).map_err(|failure| fault(dense.name, failure))?;
    if is_finite(&values) { Ok(values) } else { Err(Fault::Overflow("the result overflows".to_owned())) }
}

/// The result of a method of factors, of each matrix by itself.
fn of_core<'a>(
    updates: LowRank<'a>,
    how: &How<'_>,
    run: &dyn Fn(&Core<'_>) -> Result<Factors, Failure>,
) -> Result<Done<'a>, Fault> {
    let mut all = Vec::with_capacity(updates.matrices.len());
    for Updates { name, tasks } in &updates.matrices {
        let (places, tasks): (Vec<usize>, Vec<Task>) = tasks.iter().cloned().unzip();
        let core = Core { tasks: &tasks, places: &places, weights: how.weights, params: how.params };
        all.push(run(&core).map_err(|failure| fault(name, failure))?);
    }
    of_factors(&updates, &all)
}

/// Factors as an edit of the target.
fn of_factors<'a>(updates: &LowRank<'a>, factors: &[Factors]) -> Result<Done<'a>, Fault> {
    let edit = factors::edit(updates.like, factors).ok_or_else(Fault::factors_overflow)?;
    Ok(Done { edits: vec![Edit::Lora(edit)], ..Done::default() })
}

/// The limit's rank, or the largest of the updates.
fn rank(core: &Core<'_>, limit: Option<Limit>) -> usize {
    match limit {
        Some(Limit::Rank(rank) | Limit::Dynamic { most: Some(rank), .. }) => {
            usize::try_from(rank).unwrap_or(usize::MAX)
        }
        Some(Limit::Error(_) | Limit::Dynamic { most: None, .. }) | None => {
            core.tasks.iter().map(|task| task.up.ncols()).max().unwrap_or(1)
        }
    }
}

fn fault(target: &str, failure: Failure) -> Fault {
    match failure {
        Failure::Undefined(reason) => Fault::Undefined(reason),
        Failure::Math(source) => Fault::Failed(Error::Math { target: target.to_owned(), source }),
    }
}
