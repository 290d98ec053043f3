//! Bit-exact changes (spec section 5.9 and appendix D).

use super::Checker;
use super::edits::check_roles;
use super::sparse::is_whole;
use super::state::State;
use crate::finding::rules;
use crate::identity::unhex;
use crate::manifest::v1::BitsEdit;
use crate::payload::{self, Word};
use crate::tensor::{Dtype, Shape};

pub(super) fn check(checker: &mut Checker<'_, '_>, edit: &BitsEdit, state: &State, place: &str) {
    if !check_roles(checker, &edit.tensors, (&["z"], &[]), place) || !is_whole(checker, &edit.target, place) {
        return;
    }
    if !edit.target.uses.is_empty() {
        checker.report(&rules::E_BITS, place, "the edit is of the whole tensor: no uses");
        return;
    }
    for (field, digest) in [("base", &edit.base), ("result", &edit.result)] {
        if unhex(digest).is_none() {
            let message = format!("{field} {digest:?} is not 64 lower-case hexadecimal digits");
            checker.report(&rules::E_BITS, place, message);
            return;
        }
    }
    let (Some(dtype), Some(dims)) = (state.dtype, state.shape.as_deref()) else {
        checker.report(&rules::E_BITS, place, "base.tensors does not record dtype and shape of its target");
        return;
    };
    let Some(z) = checker.tensor(&edit.tensors, "z") else { return };
    if z.dtype != Dtype::U8 || z.shape.axes() != 1 {
        let message = format!("z is {} {}, expected U8 [n]", z.dtype, z.shape);
        checker.report(&rules::E_DTYPE, place, message);
        return;
    }
    let Some(bytes) = z.bytes else { return };
    // A recorded shape that is none is reported as that.
    let Some(len) = Shape::new(dims).ok().and_then(|shape| shape.byte_len(dtype).ok()) else { return };
    let message = match payload::parse(bytes, Word::of(dtype), len) {
        Err(fault) => Some(fault.to_string()),
        Ok(payload) => (payload.changed() != edit.changed).then(|| {
            format!("its table counts {} changed elements, the edit {}", payload.changed(), edit.changed)
        }),
    };
    if let Some(message) = message {
        checker.report(&rules::E_PAYLOAD, place, message);
    }
}
