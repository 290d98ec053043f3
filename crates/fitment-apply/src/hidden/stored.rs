//! Roles of an intervention as f32 arrays.

use fitment_core::model::Intervention;
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::intervention::{Formula, Map};
use fitment_math::ndarray::{ArrayView1, ArrayView2};
use fitment_math::round::{Element, decode};

/// A role decoded to f32.
struct Role {
    numbers: Vec<f32>,
    dims: Vec<usize>,
}

impl Role {
    /// `None` for a dtype without arithmetic.
    fn of(tensor: &Tensor<'_>) -> Option<Self> {
        let dims: Vec<usize> =
            tensor.dims().iter().map(|extent| usize::try_from(*extent)).collect::<Result<_, _>>().ok()?;
        let mut numbers = vec![0.0_f32; usize::try_from(tensor.elements()).ok()?];
        decode(Element::of(tensor.dtype())?, tensor.bytes(), &mut numbers).ok()?;
        Some(Self { numbers, dims })
    }

    fn matrix(&self) -> Option<ArrayView2<'_, f32>> {
        let [rows, cols] = self.dims[..] else { return None };
        ArrayView2::from_shape((rows, cols), &self.numbers).ok()
    }
}

/// Why there is no map.
pub(super) enum Unmapped {
    /// A role without arithmetic.
    Dtype(&'static str, Dtype),
    /// Roles that do not fit each other.
    Misfit(fitment_math::Error),
}

/// The map of an intervention on states of width `width`, with strength `weight`.
pub(super) fn map(edit: &Intervention<'_>, weight: f64, widths: (usize, usize)) -> Result<Map, Unmapped> {
    let mut roles = std::collections::BTreeMap::new();
    for (name, tensor) in edit.tensors() {
        let role = Role::of(tensor).ok_or(Unmapped::Dtype(name, tensor.dtype()))?;
        roles.insert(name, role);
    }
    let matrix = |name: &str| roles.get(name).and_then(Role::matrix);
    let vector = |name: &str| roles.get(name).map(|role| ArrayView1::from(&role.numbers[..]));
    let source = edit.source_weight.as_ref().and_then(|weight| Element::of(weight.dtype()));
    let formula = Formula {
        width: widths.0,
        input_width: widths.1,
        scale: (edit.scale * weight) as f32,
        activation: edit.activation,
        subtract: edit.subtract,
        rounding: edit.rounding,
        source: source.unwrap_or(Element::F32),
        up: matrix("up"),
        up_bias: vector("up.bias"),
        source_weight: matrix("source.weight"),
        source_bias: vector("source.bias"),
        proj: matrix("proj"),
        proj_bias: vector("proj.bias"),
    };
    Map::new(&formula).map_err(Unmapped::Misfit)
}
