//! Tensors with a NaN or an infinity: no edit may have them (spec section 5), so no reader takes them.

use crate::each;
use fitment_core::Finding;
use fitment_core::finding::rules::E_NOT_FINITE;
use fitment_core::tensor::Tensor;
use fitment_math::not_finite;

/// The first element that is NaN or infinite; `None` also for dtypes that are no weights.
pub(crate) fn check(key: &str, tensor: &Tensor<'_>) -> Option<Finding> {
    if tensor.is_unread() {
        return None;
    }
    let at = not_finite::first(tensor.dtype(), tensor.bytes())?;
    Some(Finding::new(&E_NOT_FINITE, key, format!("element {at} is NaN or infinite")))
}

/// The same of many tensors, on all cores, in their order.
pub(crate) fn check_all(tensors: &[(String, &Tensor<'_>)]) -> Vec<Finding> {
    each::map(tensors, |(key, tensor)| check(key, tensor)).into_iter().flatten().collect()
}
