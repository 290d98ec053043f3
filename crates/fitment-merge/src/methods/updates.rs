//! The updates of one target: what of each adapter goes into a method.

use super::Task;
use super::update::update;
use crate::exact::{Context, Fault, same_part};
use crate::factors::{inner_dims, matrices};
use crate::gather::{Touch, is_additive};
use fitment_core::model::{Edit, Lora, LoraForm, Target};
use fitment_math::ndarray::{Array2, Axis, concatenate};

/// Low-rank updates of a target.
pub(super) struct LowRank<'a> {
    /// How the factors read the target.
    pub(super) like: &'a Lora<'a>,
    /// One, or one for each expert.
    pub(super) matrices: Vec<Updates>,
}

/// The updates of one matrix, each with the place of its adapter.
pub(super) struct Updates {
    /// What is drawn at random depends on it.
    pub(super) name: String,
    pub(super) tasks: Vec<(usize, Task)>,
}

/// The low-rank updates of every adapter, where all edits of the target are such, of one part and form.
///
/// # Errors
/// For a magnitude: what it adds depends on the base.
pub(super) fn low_rank<'a>(touches: &[Touch<'a>]) -> Result<Option<LowRank<'a>>, Fault> {
    let mut loras: Vec<(&Touch<'a>, &'a Lora<'a>)> = Vec::new();
    for touch in touches {
        let Edit::Lora(lora) = touch.edit else { continue };
        if lora.magnitude.is_some() {
            return Err(Fault::Magnitude);
        }
        loras.push((touch, lora));
    }
    let Some((_, like)) = loras.first().copied().filter(|_| loras.len() == touches.len()) else {
        return Ok(None);
    };
    let experts = |lora: &Lora<'_>| lora.has_expert_axis().then(|| lora.up.dims().first().copied());
    let is_like = |lora: &Lora<'_>| {
        lora.form == like.form
            && lora.transposed == like.transposed
            && experts(lora) == experts(like)
            && inner_dims(lora) == inner_dims(like)
    };
    let is_one_part = touches.windows(2).all(|pair| same_part(&pair[0], &pair[1]));
    if !is_one_part || !loras.iter().all(|(_, lora)| is_like(lora)) {
        return Ok(None);
    }
    let mut all: Vec<Updates> = Vec::new();
    for (touch, lora) in loras {
        let parts = matrices(lora).ok_or_else(|| Fault::exact("the factors are no matrices"))?;
        if all.is_empty() {
            all = names(&lora.target, parts.len(), lora.has_expert_axis())
                .into_iter()
                .map(|name| Updates { name, tasks: Vec::new() })
                .collect();
        }
        for (updates, (up, down)) in all.iter_mut().zip(parts) {
            let scales = vec![lora.scale; up.ncols()];
            updates.add(touch.file, Task { weight: touch.weight, up, scales, down })?;
        }
    }
    Ok(Some(LowRank { like, matrices: all }))
}

/// What each matrix of a target is called: a bundle's as they stand in the base.
fn names(target: &Target, count: usize, has_experts: bool) -> Vec<String> {
    match (has_experts, target.experts) {
        (false, _) => vec![target.label()],
        (true, Some(_)) => target.base_names().collect(),
        (true, None) => (0..count).map(|expert| format!("{}[{expert}]", target.label())).collect(),
    }
}

impl Updates {
    /// Adds an update; those of one adapter stand side by side.
    fn add(&mut self, file: usize, own: Task) -> Result<(), Fault> {
        let shape = |task: &Task| (task.up.nrows(), task.down.ncols());
        if self.tasks.first().is_some_and(|(_, first)| shape(first) != shape(&own)) {
            return Err(Fault::exact("the updates have other shapes"));
        }
        let Some((_, task)) = self.tasks.last_mut().filter(|(last, _)| *last == file) else {
            self.tasks.push((file, own));
            return Ok(());
        };
        let side = |axis, a: &Array2<f64>, b: &Array2<f64>| concatenate(Axis(axis), &[a.view(), b.view()]);
        let pair = side(1, &task.up, &own.up).ok().zip(side(0, &task.down, &own.down).ok());
        (task.up, task.down) = pair.ok_or_else(|| Fault::exact("the updates have other shapes"))?;
        task.scales.extend(own.scales);
        Ok(())
    }
}

/// Dense updates: places, and weights with elements.
pub(super) type Elements = (Vec<usize>, Vec<(f64, Vec<f32>)>);

impl Updates {
    /// The rows and columns of the matrix.
    pub(super) fn dims(&self) -> [u64; 2] {
        self.tasks.first().map_or([0; 2], |(_, task)| [task.up.nrows() as u64, task.down.ncols() as u64])
    }

    /// The dense updates of the factors.
    pub(super) fn elements(&self) -> Elements {
        let dense = |(place, task): &(usize, Task)| {
            let update = task.scaled_up(1.0).dot(&task.down);
            (*place, (task.weight, update.iter().map(|value| *value as f32).collect()))
        };
        self.tasks.iter().map(dense).unzip()
    }

    /// The rows of all down factors: a result lies near them. Each is brought near 1, as only its direction counts.
    pub(super) fn start(&self) -> Array2<f32> {
        let columns = self.dims()[1] as usize;
        let mut rows: Vec<f32> = Vec::new();
        for row in self.tasks.iter().flat_map(|(_, task)| task.down.rows()) {
            let largest = row.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            if largest > 0.0 {
                rows.extend(row.iter().map(|value| (value / largest) as f32));
            }
        }
        let count = rows.len() / columns.max(1);
        Array2::from_shape_vec((count, columns), rows).unwrap_or_else(|_| Array2::zeros((0, columns)))
    }
}

/// The dense updates of edits of any kind, and the extents of the tensor: differences as they are, replacements against the
/// base.
pub(super) fn of_edits(
    context: &Context<'_, '_>,
    touches: &[Touch<'_>],
) -> Result<(Elements, Vec<u64>), Fault> {
    if touches.windows(2).any(|pair| !same_part(&pair[0], &pair[1])) {
        return Err(Fault::exact("the edits mean different parts of the tensor"));
    }
    let (mut places, mut tasks) = (Vec::new(), Vec::<(f64, Vec<f32>)>::new());
    let (mut dims, mut is_flat) = (Vec::new(), true);
    for touch in touches {
        let (own, update) = update(context, touch.edit)?;
        // Factors read a tensor of any axes as a matrix.
        let own_is_flat = matches!(touch.edit, Edit::Lora(lora) if lora.form == LoraForm::Matrix);
        let is_one_size = own.iter().product::<u64>() == dims.iter().product::<u64>();
        if !tasks.is_empty() && own != dims && !(is_one_size && (is_flat || own_is_flat)) {
            return Err(Fault::exact("the updates have other shapes"));
        }
        if is_flat {
            (dims, is_flat) = (own, own_is_flat);
        }
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
    Ok(((places, tasks), dims))
}
