//! A method over all targets: updates gathered, the method called, its result made an edit.

use super::stored::stored;
use super::update::update;
use super::{Core, Dense, Factors, Failure, Method, Params, Run, Task};
use super::{each_factor, shares};
use crate::base::{self, BaseView};
use crate::culprit::Culprit;
use crate::error::Error;
use crate::exact::{self, Context, Fault, same_part};
use crate::gather::{Gathered, Touch, gather, is_additive, labels};
use crate::input::{Input, Limit, Merged, Note, Options, Truncated};
use crate::numbers::is_finite;
use crate::parallel;
use crate::room::Room;
use crate::truncate::reached;
use crate::weights::Schedule;
use fitment_core::Adapter;
use fitment_core::model::{Edit, Lora, Origin};
use fitment_core::tensor::Dtype;
use fitment_math::ndarray::{Array2, Axis, concatenate};
use fitment_math::round::{narrowed, widened};
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

/// The updates of one target, each with the place of its adapter.
struct Updates<'a> {
    /// How the factors read the target; `None` for dense updates.
    like: Option<&'a Lora<'a>>,
    tasks: Vec<(usize, Task)>,
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
    let (mut summed, mut dense) = (0, 0);
    for (touches, done) in work.iter().zip(done) {
        match done {
            Ok(done) => {
                summed += usize::from(done.is_summed);
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
    let sites: BTreeSet<String> = gathered.interventions.iter().map(|(_, _, edit)| edit.label()).collect();
    summed += sites.len();
    if summed > 0 {
        merged.notes.push(Note::Summed { targets: summed });
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
    let low_rank = low_rank(touches)?;
    match (method.run, low_rank) {
        (Run::Core(run) | Run::Either(run, _), Some(updates)) => of_core(&name, updates, how, &run),
        (Run::Shares(run) | Run::Pair(run), Some(updates)) => {
            of_core(&name, updates, how, &|core| shares::of_factors(run, core))
        }
        (Run::Shares(run) | Run::Pair(run), None) => {
            let (places, tasks, dims, like) = of_edits(context, touches)?;
            let dense = Dense { tasks: &tasks, places: &places, dims: &dims, name: &name, params };
            let sum = elements(&|dense| shares::of_elements(run, dense, how.weights), &dense)?;
            stored(touches, sum, (dims, like), (limit, room))
        }
        (Run::Ranked(run), Some(updates)) => {
            of_core(&name, updates, how, &|core| run(core, rank(core, limit)))
        }
        (Run::EachFactor(run), Some(updates)) => {
            let factors = each_factor::merge(touches, run, (&name, params))?;
            let edit = updates.like.and_then(|like| lora(like, &factors));
            let edit = edit.ok_or_else(|| Fault::exact("the factors overflow"))?;
            Ok(Done { edits: vec![Edit::Lora(edit)], ..Done::default() })
        }
        // A method of factors says nothing of biases and the like.
        (Run::Core(_) | Run::Ranked(_) | Run::EachFactor(_) | Run::Best, low_rank) => {
            let (edits, _) = exact::target(context, touches, false)?;
            Ok(Done { edits, is_summed: low_rank.is_none(), ..Done::default() })
        }
        (Run::Dense(run) | Run::Either(_, run), low_rank) => {
            let (places, tasks, dims, like) = match low_rank {
                Some(updates) => of_factors(updates),
                None => of_edits(context, touches)?,
            };
            let dense = Dense { tasks: &tasks, places: &places, dims: &dims, name: &name, params };
            let sum = elements(&run, &dense)?;
            stored(touches, sum, (dims, like), (limit, room))
        }
    }
}

/// What a rule makes of finite elements, which are finite too.
pub(super) fn elements(
    run: &dyn Fn(&Dense<'_>) -> Result<Vec<f32>, Failure>,
    dense: &Dense<'_>,
) -> Result<Vec<f32>, Fault> {
    let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if !dense.tasks.iter().all(|(_, values)| is_finite(values)) {
        return Err(Fault::Undefined("an update holds what is no finite number in F32".to_owned()));
    }
    let values = run(dense).map_err(|failure| fault(dense.name, failure))?;
    if is_finite(&values) { Ok(values) } else { Err(Fault::exact("the result overflows")) }
}

/// The result of a method of factors.
fn of_core<'a>(
    name: &str,
    updates: Updates<'a>,
    how: &How<'_>,
    run: &dyn Fn(&Core<'_>) -> Result<Factors, Failure>,
) -> Result<Done<'a>, Fault> {
    let (places, tasks): (Vec<usize>, Vec<Task>) = updates.tasks.into_iter().unzip();
    let core = Core { tasks: &tasks, places: &places, weights: how.weights, params: how.params };
    let factors = run(&core).map_err(|failure| fault(name, failure))?;
    let edit = updates.like.and_then(|like| lora(like, &factors));
    let edit = edit.ok_or_else(|| Fault::exact("the factors overflow"))?;
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

/// The low-rank updates of every adapter, where all edits of the target are such, of one part and form.
///
/// # Errors
/// For a magnitude: what it adds depends on the base.
fn low_rank<'a>(touches: &[Touch<'a>]) -> Result<Option<Updates<'a>>, Fault> {
    let mut loras: Vec<(usize, f64, &'a Lora<'a>)> = Vec::new();
    for touch in touches {
        let Edit::Lora(lora) = touch.edit else { return Ok(None) };
        if lora.magnitude.is_some() {
            return Err(Fault::Undefined("a magnitude (DoRA) is no update by itself".to_owned()));
        }
        loras.push((touch.file, touch.weight, lora));
    }
    let Some((_, _, first)) = loras.first().copied() else { return Ok(None) };
    let is_like = |lora: &Lora<'_>| {
        lora.form == first.form
            && lora.transposed == first.transposed
            && lora.mid.is_none()
            && !lora.has_expert_axis()
    };
    let is_one_part = touches.windows(2).all(|pair| same_part(&pair[0], &pair[1]));
    if !is_one_part || !loras.iter().all(|(_, _, lora)| is_like(lora)) {
        return Ok(None);
    }
    let mut tasks: Vec<(usize, Task)> = Vec::new();
    for (file, weight, lora) in loras {
        let (up, down) = factors(lora).ok_or_else(|| Fault::exact("the factors are no matrices"))?;
        let scales = vec![lora.scale; up.ncols()];
        match tasks.last_mut().filter(|(last, _)| *last == file) {
            Some((_, task)) => {
                let side =
                    |axis, a: &Array2<f64>, b: &Array2<f64>| concatenate(Axis(axis), &[a.view(), b.view()]);
                let pair = side(1, &task.up, &up).ok().zip(side(0, &task.down, &down).ok());
                (task.up, task.down) = pair.ok_or_else(|| Fault::exact("the updates have other shapes"))?;
                task.scales.extend(scales);
            }
            None => tasks.push((file, Task { weight, up, scales, down })),
        }
    }
    let shape = |task: &Task| (task.up.nrows(), task.down.ncols());
    if tasks.windows(2).any(|pair| shape(&pair[0].1) != shape(&pair[1].1)) {
        return Err(Fault::exact("the updates have other shapes"));
    }
    Ok(Some(Updates { like: Some(first), tasks }))
}

