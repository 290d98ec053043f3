//! From adapters and the checkpoint that they fit to layers.

use super::change::Change;
use super::collect::Collector;
use super::conv::AdaptedConv2d;
use super::embedding::AdaptedEmbedding;
use super::experts::AdaptedExperts;
use super::linear::AdaptedLinear;
use super::mix::{Mix, Shared};
use super::vector::AdaptedVector;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Conv2d, Embedding, Linear};
use fitment_apply::plan::{Compute, Ground, Job, Output, Patch};
use fitment_apply::{Input, Options, Plan, Refusal, execute_on};
use fitment_core::checkpoint::{Checkpoint, CheckpointError, CheckpointSink, TensorInfo};
use fitment_core::model::Edit;
use fitment_math::round::{Element, decode};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

/// Why adapters cannot be run unmerged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// They do not fit the base.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The base is not the one that they were made for, or cannot be read.
    #[error(transparent)]
    Apply(#[from] fitment_apply::Error),
    /// The model has no layer for a tensor that an adapter changes.
    #[error("{file} changes {tensor}, which no layer of this model has taken")]
    Unused {
        /// The adapter.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor is removed whose absence no layer can make up for.
    #[error("{file} removes {tensor}: apply it to the checkpoint instead")]
    Removed {
        /// The adapter.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// Sizes, or the device.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What one adapter does to the tensors of a model.
#[derive(Debug)]
struct Loaded {
    name: String,
    /// By tensor of the result.
    changes: BTreeMap<String, Change>,
    /// Every tensor of the result, to tell those that are created or untied.
    tensors: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// Adapters on a device, to be put into layers. See the module's page.
#[derive(Debug)]
pub struct Adapters {
    loaded: Vec<Loaded>,
    mix: Shared,
    dtype: DType,
    taken: BTreeSet<String>,
}

impl Adapters {
    /// Checks adapters against the checkpoint of the model, digests too, and brings what they do to the device. Their weights are those that
    /// they begin with; interventions are left to [`crate::hooks`].
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Apply`], as `apply` has them.
    pub fn load(inputs: &[Input<'_>], base: &dyn Checkpoint, device: &Device) -> Result<Self, Error> {
        let mut loaded = Vec::new();
        for input in inputs {
            loaded.push(load(input, base, device)?);
        }
        let mix = Shared::new(loaded.len());
        mix.set(Mix::Same(inputs.iter().map(|input| input.weight).collect()), loaded.len())?;
        Ok(Self { loaded, mix, dtype: DType::F32, taken: BTreeSet::new() })
    }

    /// The dtype in which layers made from now on compute what adapters add.
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Says which adapters act, in all layers.
    ///
    /// # Errors
    /// A weight that is not finite, or adapters that there are not.
    pub fn set(&self, mix: Mix) -> candle_core::Result<()> {
        self.mix.set(mix, self.loaded.len())
    }

    /// Which adapters act.
    pub fn mix(&self) -> Mix {
        (*self.mix.get()).clone()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.loaded.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// The linear layer whose weight is the tensor `NAME.weight`, `[out, in]`, and whose bias is `NAME.bias`.
    ///
    /// # Errors
    /// [`Error::Removed`]; an extent that does not fit.
    pub fn linear(&mut self, name: &str, layer: Linear) -> Result<AdaptedLinear, Error> {
        self.linear_of(&[&format!("{name}.weight")], name, layer, false)
    }

    /// As [`Adapters::linear`], of a weight that is stored `[in, out]`, as GPT-2's; the layer has it `[out, in]`.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn linear_transposed(&mut self, name: &str, layer: Linear) -> Result<AdaptedLinear, Error> {
        self.linear_of(&[&format!("{name}.weight")], name, layer, true)
    }

    /// The head of a model that ties it to the embedding `embedding`: what an adapter does to both, unless it has a head of
    /// its own, `NAME.weight`.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn tied_head(&mut self, name: &str, embedding: &str, layer: Linear) -> Result<AdaptedLinear, Error> {
        self.linear_of(&[&format!("{name}.weight"), &format!("{embedding}.weight")], name, layer, false)
    }

    fn linear_of(
        &mut self,
        weights: &[&str],
        name: &str,
        layer: Linear,
        transposed: bool,
    ) -> Result<AdaptedLinear, Error> {
        let mut changes = self.take(weights)?;
        if transposed {
            changes = turned(changes)?;
        }
        let bias = self.bias(name, layer.bias())?;
        Ok(AdaptedLinear::new(layer, changes, bias, self.mix.clone())?)
    }

    /// The embedding whose weight is the tensor `NAME.weight`, `[vocab, dim]`.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn embedding(&mut self, name: &str, layer: Embedding) -> Result<AdaptedEmbedding, Error> {
        let changes = self.take(&[&format!("{name}.weight")])?;
        Ok(AdaptedEmbedding::new(layer, changes, self.mix.clone())?)
    }

    /// The convolution whose weight is the tensor `NAME.weight`, `[out, in / groups, height, width]`, and whose bias is `NAME.bias`.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn conv2d(&mut self, name: &str, layer: Conv2d) -> Result<AdaptedConv2d, Error> {
        let changes = self.take(&[&format!("{name}.weight")])?;
        let bias = self.bias(name, layer.bias())?;
        Ok(AdaptedConv2d::new(layer, changes, bias, self.mix.clone())?)
    }

    /// The linear layers of experts, whose weights are the tensor `name`, `[experts, out, in]`.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn experts(&mut self, name: &str, weight: &Tensor) -> Result<AdaptedExperts, Error> {
        let changes = self.take(&[name])?;
        Ok(AdaptedExperts::new(weight, changes, self.mix.clone())?)
    }

    /// As [`Adapters::experts`], of a tensor that is stored `[experts, in, out]`; the layer has it `[experts, out, in]`.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn experts_transposed(&mut self, name: &str, weight: &Tensor) -> Result<AdaptedExperts, Error> {
        let changes = turned(self.take(&[name])?)?;
        Ok(AdaptedExperts::new(weight, changes, self.mix.clone())?)
    }

    /// A tensor of one axis under its own name: the weight of a norm.
    ///
    /// # Errors
    /// As [`Adapters::linear`].
    pub fn vector(&mut self, name: &str, vector: &Tensor) -> Result<AdaptedVector, Error> {
        let changes = self.take(&[name])?;
        Ok(AdaptedVector::new(Some(vector.clone()), changes, self.mix.clone())?)
    }

    fn bias(&mut self, name: &str, bias: Option<&Tensor>) -> Result<AdaptedVector, Error> {
        let changes = self.take_or_remove(&[&format!("{name}.bias")], bias)?;
        Ok(AdaptedVector::new(bias.cloned(), changes, self.mix.clone())?)
    }

    fn take(&mut self, names: &[&str]) -> Result<Vec<Option<Change>>, Error> {
        self.take_or_remove(names, None)
    }

    /// What each adapter does to the first of these tensors that it has; one that removes `vector` takes it away.
    fn take_or_remove(
        &mut self,
        names: &[&str],
        vector: Option<&Tensor>,
    ) -> Result<Vec<Option<Change>>, Error> {
        self.taken.extend(names.iter().map(|name| (*name).to_owned()));
        let mut changes = Vec::new();
        for loaded in &self.loaded {
            if let Some(removed) = names.iter().find(|name| loaded.removed.contains(**name)) {
                let Some(vector) = vector else {
                    return Err(Error::Removed { file: loaded.name.clone(), tensor: (*removed).to_owned() });
                };
                changes.push(Some(Change::Dense(vector.to_dtype(self.dtype)?.neg()?)));
                continue;
            }
            let name = names.iter().find(|name| loaded.tensors.contains(**name));
            let change = name.and_then(|name| loaded.changes.get(*name));
            changes.push(change.map(|change| change.to_dtype(self.dtype)).transpose()?);
        }
        Ok(changes)
    }

    /// Checks that layers have taken everything that the adapters do to weights.
    ///
    /// # Errors
    /// [`Error::Unused`] with the first tensor that nobody took.
    pub fn check_all_taken(&self) -> Result<(), Error> {
        for loaded in &self.loaded {
            let all = loaded.changes.keys().chain(&loaded.removed);
            if let Some(tensor) = all.into_iter().find(|name| !self.taken.contains(*name)) {
                return Err(Error::Unused { file: loaded.name.clone(), tensor: tensor.clone() });
            }
        }
        Ok(())
    }
}

/// The changes of a layer whose matrices are stored transposed.
fn turned(changes: Vec<Option<Change>>) -> candle_core::Result<Vec<Option<Change>>> {
    changes.into_iter().map(|change| change.map(Change::turned).transpose()).collect()
}

/// Keeps the bytes of tensors that need no arithmetic.
#[derive(Default)]
struct Stored {
    wanted: BTreeSet<String>,
    written: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl CheckpointSink for Stored {
    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        if self.wanted.contains(name) {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let tensor = written.entry(name.to_owned()).or_default();
            let end = usize::try_from(at).unwrap_or(usize::MAX).saturating_add(bytes.len());
            tensor.resize(tensor.len().max(end), 0);
            tensor[end - bytes.len()..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn copy(&self, _: &str, _: &str) -> Result<(), CheckpointError> {
        Ok(())
    }
}

/// A checkpoint for reading only: what is stored in blocks of quantised numbers counts as what is read of it.
#[derive(Clone, Copy)]
pub struct Dequantised<'b>(pub &'b dyn Checkpoint);

impl Checkpoint for Dequantised<'_> {
    fn config(&self) -> Option<&Map<String, Value>> {
        self.0.config()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        self.0.tensors()
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        self.0.read(name)
    }
}

impl fmt::Debug for Dequantised<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dequantised").finish_non_exhaustive()
    }
}

fn load(input: &Input<'_>, base: &dyn Checkpoint, device: &Device) -> Result<Loaded, Error> {
    let base = &Dequantised(base);
    // What acts on hidden states is the hooks' business.
    let mut weights = input.adapter.clone();
    weights.edits.retain(|edit| !matches!(edit, Edit::Intervention(_)));
    let whole = Input { adapter: &weights, weight: 1.0, name: input.name.clone() };
    let plan = Plan::new(&[whole], base, &Options::default())?;
    let tensors: BTreeSet<String> = plan.tensors().map(|tensor| tensor.name.clone()).collect();
    let removed = base.tensors().keys().filter(|name| !tensors.contains(*name)).cloned().collect();
    let is_stored = |job: &Job<'_>| matches!(job, Job::Patch(_) | Job::Restore(_));
    let wanted = plan
        .outputs
        .iter()
        .filter(|output| is_stored(&output.job))
        .map(|output| output.tensor.name.clone())
        .collect();
    let sink = Stored { wanted, ..Stored::default() };
    let collector = Collector::new(device);
    execute_on(&collector, &plan, (base, &sink), &|_| {}, &AtomicBool::new(false))?;
    let mut changes = collector.finish();
    let written = sink.written.into_inner().unwrap_or_else(PoisonError::into_inner);
    for output in &plan.outputs {
        let name = &output.tensor.name;
        let anew = matches!(&output.job, Job::Compute(Compute { base: None, .. }));
        let after = match (written.get(name), changes.get(name)) {
            (Some(bytes), _) => stored(bytes, &output.tensor.info, device)?,
            // What begins anew was computed without the base.
            (None, Some(Change::Dense(after))) if anew => after.clone(),
            _ => continue,
        };
        let delta = match before(output, base) {
            None => after,
            Some(from) => {
                let bytes = base.read(from).map_err(fitment_apply::Error::from)?;
                difference(after, stored(&bytes, &base.tensors()[from], device)?)?
            }
        };
        changes.insert(name.clone(), Change::Dense(delta));
    }
    Ok(Loaded { name: input.name.clone(), changes, tensors, removed })
}

/// The base tensor in the place of which a layer of the base has what is stored now: of the same name, or, for a head that is no longer tied, the
/// matrix of the same extents that it was tied to.
fn before<'o>(output: &'o Output<'_>, base: &dyn Checkpoint) -> Option<&'o String> {
    let known = |name: &&String| base.tensors().contains_key(*name);
    let same_extents = |name: &&String| {
        let dims = base.tensors()[*name].shape.dims();
        dims.len() > 1 && dims == output.tensor.info.shape.dims()
    };
    let ground = match &output.job {
        Job::Patch(Patch { ground: Ground::Base(from), .. }) => Some(from),
        Job::Restore(restored) => Some(&restored.from),
        _ => None,
    };
    let own = Some(&output.tensor.name).filter(known);
    ground.or(own).or_else(|| output.tensor.beside.as_ref().filter(known).filter(same_extents))
}

/// `after − before`, which may have fewer rows.
fn difference(after: Tensor, before: Tensor) -> candle_core::Result<Tensor> {
    let missing = after.dim(0)?.saturating_sub(before.dim(0)?);
    after - before.pad_with_zeros(0, 0, missing)?
}

/// Stored numbers on the device, f32.
fn stored(bytes: &[u8], info: &TensorInfo, device: &Device) -> Result<Tensor, Error> {
    let unknown = || candle_core::Error::Msg(format!("{} has no arithmetic", info.dtype));
    let element = Element::of(info.dtype).ok_or_else(unknown)?;
    let mut numbers = vec![0_f32; bytes.len() / element.size()];
    decode(element, bytes, &mut numbers).map_err(candle_core::Error::wrap)?;
    let dims: Vec<usize> =
        info.shape.dims().iter().map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).collect();
    Ok(Tensor::from_vec(numbers, dims, device)?)
}
