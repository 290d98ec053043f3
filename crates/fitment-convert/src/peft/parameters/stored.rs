//! Factors of all experts, as PEFT stores them and as stacks.

use super::{Columns, Parameter};
use crate::pass::permute::{permuted, reshaped};
use fitment_core::tensor::Tensor;

/// `lora_A` `[E·r, a]` as `[E, r, a]`; nothing is copied.
pub(super) fn experts_of_a<'a>(parameter: &Parameter<'a>) -> Option<Tensor<'a>> {
    let (a, _) = parameter.sides();
    reshaped(&parameter.a.tensor, &[parameter.experts, parameter.scale.rank, a])
}

/// `lora_B` `[b, r·E]` as `[E, b, r]`.
pub(super) fn experts_of_b<'a>(parameter: &Parameter<'a>, columns: Columns) -> Option<Tensor<'a>> {
    let (_, b) = parameter.sides();
    let (experts, rank) = (parameter.experts, parameter.scale.rank);
    match columns {
        _ if experts == 1 => reshaped(&parameter.b.tensor, &[1, b, rank]),
        Columns::RankMajor => permuted(&parameter.b.tensor, [b, rank, experts], [2, 0, 1]),
        Columns::ExpertMajor => permuted(&parameter.b.tensor, [b, experts, rank], [1, 0, 2]),
    }
}

/// A stack `[E, r, a]` as `lora_A`, and `[E, b, r]` as `lora_B`.
pub(in crate::peft) fn flat<'a>(
    a: &Tensor<'a>,
    b: &Tensor<'a>,
    columns: Columns,
) -> Option<(Tensor<'a>, Tensor<'a>)> {
    let (&[experts, rank, a_side], &[same, b_side, other]) = (a.dims(), b.dims()) else { return None };
    let all = experts.checked_mul(rank).filter(|_| experts == same && rank == other)?;
    let order = match columns {
        Columns::RankMajor => [1, 2, 0],
        Columns::ExpertMajor => [1, 0, 2],
    };
    let b = match experts {
        1 => reshaped(b, &[b_side, all])?,
        _ => reshaped(&permuted(b, [experts, b_side, rank], order)?, &[b_side, all])?,
    };
    Some((reshaped(a, &[all, a_side])?, b))
}
