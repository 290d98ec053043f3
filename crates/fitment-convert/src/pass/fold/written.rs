//! What has been folded, as edits.

use super::Into;
use super::linear::Linear;
use super::place::Model;
use fitment_core::model::{
    Add, AxisSlice, ConfigEdit, ConfigValue, Edit, IndexRange, Lora, LoraForm, Origin, Set, SetDtype, Target,
    TensorName,
};
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::ndarray::{Array1, Array2, Axis};
use fitment_math::round::narrowed;
use std::collections::{BTreeMap, BTreeSet};

/// Slices of more ranges than this are not worth their place in a manifest: then the whole weight is named, which adds zeros to the rest.
const MAX_RANGES: usize = 1024;

/// Edits while they come in.
pub(super) struct Written<'m, 'b> {
    model: &'m Model<'b>,
    into: Into,
    edits: Vec<Edit<'static>>,
    /// Biases that the base lacks, by module.
    created: BTreeMap<String, Array1<f64>>,
}

impl Model<'_> {
    /// The config's switch that gives a linear layer its bias.
    pub(super) fn switch(&self, module: &str) -> Option<ConfigValue> {
        let lines = self.architecture;
        let is = |linear: &str| module.strip_suffix(linear).is_some_and(|before| before.ends_with('.'));
        let attention = lines.projections().iter().any(|line| is(line.module)) || is(lines.attention_out);
        let mlp = lines.mlp_in.iter().copied().chain(lines.mlp_out).any(is);
        match (attention, mlp) {
            (true, _) if lines.attention_bias => Some(ConfigValue::AttentionBias(true)),
            (false, true) if lines.mlp_bias => Some(ConfigValue::MlpBias(true)),
            _ => None,
        }
    }
}

impl<'m, 'b> Written<'m, 'b> {
    pub(super) fn new(model: &'m Model<'b>, into: Into) -> Self {
        Self { model, into, edits: Vec::new(), created: BTreeMap::new() }
    }

    /// Takes over what was folded into a layer.
    pub(super) fn add(&mut self, module: &str, linear: Linear<'_>) {
        let gains = linear.gained.iter().any(|number| *number != 0.0);
        let lora = (linear.up.ncols() > 0).then(|| self.lora(module, &linear)).flatten();
        let has_lora = lora.is_some();
        self.edits.extend(lora);
        let has_bias = self.model.base.tensors().contains_key(&format!("{module}.bias"));
        match self.into {
            Into::Checkpoint if gains && !has_bias => {
                self.created.insert(module.to_owned(), linear.gained);
            }
            Into::Checkpoint if gains => self.edits.extend(self.bias(module, &linear.gained)),
            Into::Checkpoint => {}
            Into::Lora => {
                let (out, input) = (linear.up.nrows(), linear.down.ncols());
                // PEFT keeps a bias with a low-rank update only.
                if gains && !has_lora && input > 0 {
                    let zero = (Array2::zeros((out, 1)), Array2::zeros((1, input)));
                    self.edits.extend(self.factors(module, &zero.0, &zero.1));
                }
                if gains {
                    self.edits.extend(self.bias(module, &linear.gained));
                }
            }
        }
    }

    fn lora(&self, module: &str, linear: &Linear<'_>) -> Option<Edit<'static>> {
        self.factors(module, &linear.up, &linear.down)
    }

    fn factors(&self, module: &str, up: &Array2<f64>, down: &Array2<f64>) -> Option<Edit<'static>> {
        let conv1d = self.model.architecture.conv1d;
        let changed: Vec<bool> = up.outer_iter().map(|row| row.iter().any(|number| *number != 0.0)).collect();
        let (slice, rows) = self.changed(&changed, if conv1d { 1 } else { 0 });
        let up = up.select(Axis(0), &rows);
        Some(Edit::Lora(Lora {
            target: Target { slice, ..target(module, "weight")? },
            form: LoraForm::Matrix,
            transposed: conv1d,
            scale: 1.0,
            up: self.tensor(&[up.nrows(), up.ncols()], up.iter())?,
            down: self.tensor(&[down.nrows(), down.ncols()], down.iter())?,
            mid: None,
            magnitude: None,
            origin: Origin::default(),
        }))
    }

