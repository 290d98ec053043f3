//! Adapters of every kind, generated.

use super::{NAME, add, lora, noise, set, tensor};
use fitment_core::model::{AxisSlice, Edit, Exceptions, IndexRange, LoraForm, Magnitude, NormOf, SetDtype};
use fitment_core::tensor::Dtype;
use proptest::prelude::*;

/// What an edit is like, before it meets a tensor.
#[derive(Clone, Debug)]
pub struct Wish {
    kind: u8,
    rank: u64,
    transposed: bool,
    magnitude: Option<(u64, bool)>,
    sliced: u8,
    dtype: Dtype,
    seed: u64,
}

pub fn wish() -> impl Strategy<Value = Wish> {
    let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::BF16), Just(Dtype::F16), Just(Dtype::F64)];
    let magnitude = proptest::option::weighted(0.4, (0..2u64, any::<bool>()));
    (0..5u8, 1..4u64, any::<bool>(), magnitude, 0..8u8, dtype, any::<u64>()).prop_map(
        |(kind, rank, transposed, magnitude, sliced, dtype, seed)| Wish {
            kind,
            rank,
            transposed,
            magnitude,
            sliced,
            dtype,
            seed,
        },
    )
}

/// Every second index of an axis, or all but the first.
fn slice_of(dims: &[u64], sliced: u8) -> (Vec<AxisSlice>, Vec<u64>) {
    let mut extents = dims.to_vec();
    let mut slice = Vec::new();
    for (axis, dim) in dims.iter().enumerate().filter(|(axis, dim)| sliced & (1 << axis) != 0 && **dim > 1) {
        let step = if (sliced as usize + axis).is_multiple_of(2) { 2 } else { 1 };
        let range = IndexRange { start: 1, end: *dim, step };
        extents[axis] = range.len();
        slice.push(AxisSlice { axis: axis as u64, ranges: vec![range] });
    }
    (slice, extents)
}

/// An edit that fits a tensor of these extents.
pub fn edit(wish: &Wish, dims: &[u64]) -> Edit<'static> {
    let (slice, w) = slice_of(dims, wish.sliced);
    let scale = 0.75;
    let seed = wish.seed;
    let noise = |dims: &[u64], salt: u64| noise(wish.dtype, dims, seed.wrapping_add(salt));
    let mut made = match wish.kind {
        0 => Edit::Add(add(NAME, scale, noise(&w, 1))),
        1 => {
            let mut add = add(NAME, scale, noise(&w, 1));
            let count = w.iter().product::<u64>();
            let positions: Vec<f64> = (0..count).filter(|at| at % 3 == 1).map(|at| at as f64).collect();
            let n = positions.len() as u64;
            add.exceptions =
                Some(Exceptions { index: tensor(Dtype::I64, &[n], &positions), value: noise(&[n], 2) });
            Edit::Add(add)
        }
        2 => {
            let mut set = set(NAME, SetDtype::Base, noise(&w, 1));
            if wish.transposed {
                let rows: Vec<f64> = (0..w[0]).filter(|row| row % 2 == 0).map(|row| row as f64).collect();
                let n = rows.len() as u64;
                set.value = noise(&[&[n], &w[1..]].concat(), 1);
                set.rows = Some(tensor(Dtype::I64, &[n], &rows));
            }
            Edit::Set(set)
        }
        _ => {
            let r = wish.rank;
            let form = match (wish.kind, w.len()) {
                (4, 3) if wish.transposed => LoraForm::Stacked,
                (4, 3..) => LoraForm::Conv,
                _ => LoraForm::Matrix,
            };
            let mut lora = lora(NAME, scale, noise(&[1, 1], 0), noise(&[1, 1], 0));
            lora.form = form;
            let shape = match form {
                LoraForm::Matrix => {
                    lora.transposed = wish.transposed;
                    let rest: u64 = w[1..].iter().product();
                    let (out, input) = if wish.transposed { (rest, w[0]) } else { (w[0], rest) };
                    lora.up = noise(&[out, r], 1);
                    lora.down = noise(&[r, input], 2);
                    vec![out, input]
                }
                LoraForm::Stacked => {
                    lora.transposed = seed.is_multiple_of(2);
                    let (out, input) = if lora.transposed { (w[2], w[1]) } else { (w[1], w[2]) };
                    lora.up = noise(&[w[0], out, r], 1);
                    lora.down = noise(&[w[0], r, input], 2);
                    vec![]
                }
                LoraForm::Conv => {
                    let ones = vec![1; w.len() - 2];
                    lora.up = noise(&[&[w[0], r], &ones[..]].concat(), 1);
                    if seed.is_multiple_of(2) {
                        lora.down = noise(&[&[r + 1, w[1]], &ones[..]].concat(), 2);
                        lora.mid = Some(noise(&[&[r, r + 1], &w[2..]].concat(), 3));
                    } else {
                        lora.down = noise(&[&[r], &w[1..]].concat(), 2);
                    }
                    w.clone()
                }
            };
            if let (Some((axis, merged)), false) = (wish.magnitude, shape.is_empty()) {
                lora.magnitude = Some(Magnitude {
                    value: noise(&[shape[axis as usize]], 4),
                    axis,
                    norm_of: if merged { NormOf::Merged } else { NormOf::Base },
                    eps: 0.125,
                });
            }
            Edit::Lora(lora)
        }
    };
    match &mut made {
        Edit::Lora(edit) => edit.target.slice = slice,
        Edit::Add(edit) => edit.target.slice = slice,
        Edit::Set(edit) => edit.target.slice = slice,
        other => unreachable!("no {} is made here", other.kind()),
    }
    made
}

/// Extents of a tensor, rarely longer than a block of the processor.
pub fn dims() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        40 => proptest::collection::vec(1..7u64, 1..5),
        // Longer than a block, and rows longer than a block.
        1 => Just(vec![40, 1000]),
        1 => Just(vec![2, 34_000]),
    ]
}

pub fn dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::BF16), Just(Dtype::F16), Just(Dtype::F32), Just(Dtype::F64)]
}
