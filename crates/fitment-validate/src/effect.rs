//! Whether an adapter does anything at all, whatever the base.

use crate::rules;
use fitment_core::finding::Finding;
use fitment_core::model::{Adapter, Edit, Intervention};
use fitment_core::tensor::{Dtype, Tensor};

/// Edits that do nothing, and the adapter as a whole.
pub(crate) fn check(adapter: &Adapter<'_>) -> Vec<Finding> {
    if adapter.edits.is_empty() {
        return vec![Finding::new(&rules::B_NO_EDITS, "", "the adapter has no edits")];
    }
    let idle: Vec<&Edit<'_>> = adapter.edits.iter().filter(|edit| is_idle(edit)).collect();
    if idle.len() == adapter.edits.len() {
        let message = match idle.len() {
            1 => "the only edit has no effect".to_owned(),
            many => format!("none of the {many} edits has an effect"),
        };
        return vec![Finding::new(&rules::B_NO_EFFECT, "", message)];
    }
    let switched_off = idle.into_iter().filter(|edit| scale(edit) == Some(0.0));
    let finding = |edit: &Edit<'_>| {
        let label = edit.label().unwrap_or_default();
        Finding::new(&rules::B_SCALE_ZERO, label, "its scale is 0: the edit does nothing")
    };
    switched_off.map(finding).collect()
}

fn scale(edit: &Edit<'_>) -> Option<f64> {
    match edit {
        Edit::Lora(lora) => Some(lora.scale),
        Edit::Add(add) => Some(add.scale),
        Edit::Intervention(edit) => Some(edit.scale),
        Edit::SparseAdd(edit) => Some(edit.scale),
        Edit::Set(_) | Edit::SparseSet(_) | Edit::Bits(_) | Edit::Remove(_) | Edit::Config(_) => None,
    }
}

/// Whether an edit leaves every base as it is. A magnitude alone changes the norms; a `set` is taken at its word.
fn is_idle(edit: &Edit<'_>) -> bool {
    match edit {
        Edit::Lora(lora) => {
            let factors = [Some(&lora.up), Some(&lora.down), lora.mid.as_ref()];
            let mut factors = factors.into_iter().flatten();
            lora.magnitude.is_none() && (lora.scale == 0.0 || factors.any(is_zero))
        }
        Edit::Add(add) => add.exceptions.is_none() && (add.scale == 0.0 || is_zero(&add.value)),
        Edit::Intervention(edit) => is_idle_intervention(edit),
        Edit::SparseAdd(edit) => edit.scale == 0.0 || is_zero(&edit.value),
        Edit::Bits(edit) => edit.changed == 0,
        Edit::Set(_) | Edit::SparseSet(_) | Edit::Remove(_) | Edit::Config(_) => false,
    }
}

/// Without `c`, a zero `U` leaves every state as it is.
fn is_idle_intervention(edit: &Intervention<'_>) -> bool {
    let constant = edit.up_bias.as_ref().is_none_or(is_zero);
    edit.scale == 0.0 || constant && edit.up.as_ref().is_some_and(is_zero)
}

/// Whether all elements are zero; one look at the first is nearly always enough.
fn is_zero(tensor: &Tensor<'_>) -> bool {
    let size = match tensor.dtype() {
        Dtype::F64 => 8,
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::BF16 => 2,
        _ => return false,
    };
    // The sign is the top bit of the last byte: -0 is zero too.
    let zero = |element: &[u8]| match element {
        [rest @ .., last] => last & 0x7f == 0 && rest.iter().all(|byte| *byte == 0),
        [] => true,
    };
    tensor.bytes().chunks(size).all(zero)
}

#[cfg(test)]
mod tests {
    use super::check;
    use fitment_core::model::{
        Adapter, Add, Edit, Lora, LoraForm, Magnitude, NormOf, Origin, Remove, Target, TensorName,
    };
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    fn floats(values: &[f32]) -> Tensor<'static> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::owned(Dtype::F32, Shape::new(&[values.len() as u64, 1]).unwrap(), bytes).unwrap()
    }

    fn lora(scale: f64, up: &[f32]) -> Lora<'static> {
        Lora {
            target: Target::whole(TensorName::new("a.weight").unwrap()),
            form: LoraForm::Matrix,
            transposed: false,
            scale,
            up: floats(up),
            down: floats(&[1.0]),
            mid: None,
            magnitude: None,
            origin: Origin::default(),
        }
    }

    fn lines(edits: Vec<Edit<'static>>) -> String {
        let findings = check(&Adapter { edits, ..Adapter::default() });
        findings.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn an_adapter_of_zeros_or_of_scale_zero_does_nothing() {
        let zeros = Edit::Lora(lora(1.0, &[0.0, -0.0]));
        insta::assert_snapshot!(lines(vec![zeros.clone()]), @"error[B014]: the only edit has no effect");
        insta::assert_snapshot!(lines(vec![zeros, Edit::Lora(lora(0.0, &[1.0]))]), @"error[B014]: none of the 2 edits has an effect");
    }

    #[test]
    fn one_edit_of_scale_zero_among_others_is_a_warning() {
        let edits = vec![Edit::Lora(lora(0.0, &[1.0])), Edit::Lora(lora(1.0, &[1.0]))];
        insta::assert_snapshot!(lines(edits), @"warning[B015] a.weight: its scale is 0: the edit does nothing");
    }

    #[test]
    fn an_adapter_without_edits_is_noted() {
        insta::assert_snapshot!(lines(vec![]), @"note[B016]: the adapter has no edits");
    }

    #[test]
    fn a_magnitude_a_tiny_element_or_a_removal_is_an_effect() {
        let mut dora = lora(1.0, &[0.0]);
        let value = floats(&[1.0]);
        dora.magnitude = Some(Magnitude { value, axis: 0, norm_of: NormOf::Merged, eps: 0.0 });
        assert_eq!(lines(vec![Edit::Lora(dora)]), "");
        assert_eq!(lines(vec![Edit::Lora(lora(1.0, &[0.0, f32::from_bits(1)]))]), "");
        let Lora { target, origin, .. } = lora(1.0, &[]);
        assert_eq!(lines(vec![Edit::Remove(Remove { target, origin })]), "");
    }

    #[test]
    fn an_update_of_zeros_is_idle() {
        let Lora { target, origin, .. } = lora(1.0, &[]);
        let add = Add { target, scale: 1.0, value: floats(&[0.0]), exceptions: None, origin };
        assert!(lines(vec![Edit::Add(add)]).starts_with("error[B014]"));
    }
}
