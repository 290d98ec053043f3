//! A rule for elements on each factor by itself: what PEFT's combination types without `_svd` do.

use super::driver::elements;
use super::{Dense, Elementwise, Factors, Params};
use crate::exact::Fault;
use crate::factors::matrices;
use crate::gather::Touch;
use fitment_core::model::Edit;
use fitment_math::ndarray::Array2;

/// `√|c|` times the sign of `c` goes with `down`, `√|c|` with `up`, where `c = wᵢ·sᵢ`.
///
/// # Errors
/// When the ranks differ, or an adapter changes the target by more than one pair of factors.
pub(super) fn merge(
    touches: &[Touch<'_>],
    run: Elementwise,
    (name, params): (&str, &Params),
) -> Result<Factors, Fault> {
    let (mut places, mut downs, mut ups) = (Vec::new(), Vec::new(), Vec::new());
    let mut extents: Option<[(usize, usize); 2]> = None;
    for touch in touches {
        let Edit::Lora(lora) = touch.edit else {
            return Err(Fault::Undefined(format!("a {} has no factors", touch.edit.kind())));
        };
        if places.last() == Some(&touch.file) {
            let reason = "one adapter changes it by several products, which have no factors in common";
            return Err(Fault::Undefined(reason.to_owned()));
        }
        if lora.has_expert_axis() || lora.mid.is_some() {
            let reason = "PEFT merges no factors of experts apart, nor those of a convolution with a core";
            return Err(Fault::Undefined(reason.to_owned()));
        }
        let no_matrices = || Fault::exact("the factors are no matrices");
        let (up, down) = matrices(lora).and_then(|mut all| all.pop()).ok_or_else(no_matrices)?;
        let [first, _] = *extents.get_or_insert([up.dim(), down.dim()]);
        if first.1 != up.ncols() {
            let reason = format!(
                "factors are added to factors, so the ranks must be equal: {} and {}",
                first.1,
                up.ncols()
            );
            return Err(Fault::Undefined(reason));
        }
        let c = touch.weight * lora.scale;
        let root = c.abs().sqrt();
        let narrow = |factor: &Array2<f64>| factor.iter().map(|value| *value as f32).collect::<Vec<f32>>();
        places.push(touch.file);
        ups.push((root, narrow(&up)));
        downs.push((root.copysign(c), narrow(&down)));
    }
    let Some([up, down]) = extents else { return Err(Fault::exact("there are no factors")) };
    let merged = |tasks: &[(f64, Vec<f32>)], dim: (usize, usize), role: &str| {
        let (dims, name) = ([dim.0 as u64, dim.1 as u64], format!("{name} {role}"));
        let values = elements(&run, &Dense { tasks, places: &places, dims: &dims, name: &name, params })?;
        Array2::from_shape_vec(dim, values.into_iter().map(f64::from).collect())
            .map_err(|_| Fault::exact("the updates have other shapes"))
    };
    Ok((merged(&ups, up, "up")?, merged(&downs, down, "down")?))
}
