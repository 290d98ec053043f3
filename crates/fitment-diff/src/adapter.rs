//! The adapter of a comparison.

use crate::Diff;
use crate::error::Error;
use crate::part::{Outcome, Part};
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::model::{
    Add, Base, BaseTensor, Bits, ConfigEdit, ConfigValue, Edit, Exceptions, Origin, Remove, Set, SetDtype,
    SparseSet, Target, TensorName,
};
#[cfg(feature = "svd")]
use fitment_core::model::{Lora, LoraForm};
use fitment_core::tensor::{Bytes, Dtype, Shape, ShapeFault, Tensor};
use serde_json::Map;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

impl Diff {
    /// The adapter; its tensors borrow from the tuned checkpoint and from what was spooled.
    ///
    /// # Errors
    /// [`Error::Core`] when a name cannot be a target; [`Error::Tuned`] when a tensor cannot be read.
    pub fn adapter<'a>(&self, tuned: &'a dyn Checkpoint, spooled: &'a [u8]) -> Result<Adapter<'a>, Error> {
        let sources = Sources { tuned, spooled };
        let mut made: Vec<Option<Edit<'a>>> = Vec::new();
        let mut tensors = Vec::new();
        for part in &self.parts {
            let target = Target::whole(TensorName::new(&*part.name)?);
            tensors.extend(part.base.as_ref().map(|(info, digest)| BaseTensor {
                component: None,
                name: target.name.clone(),
                experts: None,
                dtype: Some(info.dtype),
                shape: Some(info.shape.clone()),
                digests: vec![*digest],
                unchanged: matches!(part.outcome, Outcome::Unchanged),
                extra: Map::new(),
            }));
            let edit = match part.copy_of.and_then(|place| made.get(place)?.as_ref()) {
                Some(edit) => Some(of_another(edit, target)),
                None => sources.edit(part, target)?,
            };
            made.push(edit);
        }
        let set = |value: &ConfigValue| {
            Edit::Config(ConfigEdit { component: None, value: *value, origin: Origin::default() })
        };
        let mut edits: Vec<Edit<'a>> = made.into_iter().flatten().collect();
        edits.extend(self.config.iter().map(set));
        let base = Base { tensors, ..Base::default() };
        Ok(Adapter { base, edits, ..Adapter::default() })
    }
}

/// The same change of another target, with the same stored tensors.
fn of_another<'a>(edit: &Edit<'a>, target: Target) -> Edit<'a> {
    let mut edit = edit.clone();
    if let Some(place) = edit.target_mut() {
        *place = target;
    }
    edit
}

struct Sources<'a> {
    tuned: &'a dyn Checkpoint,
    spooled: &'a [u8],
}