/// `up` `[out, r]` and `down` `[r, in·k…]`.
pub(super) fn factors(lora: &Lora<'_>) -> Option<Factors> {
    let rank = usize::try_from(lora.rank()).ok().filter(|rank| *rank > 0)?;
    let (up, down) = (widened(&lora.up)?, widened(&lora.down)?);
    let up = Array2::from_shape_vec((up.len() / rank, rank), up).ok()?;
    let down = Array2::from_shape_vec((rank, down.len() / rank), down).ok()?;
    Some((up, down))
}

/// A low-rank edit of the target and form of `like`, in F32, or F64 where that is.
pub(super) fn lora<'a>(like: &Lora<'a>, (up, down): &Factors) -> Option<Lora<'a>> {
    let rank = up.ncols() as u64;
    let is_wide = [like.up.dtype(), like.down.dtype()].contains(&Dtype::F64);
    let dtype = if is_wide { Dtype::F64 } else { Dtype::F32 };
    let mut dims = [like.up.dims().to_vec(), like.down.dims().to_vec()];
    (dims[0][1], dims[1][0]) = (rank, rank);
    let stored = |dims: &[u64], matrix: &Array2<f64>| {
        narrowed(dtype, dims, &matrix.iter().copied().collect::<Vec<f64>>())
    };
    let (up, down) = stored(&dims[0], up).zip(stored(&dims[1], down))?;
    if !(is_finite(&up) && is_finite(&down)) {
        return None;
    }
    let origin = Origin::default();
    Some(Lora { up, down, scale: 1.0, origin, target: like.target.clone(), ..like.clone() })
}

/// Places, weights with dense updates, extents, and how factors read the target.
type Elements<'a> = (Vec<usize>, Vec<(f64, Vec<f32>)>, Vec<u64>, Option<&'a Lora<'a>>);

/// The dense updates of factors, `[out, in·k…]`.
fn of_factors<'a>(updates: Updates<'a>) -> Elements<'a> {
    let (mut places, mut tasks, mut dims) = (Vec::new(), Vec::new(), Vec::new());
    for (place, task) in updates.tasks {
        let update = task.scaled_up(1.0).dot(&task.down);
        dims = vec![update.nrows() as u64, update.ncols() as u64];
        places.push(place);
        tasks.push((task.weight, update.iter().map(|value| *value as f32).collect()));
    }
    (places, tasks, dims, updates.like)
}

/// The dense updates of other edits: differences as they are, replacements against the base.
fn of_edits<'a>(context: &Context<'_, 'a>, touches: &[Touch<'a>]) -> Result<Elements<'a>, Fault> {
    if touches.windows(2).any(|pair| !same_part(&pair[0], &pair[1])) {
        return Err(Fault::exact("the edits mean different parts of the tensor"));
    }
    let (mut places, mut tasks, mut dims) = (Vec::new(), Vec::<(f64, Vec<f32>)>::new(), Vec::new());
    for touch in touches {
        let (own, update) = update(context, touch.edit)?;
        if !dims.is_empty() && dims != own {
            return Err(Fault::exact("the updates have other shapes"));
        }
        dims = own;
        match tasks.last_mut().filter(|_| places.last() == Some(&touch.file)) {
            // What an adapter has changed is no longer the base's.
            Some(_) if !is_additive(touch.edit) => {
                return Err(Fault::Undefined("it is replaced after it was changed".to_owned()));
            }
            Some((_, sum)) => sum.iter_mut().zip(&update).for_each(|(sum, value)| *sum += *value),
            None => {
                places.push(touch.file);
                tasks.push((touch.weight, update));
            }
        }
    }
    Ok((places, tasks, dims, None))
}
