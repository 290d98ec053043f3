use super::{Element, decode, encode};
use fitment_core::tensor::{Dtype, Shape, Tensor};

/// Elements of a tensor as binary64, exactly, in its row-major order; `None` for a dtype without arithmetic here.
pub fn widened(tensor: &Tensor<'_>) -> Option<Vec<f64>> {
    wide(tensor.dtype(), tensor.bytes())
}

/// [`widened`], of a tensor's bytes.
pub fn wide(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    let element = Element::of(dtype)?;
    let mut numbers = vec![0.0; bytes.len() / element.size()];
    decode(element, bytes, &mut numbers).ok()?;
    Some(numbers)
}

/// A tensor of shape `dims` with these elements, each rounded once to `dtype`; what is too large becomes infinite. `None` for a
/// dtype without arithmetic here, or where `dims` has another number of elements.
pub fn narrowed(dtype: Dtype, dims: &[u64], values: &[f64]) -> Option<Tensor<'static>> {
    Tensor::owned(dtype, Shape::new(dims).ok()?, narrow(dtype, values)?).ok()
}

/// [`narrowed`], the bytes alone.
pub fn narrow(dtype: Dtype, values: &[f64]) -> Option<Vec<u8>> {
    let element = Element::of(dtype)?;
    let mut bytes = vec![0; values.len().checked_mul(element.size())?];
    encode(element, values, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{narrowed, wide, widened};
    use fitment_core::tensor::Dtype;

    #[test]
    fn numbers_go_there_and_back_and_others_do_not() {
        let values = [1.0, -0.5, 3.0, 0.0, 65536.0, -2.0];
        for dtype in [Dtype::BF16, Dtype::F32, Dtype::F64] {
            let tensor = narrowed(dtype, &[2, 3], &values).unwrap();
            assert_eq!((tensor.dims(), widened(&tensor).unwrap()), (&[2, 3][..], values.to_vec()));
        }
        assert_eq!(widened(&narrowed(Dtype::F16, &[6], &values).unwrap()).unwrap()[4], f64::INFINITY);
        assert!(narrowed(Dtype::F32, &[5], &values).is_none());
        assert!(narrowed(Dtype::I64, &[6], &values).is_none());
        assert!(wide(Dtype::F32, &[0; 6]).is_none());
    }
}