    fn bias(&self, module: &str, gained: &Array1<f64>) -> Option<Edit<'static>> {
        let changed: Vec<bool> = gained.iter().map(|number| *number != 0.0).collect();
        let (slice, rows) = self.changed(&changed, 0);
        let value = gained.select(Axis(0), &rows);
        Some(Edit::Add(Add {
            target: Target { slice, ..target(module, "bias")? },
            scale: 1.0,
            value: self.tensor(&[value.len()], value.iter())?,
            exceptions: None,
            origin: Origin::default(),
        }))
    }

    /// The slice that holds what changes, and the indices in it. What does not change keeps its bits.
    fn changed(&self, changed: &[bool], axis: u64) -> (Vec<AxisSlice>, Vec<usize>) {
        let mut ranges: Vec<IndexRange> = Vec::new();
        let changing = changed.iter().enumerate().filter(|(_, changed)| **changed);
        for index in changing.map(|(index, _)| index as u64) {
            match ranges.last_mut().filter(|last| last.end == index) {
                Some(last) => last.end += 1,
                None => ranges.push(IndexRange { start: index, end: index + 1, step: 1 }),
            }
        }
        let len: u64 = ranges.iter().map(|range| range.len()).sum();
        let all = len == changed.len() as u64 || len == 0 || ranges.len() > MAX_RANGES;
        if all || self.into == Into::Lora {
            return (Vec::new(), (0..changed.len()).collect());
        }
        let rows = (0..changed.len()).filter(|row| changed[*row]).collect();
        (vec![AxisSlice { axis, ranges }], rows)
    }

    /// A new tensor: exact in a checkpoint's edit, F32 in an adapter's.
    fn tensor<'n>(&self, dims: &[usize], numbers: impl Iterator<Item = &'n f64>) -> Option<Tensor<'static>> {
        let dtype = match self.into {
            Into::Checkpoint => Dtype::F64,
            Into::Lora => Dtype::F32,
        };
        let dims: Vec<u64> = dims.iter().map(|extent| *extent as u64).collect();
        narrowed(dtype, &dims, &numbers.copied().collect::<Vec<_>>())
    }

    /// All edits. A switch in the config gives a bias to all layers of its kind: those that need none get zeros.
    pub(super) fn finish(mut self) -> Vec<Edit<'static>> {
        let switches: BTreeSet<&'static str> = self
            .created
            .keys()
            .filter_map(|module| self.model.switch(module))
            .map(ConfigValue::key)
            .collect();
        let all = (0..self.model.layers()).flat_map(|layer| {
            self.model.architecture.linears().into_iter().map(move |linear| (layer, linear))
        });
        let mut values = Vec::new();
        for (layer, linear) in all {
            let module = self.model.module(layer, linear);
            let Some(switch) = self.model.switch(&module).filter(|switch| switches.contains(switch.key()))
            else {
                continue;
            };
            if !values.contains(&switch) {
                values.push(switch);
            }
            self.edits.extend(self.create(&module));
        }
        self.edits.extend(
            values
                .into_iter()
                .map(|value| Edit::Config(ConfigEdit { component: None, value, origin: Origin::default() })),
        );
        self.edits
    }

    fn create(&self, module: &str) -> Option<Edit<'static>> {
        let tensors = self.model.base.tensors();
        let info = tensors.get(&format!("{module}.weight"))?;
        if tensors.contains_key(&format!("{module}.bias")) {
            return None;
        }
        let (out, _) = self.model.extents(module).ok()?;
        let out = usize::try_from(out).ok()?;
        let zeros = || Array1::zeros(out);
        let value = self.created.get(module).cloned().unwrap_or_else(zeros);
        Some(Edit::Set(Set {
            target: target(module, "bias")?,
            dtype: SetDtype::Stored,
            create: true,
            reshape: false,
            value: narrowed(info.dtype, &[out as u64], &value.to_vec())?,
            rows: None,
            origin: Origin::default(),
        }))
    }
}

fn target(module: &str, param: &str) -> Option<Target> {
    TensorName::new(format!("{module}.{param}")).ok().map(Target::whole)
}
