//! Generated adapters against the definitions, element by element in f64.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_apply::{Input, Options};
use fitment_core::model::{
    Adapter, AxisSlice, Edit, Exceptions, ExpertRange, IndexRange, LoraForm, Magnitude, NormOf, SetDtype,
};
use fitment_core::tensor::Dtype;
use proptest::prelude::*;
use support::oracle::{self, Dense};
use support::{adapter, add, base_bytes, checkpoint, input, lora, noise, set, tensor};

const NAME: &str = "m.weight";

/// What an edit is like, before it meets a tensor.
#[derive(Clone, Debug)]
struct Wish {
    kind: u8,
    rank: u64,
    transposed: bool,
    magnitude: Option<(u64, bool)>,
    sliced: u8,
    dtype: Dtype,
    seed: u64,
}

fn wish() -> impl Strategy<Value = Wish> {
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
fn edit(wish: &Wish, dims: &[u64]) -> Edit<'static> {
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

/// The distance of two neighbours of `value` in a dtype.
fn spacing(dtype: Dtype, value: f64) -> f64 {
    let (digits, least) = match dtype {
        Dtype::BF16 => (7, -126),
        Dtype::F16 => (10, -14),
        Dtype::F32 => (23, -126),
        _ => (52, -1022),
    };
    let exponent = if value == 0.0 { least } else { (value.abs().log2().floor() as i32).max(least) };
    2f64.powi(exponent - digits)
}

fn check(
    dtype: Dtype,
    dims: &[u64],
    files: &[(Vec<Wish>, f64)],
    base_seed: u64,
) -> Result<(), TestCaseError> {
    let base = noise(dtype, dims, base_seed);
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let base_file = checkpoint(&bytes);
    let adapters: Vec<Adapter<'static>> = files
        .iter()
        .map(|(wishes, _)| adapter(wishes.iter().map(|wish| edit(wish, dims)).collect()))
        .collect();
    let inputs: Vec<Input<'_>> =
        adapters.iter().zip(files).map(|(adapter, (_, weight))| input(adapter, *weight)).collect();
    let plan = match fitment_apply::Plan::new(&inputs, &base_file, &Options::default()) {
        Ok(plan) => plan,
        Err(refusal) => {
            let only_sets = refusal
                .culprits()
                .iter()
                .all(|culprit| matches!(culprit, fitment_apply::Culprit::SetTwice { .. }));
            prop_assert!(only_sets && files.len() > 1, "{refusal}");
            return Ok(());
        }
    };
    let (written, _) = support::run(&plan, &base_file);
    let edits: Vec<(&[Edit<'_>], f64)> = adapters
        .iter()
        .zip(files)
        .map(|(adapter, (_, weight))| (adapter.edits.as_slice(), *weight))
        .collect();
    let expected = oracle::apply(&Dense::of(&base), &edits, None);
    let found = &written[NAME];
    prop_assert_eq!(found.info.dtype, dtype);
    // Sums of a few products of numbers below 2, divided by norms of at least an eighth.
    let size = expected.values.iter().fold(1.0f64, |max, value| max.max(value.abs()));
    let slack = size * 1e-12;
    for (at, (found, expected)) in found.values().iter().zip(&expected.values).enumerate() {
        let bound = spacing(dtype, expected.abs().max(1e-3)) * 0.5 + slack;
        prop_assert!((found - expected).abs() <= bound, "element {at}: {found}, expected {expected}");
    }
    Ok(())
}

fn dims() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        40 => proptest::collection::vec(1..7u64, 1..5),
        // Longer than a block, and rows longer than a block.
        1 => Just(vec![40, 1000]),
        1 => Just(vec![2, 34_000]),
    ]
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![Just(Dtype::BF16), Just(Dtype::F16), Just(Dtype::F32), Just(Dtype::F64)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn one_adapter_does_what_its_edits_say(
        dtype in dtype(), dims in dims(), wishes in proptest::collection::vec(wish(), 1..4),
        weight in prop_oneof![Just(1.0), Just(-0.5), Just(0.0), Just(1.5)], seed: u64,
    ) {
        check(dtype, &dims, &[(wishes, weight)], seed)?;
    }

    #[test]
    fn several_adapters_are_summed(
        dtype in dtype(), dims in dims(),
        files in proptest::collection::vec(
            (proptest::collection::vec(wish(), 1..3), prop_oneof![Just(1.0), Just(0.25), Just(-2.0)]), 2..4),
        seed: u64,
    ) {
        check(dtype, &dims, &files, seed)?;
    }
}

#[test]
fn a_bundle_changes_each_expert_by_its_own_factors() {
    let names = ["e.2.w", "e.3.w", "e.4.w"];
    let tensors: Vec<_> =
        names.iter().zip(7..).map(|(name, seed)| (*name, noise(Dtype::F64, &[3, 4], seed))).collect();
    let bytes = base_bytes(&tensors);
    let mut lora = lora("e.{e}.w", 0.5, noise(Dtype::F32, &[3, 3, 2], 1), noise(Dtype::F32, &[3, 2, 4], 2));
    lora.target.experts = Some(ExpertRange { start: 2, end: 5 });
    let mut dense = add("e.{e}.w", 2.0, noise(Dtype::F32, &[3, 3, 4], 3));
    dense.target.experts = lora.target.experts;
    let adapter = adapter(vec![Edit::Lora(lora), Edit::Add(dense)]);
    let written = support::apply_one(&adapter, &checkpoint(&bytes));
    for (expert, (name, base)) in tensors.iter().enumerate() {
        let expected = oracle::apply(&Dense::of(base), &[(&adapter.edits, 1.0)], Some(expert));
        for (found, expected) in written[*name].values().iter().zip(&expected.values) {
            assert!((found - expected).abs() < 1e-12);
        }
    }
}