impl<'a> Sources<'a> {
    fn edit(&self, part: &Part, target: Target) -> Result<Option<Edit<'a>>, Error> {
        let origin = Origin::default();
        let info = part.tuned.as_ref();
        let dtype = info.map_or(Dtype::U8, |info| info.dtype);
        Ok(Some(match &part.outcome {
            Outcome::Unchanged => return Ok(None),
            Outcome::Removed => Edit::Remove(Remove { target, origin }),
            Outcome::Created | Outcome::Replaced | Outcome::Reshaped => {
                let create = matches!(part.outcome, Outcome::Created);
                let reshape = matches!(part.outcome, Outcome::Reshaped);
                let value = self.whole(part)?;
                Edit::Set(Set { target, dtype: SetDtype::Stored, create, reshape, value, rows: None, origin })
            }
            Outcome::Rows { numbers, rows, count } => {
                let row = info.map_or(&[][..], |info| &info.shape.dims()[1..]);
                let value = self.spooled(&part.name, dtype, &[&[*count], row].concat(), rows)?;
                let rows = Some(self.spooled(&part.name, Dtype::I64, &[*count], numbers)?);
                Edit::Set(Set {
                    target,
                    dtype: SetDtype::Base,
                    create: false,
                    reshape: false,
                    value,
                    rows,
                    origin,
                })
            }
            Outcome::Bits { result, payload } => {
                let z = self.list(&part.name, Dtype::U8, payload)?;
                let base = part.base.as_ref().map_or([0; 32], |(_, digest)| *digest);
                Edit::Bits(Bits { target, base, result: *result, changed: part.changed_elements, z, origin })
            }
            Outcome::Sparse { index, positions, values } => {
                let index = self.list(&part.name, *positions, index)?;
                let value = self.list(&part.name, dtype, values)?;
                Edit::SparseSet(SparseSet { target, index, value, origin })
            }
            #[cfg(feature = "svd")]
            Outcome::LowRank { up, down, measured } => self.low_rank(part, target, [up, down], measured)?,
            Outcome::Add { delta, dtype: stored, exceptions } => {
                let dims = info.map_or(&[][..], |info| info.shape.dims());
                let value = self.spooled(&part.name, *stored, dims, delta)?;
                let exceptions = match exceptions {
                    None => None,
                    Some(exceptions) => Some(Exceptions {
                        index: self.list(&part.name, exceptions.positions, &exceptions.index)?,
                        value: self.list(&part.name, dtype, &exceptions.values)?,
                    }),
                };
                Edit::Add(Add { target, scale: 1.0, value, exceptions, origin })
            }
        }))
    }

    #[cfg(feature = "svd")]
    fn low_rank(
        &self,
        part: &Part,
        target: Target,
        [up, down]: [&Range<u64>; 2],
        measured: &crate::Approximated,
    ) -> Result<Edit<'a>, Error> {
        let dims = part.tuned.as_ref().map_or(&[][..], |info| info.shape.dims());
        let side = |axis: usize| dims.get(axis).copied().unwrap_or_default();
        let up = self.spooled(&part.name, Dtype::F32, &[side(0), measured.rank], up)?;
        let down = self.spooled(&part.name, Dtype::F32, &[measured.rank, side(1)], down)?;
        let errors = serde_json::json!({
            "relative_error": measured.relative_error,
            "largest_error": measured.largest_error,
        });
        let mut origin = Origin::default();
        origin.extra.insert("approximation".to_owned(), errors);
        let (mid, magnitude) = (None, None);
        let form = LoraForm::Matrix;
        Ok(Edit::Lora(Lora { target, form, transposed: false, scale: 1.0, up, down, mid, magnitude, origin }))
    }

    /// The tuned checkpoint's tensor.
    fn whole(&self, part: &Part) -> Result<Tensor<'a>, Error> {
        let bytes = match self.tuned.read(&part.name).map_err(Error::Tuned)? {
            Cow::Borrowed(bytes) => Bytes::Borrowed(bytes),
            Cow::Owned(bytes) => Bytes::Shared(Arc::from(bytes)),
        };
        let info = self.tuned.tensors().get(&part.name);
        let TensorInfo { dtype, shape } = info
            .cloned()
            .ok_or_else(|| Error::Tuned(fitment_core::checkpoint::CheckpointError::missing(&part.name)))?;
        Tensor::new(dtype, shape, bytes).map_err(|fault| of_shape(&part.name, fault))
    }

    /// Spooled elements as a list.
    fn list(&self, name: &str, dtype: Dtype, range: &Range<u64>) -> Result<Tensor<'a>, Error> {
        let size = dtype.bytes().unwrap_or(1) as u64;
        self.spooled(name, dtype, &[(range.end - range.start) / size], range)
    }

    fn spooled(
        &self,
        name: &str,
        dtype: Dtype,
        dims: &[u64],
        range: &Range<u64>,
    ) -> Result<Tensor<'a>, Error> {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = self.spooled.get(place(range.start)..place(range.end)).unwrap_or_default();
        let shape = Shape::new(dims).map_err(|fault| of_shape(name, fault))?;
        Tensor::borrowed(dtype, shape, bytes).map_err(|fault| of_shape(name, fault))
    }
}

fn of_shape(name: &str, source: ShapeFault) -> Error {
    Error::Core(fitment_core::Error::Shape { name: name.to_owned(), source })
}

/// The values of the tuned config that an edit can set and that differ, and the other keys that differ.
pub(crate) fn config(base: &dyn Checkpoint, tuned: &dyn Checkpoint) -> (Vec<ConfigValue>, Vec<String>) {
    let (Some(before), Some(after)) = (base.config(), tuned.config()) else { return Default::default() };
    let (mut values, mut others) = (Vec::new(), Vec::new());
    let differing = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    for (key, value) in differing {
        match ConfigValue::from_json(key, value) {
            Some(value) => values.push(value),
            None => others.push(key.clone()),
        }
    }
    others.extend(before.keys().filter(|key| !after.contains_key(*key)).cloned());
    (values, others)
}
