//! Positions of changed elements: as they are, or as the gaps between them.

use fitment_core::tensor::{Bytes, Dtype, Shape, Tensor};

/// How positions are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Each by itself.
    Raw,
    /// The number of unchanged elements before each.
    Gaps,
}

/// Positions as the model holds them: U32 or I64 `[n]`, strictly ascending. Borrowed where the file has them so.
pub(super) fn positions<'a>(stored: &Tensor<'a>, encoding: Encoding) -> Result<Tensor<'a>, String> {
    match (encoding, stored.dtype()) {
        (Encoding::Raw, Dtype::I32) => {
            let numbers = stored.bytes().as_chunks::<4>().0.iter().map(|chunk| i32::from_le_bytes(*chunk));
            ascending(numbers.map(i64::from))?;
            Tensor::new(Dtype::U32, stored.shape().clone(), stored.data().clone())
                .map_err(|fault| fault.to_string())
        }
        (Encoding::Raw, Dtype::U32) => {
            let numbers = stored.bytes().as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk));
            ascending(numbers.map(i64::from)).map(|()| stored.clone())
        }
        (Encoding::Raw, Dtype::I64) => {
            let numbers = stored.bytes().as_chunks::<8>().0.iter().map(|chunk| i64::from_le_bytes(*chunk));
            ascending(numbers).map(|()| stored.clone())
        }
        (Encoding::Gaps, Dtype::U16) => {
            let gaps = stored.bytes().as_chunks::<2>().0.iter().map(|chunk| u16::from_le_bytes(*chunk));
            summed(gaps.map(u64::from))
        }
        (Encoding::Gaps, Dtype::U32) => {
            let gaps = stored.bytes().as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk));
            summed(gaps.map(u64::from))
        }
        (_, other) => Err(format!("positions of {other}")),
    }
}

/// Whether a tensor can hold positions.
pub(super) fn is_index(dtype: Dtype, encoding: Encoding) -> bool {
    match encoding {
        Encoding::Raw => matches!(dtype, Dtype::I32 | Dtype::U32 | Dtype::I64),
        Encoding::Gaps => matches!(dtype, Dtype::U16 | Dtype::U32),
    }
}

fn ascending(numbers: impl Iterator<Item = i64>) -> Result<(), String> {
    let mut last = -1;
    for (at, number) in numbers.enumerate() {
        if number <= last {
            let above = if last < 0 { "below 0".to_owned() } else { format!("not above {last}") };
            return Err(format!("position {at} is {number}, {above}"));
        }
        last = number;
    }
    Ok(())
}

fn summed(gaps: impl Iterator<Item = u64>) -> Result<Tensor<'static>, String> {
    let mut bytes = Vec::new();
    let mut next = 0u64;
    for (at, gap) in gaps.enumerate() {
        let position = next + gap;
        let narrow = u32::try_from(position);
        let narrow = narrow.map_err(|_| format!("position {at} is {position}, beyond 32 bits"))?;
        bytes.extend(narrow.to_le_bytes());
        next = position + 1;
    }
    list(Dtype::U32, bytes)
}

/// Positions of the model in the form of a patch: I32, or gaps of the least width. `None` where a position is 2³¹ or more.
pub(super) fn stored<'a>(index: &Tensor<'a>, encoding: Encoding) -> Option<Tensor<'a>> {
    let numbers: Vec<u32> = match index.dtype() {
        Dtype::U32 => index.bytes().as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect(),
        Dtype::I64 => {
            let wide = index.bytes().as_chunks::<8>().0.iter().map(|chunk| i64::from_le_bytes(*chunk));
            wide.map(|number| u32::try_from(number).ok()).collect::<Option<_>>()?
        }
        _ => return None,
    };
    if numbers.last().is_some_and(|last| i32::try_from(*last).is_err()) {
        return None;
    }
    if encoding == Encoding::Raw {
        let data = match index.dtype() {
            Dtype::U32 => index.data().clone(),
            _ => Bytes::Shared(numbers.iter().flat_map(|number| number.to_le_bytes()).collect()),
        };
        return Tensor::new(Dtype::I32, index.shape().clone(), data).ok();
    }
    let mut next = 0;
    let gaps: Vec<u32> = numbers
        .iter()
        .map(|number| {
            let gap = number.checked_sub(next)?;
            next = number.checked_add(1)?;
            Some(gap)
        })
        .collect::<Option<_>>()?;
    let narrow: Option<Vec<u16>> = gaps.iter().map(|gap| u16::try_from(*gap).ok()).collect();
    match narrow {
        Some(gaps) => list(Dtype::U16, gaps.iter().flat_map(|gap| gap.to_le_bytes()).collect()).ok(),
        None => list(Dtype::U32, gaps.iter().flat_map(|gap| gap.to_le_bytes()).collect()).ok(),
    }
}

fn list(dtype: Dtype, bytes: Vec<u8>) -> Result<Tensor<'static>, String> {
    let count = bytes.len() / dtype.bytes().unwrap_or(1);
    let shape = Shape::new(&[count as u64]).map_err(|fault| fault.to_string())?;
    Tensor::owned(dtype, shape, bytes).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Encoding, list, positions, stored};
    use fitment_core::tensor::Dtype;

    #[test]
    fn gaps_are_the_way_back_from_positions() {
        let wide = |numbers: &[u32]| list(Dtype::U32, numbers.iter().flat_map(|n| n.to_le_bytes()).collect());
        for (numbers, dtype) in
            [(&[0, 1, 5, 65_541][..], Dtype::U16), (&[65_536, 65_537], Dtype::U32), (&[], Dtype::U16)]
        {
            let index = wide(numbers).unwrap();
            let gaps = stored(&index, Encoding::Gaps).unwrap();
            assert_eq!(gaps.dtype(), dtype);
            assert_eq!(positions(&gaps, Encoding::Gaps).unwrap().bytes(), index.bytes());
            let raw = stored(&index, Encoding::Raw).unwrap();
            assert_eq!((raw.dtype(), raw.bytes()), (Dtype::I32, index.bytes()));
            assert_eq!(positions(&raw, Encoding::Raw).unwrap().dtype(), Dtype::U32);
        }
        assert!(stored(&wide(&[1 << 31]).unwrap(), Encoding::Raw).is_none(), "I32 ends below 2³¹");
    }

    #[test]
    fn what_no_position_can_be_is_told() {
        let raw = |numbers: &[i32]| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            positions(&list(Dtype::I32, bytes).unwrap(), Encoding::Raw).map(|_| ())
        };
        assert_eq!(raw(&[0, 7, 7]), Err("position 2 is 7, not above 7".to_owned()));
        assert_eq!(raw(&[-3]), Err("position 0 is -3, below 0".to_owned()));
        let far = [u32::MAX, 0].iter().flat_map(|gap| gap.to_le_bytes()).collect();
        let far = positions(&list(Dtype::U32, far).unwrap(), Encoding::Gaps).map(|_| ());
        assert_eq!(far, Err("position 1 is 4294967296, beyond 32 bits".to_owned()));
    }
}
