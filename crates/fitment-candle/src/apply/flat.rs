//! Runs of numbers on a device: a block of a tensor, flat.

use candle_core::{DType, Device, Result, Tensor};
use fitment_apply::device::Piece;
use fitment_math::round::Element;
use std::ops::Range;

use crate::device::stored_as;

/// More runs than this are gathered and scattered by index, not one by one.
const MAX_RUNS: usize = 32;

/// Stored numbers on the device, in `wide`.
pub(super) fn upload(bytes: &[u8], element: Element, wide: DType, device: &Device) -> Result<Tensor> {
    let len = bytes.len() / element.size();
    Tensor::from_raw_buffer(bytes, stored_as(element), &[len], device)?.to_dtype(wide)
}

/// The numbers as they are stored.
pub(super) fn download(numbers: &Tensor, element: Element, out: &mut [u8]) -> Result<()> {
    let numbers = numbers.to_dtype(stored_as(element))?;
    match element {
        Element::F64 => write(numbers.to_vec1::<f64>()?, out, f64::to_le_bytes),
        Element::F32 => write(numbers.to_vec1::<f32>()?, out, f32::to_le_bytes),
        Element::F16 => write(numbers.to_vec1::<half::f16>()?, out, half::f16::to_le_bytes),
        Element::Bf16 => write(numbers.to_vec1::<half::bf16>()?, out, half::bf16::to_le_bytes),
    }
    Ok(())
}

fn write<T, const SIZE: usize>(numbers: Vec<T>, out: &mut [u8], bytes: impl Fn(T) -> [u8; SIZE]) {
    for (out, number) in out.as_chunks_mut::<SIZE>().0.iter_mut().zip(numbers) {
        *out = bytes(number);
    }
}

/// Numbers of the processor on the device, in `wide`.
pub(crate) fn numbers(values: Vec<f64>, wide: DType, device: &Device) -> Result<Tensor> {
    let len = values.len();
    match wide {
        DType::F64 => Tensor::from_vec(values, len, device),
        _ => {
            Tensor::from_vec(values.into_iter().map(|value| value as f32).collect::<Vec<f32>>(), len, device)
        }
    }
}

/// `block` with the elements in `runs`, taken as one, changed.
pub(super) fn on_runs<E: From<candle_core::Error>>(
    block: &Tensor,
    runs: &[Range<usize>],
    change: impl FnOnce(Tensor) -> std::result::Result<Tensor, E>,
) -> std::result::Result<Tensor, E> {
    if let [run] = runs
        && run.len() == block.elem_count()
    {
        return change(block.clone());
    }
    if runs.len() > MAX_RUNS {
        let index: Vec<u32> = runs.iter().cloned().flatten().map(|at| at as u32).collect();
        let index = Tensor::new(index, block.device())?;
        let changed = change(block.index_select(&index, 0)?)?;
        return Ok(block.scatter(&index, &changed, 0)?);
    }
    let parts = runs.iter().map(|run| block.narrow(0, run.start, run.len())).collect::<Result<Vec<_>>>()?;
    let changed = change(Tensor::cat(&parts, 0)?)?;
    let result = block.copy()?;
    let mut from = 0;
    for run in runs {
        result.slice_set(&changed.narrow(0, from, run.len())?.copy()?, 0, run.start)?;
        from += run.len();
    }
    Ok(result)
}

/// `w`, which begins at `position` of `W`, with a piece of stored numbers put in or added.
pub(super) fn put(w: &Tensor, position: usize, piece: Piece<'_>) -> Result<Tensor> {
    let (device, wide) = (w.device(), w.dtype());
    match piece {
        Piece::Run { at, element, bytes, factor } => {
            let stored = upload(bytes, element, wide, device)?;
            let at = at - position..at - position + stored.elem_count();
            if at.is_empty() {
                return Ok(w.clone());
            }
            on_runs(w, &[at], |before| match factor {
                None => Ok(stored),
                Some(factor) => before + (stored * factor)?,
            })
        }
        Piece::Points { at, values, factor } => {
            let index: Vec<u32> = at.iter().map(|at| (at - position) as u32).collect();
            let index = Tensor::new(index, device)?;
            match factor {
                None => w.scatter(&index, &numbers(values, wide, device)?, 0),
                Some(factor) => {
                    let scaled = values.into_iter().map(|value| value * factor).collect();
                    w.scatter_add(&index, &numbers(scaled, wide, device)?, 0)
                }
            }
        }
    }
}
