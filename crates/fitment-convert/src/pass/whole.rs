//! An edit of part of a tensor as one of all of it: zeros everywhere else.

use super::gather::gathered;
use fitment_core::model::{Lora, LoraForm};
use fitment_core::tensor::Tensor;

/// Factors of a low-rank edit for the whole tensor of these extents; its own where it is of no part. `None` for forms and slices
/// that do not fit the extents.
pub(crate) fn whole<'a>(lora: &Lora<'a>, dims: &[u64]) -> Option<(Tensor<'a>, Tensor<'a>)> {
    let (mut up, mut down) = (lora.up.clone(), lora.down.clone());
    let stacked = usize::from(lora.form == LoraForm::Stacked);
    if lora.target.slice.is_empty() {
        return Some((up, down));
    }
    if lora.form == LoraForm::Conv || lora.target.experts.is_some() || dims.len() != stacked + 2 {
        return None;
    }
    for slice in &lora.target.slice {
        let axis = usize::try_from(slice.axis).ok()?;
        let mut sources = vec![None; usize::try_from(*dims.get(axis)?).ok()?];
        let indices = slice.ranges.iter().flat_map(|range| range.indices());
        for (number, index) in indices.enumerate() {
            *sources.get_mut(usize::try_from(index).ok()?)? = Some(number);
        }
        // Which of the two axes of `W` it is; the first of a stack is that of the experts.
        let of_up = (axis == stacked) != lora.transposed;
        if axis < stacked {
            (up, down) = (gathered(&up, 0, &sources)?, gathered(&down, 0, &sources)?);
        } else if of_up {
            up = gathered(&up, stacked, &sources)?;
        } else {
            down = gathered(&down, stacked + 1, &sources)?;
        }
    }
    Some((up, down))
}

#[cfg(test)]
mod tests {
    use super::whole;
    use fitment_core::model::{AxisSlice, IndexRange, Lora, LoraForm, Origin, Target, TensorName};
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    fn lora(form: LoraForm, transposed: bool, slice: &[(u64, u64, u64)]) -> Lora<'static> {
        let tensor = |dims: &[u64], bytes: &[u8]| {
            Tensor::owned(Dtype::U8, Shape::new(dims).unwrap(), bytes.to_vec()).unwrap()
        };
        let mut target = Target::whole(TensorName::new("a").unwrap());
        let part = |(axis, start, end): &(u64, u64, u64)| AxisSlice {
            axis: *axis,
            ranges: vec![IndexRange { start: *start, end: *end, step: 1 }],
        };
        target.slice = slice.iter().map(part).collect();
        let lead: &[u64] = if form == LoraForm::Stacked { &[1] } else { &[] };
        Lora {
            target,
            form,
            transposed,
            scale: 1.0,
            up: tensor(&[lead, &[2, 1]].concat(), &[1, 2]),
            down: tensor(&[lead, &[1, 3]].concat(), &[3, 4, 5]),
            mid: None,
            magnitude: None,
            origin: Origin::default(),
        }
    }

    #[test]
    fn rows_and_columns_are_spread_out() {
        let (up, down) = whole(&lora(LoraForm::Matrix, false, &[(0, 1, 3)]), &[4, 3]).unwrap();
        assert_eq!((up.bytes(), down.bytes()), (&[0, 1, 2, 0][..], &[3, 4, 5][..]));
        let (up, down) = whole(&lora(LoraForm::Matrix, false, &[(1, 0, 3)]), &[2, 4]).unwrap();
        assert_eq!((up.bytes(), down.bytes()), (&[1, 2][..], &[3, 4, 5, 0][..]));
    }

    #[test]
    fn of_what_is_stored_transposed_rows_are_columns() {
        let (up, down) = whole(&lora(LoraForm::Matrix, true, &[(1, 1, 3)]), &[3, 4]).unwrap();
        assert_eq!((up.bytes(), down.bytes()), (&[0, 1, 2, 0][..], &[3, 4, 5][..]));
    }

    #[test]
    fn experts_and_their_rows_are_spread_out() {
        let (up, down) = whole(&lora(LoraForm::Stacked, false, &[(0, 1, 2), (1, 0, 2)]), &[2, 3, 3]).unwrap();
        assert_eq!((up.dims(), up.bytes()), (&[2, 3, 1][..], &[0, 0, 0, 1, 2, 0][..]));
        assert_eq!((down.dims(), down.bytes()), (&[2, 1, 3][..], &[0, 0, 0, 3, 4, 5][..]));
    }

    #[test]
    fn a_slice_beyond_the_tensor_does_not_fit() {
        assert!(whole(&lora(LoraForm::Matrix, false, &[(0, 3, 5)]), &[4, 3]).is_none());
        assert!(whole(&lora(LoraForm::Stacked, false, &[(1, 0, 2)]), &[4, 3]).is_none());
    }
}
