//! Changes of single elements, and bit-exact ones.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_apply::{Error, Note, Options, Plan, execute};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::identity::sha256;
use fitment_core::model::{Bits, Edit, Origin, SparseAdd, SparseSet, Target};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::bits;
use std::sync::atomic::AtomicBool;
use support::{MemorySink, adapter, apply_one, base_bytes, checkpoint, input, name, noise, numbers, tensor};

fn target(text: &str) -> Target {
    Target::whole(name(text))
}

fn sparse_set(text: &str, index: Tensor<'static>, value: Tensor<'static>) -> Edit<'static> {
    Edit::SparseSet(SparseSet { target: target(text), index, value, origin: Origin::default() })
}

fn positions(numbers: &[f64]) -> Tensor<'static> {
    tensor(Dtype::U32, &[numbers.len() as u64], numbers)
}

/// The change of one stored tensor into another.
fn change(text: &str, base: &Tensor<'static>, tuned: &Tensor<'static>) -> Edit<'static> {
    let payload = bits::encode(base.dtype(), base.bytes(), tuned.bytes(), bits::LEVEL).unwrap();
    let shape = Shape::new(&[payload.bytes.len() as u64]).unwrap();
    Edit::Bits(Bits {
        target: target(text),
        base: sha256(base.bytes()),
        result: sha256(tuned.bytes()),
        changed: payload.changed,
        z: Tensor::owned(Dtype::U8, shape, payload.bytes).unwrap(),
        origin: Origin::default(),
    })
}

fn failure(edits: Vec<Edit<'static>>, bytes: &[u8], options: &Options) -> Error {
    let adapter = adapter(edits);
    let base = checkpoint(bytes);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base, options).unwrap();
    let sink = MemorySink::new(&base, plan.tensors());
    execute(&plan, &base, &sink, &|_| (), &AtomicBool::new(false)).unwrap_err()
}

/// Signalling NaN, negative zero, a subnormal, one: arithmetic would not keep the first.
fn odd() -> Tensor<'static> {
    let bits = [0x7f81u16, 0x8000, 0x0001, 0x3f80, 0xff80, 0x4000];
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    Tensor::owned(Dtype::BF16, Shape::new(&[3, 2]).unwrap(), bytes).unwrap()
}

#[test]
fn single_elements_are_copied_bit_by_bit_and_the_others_kept() {
    let bytes = base_bytes(&[("a", odd())]);
    for index in [positions(&[1.0, 5.0]), tensor(Dtype::I64, &[2], &[1.0, 5.0])] {
        let value = tensor(Dtype::BF16, &[2], &[-7.0, 3.0]);
        let written = apply_one(&adapter(vec![sparse_set("a", index, value.clone())]), &checkpoint(&bytes));
        let mut expected = odd().bytes().to_vec();
        expected[2..4].copy_from_slice(&value.bytes()[..2]);
        expected[10..].copy_from_slice(&value.bytes()[2..]);
        assert_eq!(written["a"].bytes, expected);
    }
}

#[test]
fn sparse_updates_are_scaled_and_rounded_once_across_blocks() {
    let count = 200_000usize;
    let bytes = base_bytes(&[("a", noise(Dtype::BF16, &[count as u64], 1))]);
    let places: Vec<f64> = (0..count).step_by(977).map(|at| at as f64).collect();
    let delta = noise(Dtype::F32, &[places.len() as u64], 2);
    let edit = SparseAdd {
        target: target("a"),
        scale: 0.5,
        index: positions(&places),
        value: delta,
        origin: Origin::default(),
    };
    let adapter = adapter(vec![Edit::SparseAdd(edit.clone())]);
    let base = checkpoint(&bytes);
    for weight in [1.0, -2.0] {
        let plan = Plan::new(&[input(&adapter, weight)], &base, &Options::default()).unwrap();
        let (written, _) = support::run(&plan, &base);
        let mut expected = support::values_of(Dtype::BF16, &base.read("a").unwrap());
        for (place, delta) in places.iter().zip(support::values_of(Dtype::F32, edit.value.bytes())) {
            expected[*place as usize] += weight * 0.5 * delta;
        }
        assert!(written["a"].bytes == support::bytes_of(Dtype::BF16, &expected));
    }
}

#[test]
fn a_tuned_tensor_comes_back_bit_for_bit() {
    let elements = (1 << 20) + 3;
    let base = noise(Dtype::BF16, &[elements], 1);
    let mut values = numbers(elements as usize, 1);
    values.iter_mut().step_by(37).for_each(|value| *value *= 1.5);
    let tuned = tensor(Dtype::BF16, &[elements], &values);
    let ids = (tensor(Dtype::I64, &[3], &[1.0, 2.0, 3.0]), tensor(Dtype::I64, &[3], &[1.0, 9.0, 3.0]));
    let rest = noise(Dtype::F32, &[4], 9);
    let plain = [("a", base.clone()), ("ids", ids.0.clone()), ("odd", odd()), ("rest", rest)];
    let mut other = odd().bytes().to_vec();
    other.reverse();
    let other = Tensor::owned(Dtype::BF16, Shape::new(&[3, 2]).unwrap(), other).unwrap();
    let bytes = base_bytes(&plain);
    let edits =
        vec![change("a", &base, &tuned), change("ids", &ids.0, &ids.1), change("odd", &odd(), &other)];
    let written = apply_one(&adapter(edits), &checkpoint(&bytes));
    for (name, expected) in [("a", &tuned), ("ids", &ids.1), ("odd", &other), ("rest", &plain[3].1)] {
        assert!(written[name].bytes == expected.bytes(), "{name}");
    }
}

#[test]
fn with_another_weight_a_change_goes_through_arithmetic_and_says_so() {
    let (base, tuned) = (noise(Dtype::BF16, &[500], 1), noise(Dtype::BF16, &[500], 2));
    let bytes = base_bytes(&[("a", base.clone())]);
    let adapter = adapter(vec![change("a", &base, &tuned)]);
    let base = checkpoint(&bytes);
    let plan = Plan::new(&[input(&adapter, 0.25)], &base, &Options::default()).unwrap();
    assert!(plan.notes.iter().any(|note| matches!(note, Note::Inexact { .. })));
    let (written, _) = support::run(&plan, &base);
    let values = |tensor: &[u8]| support::values_of(Dtype::BF16, tensor);
    let expected: Vec<f64> = values(&base.read("a").unwrap())
        .iter()
        .zip(values(tuned.bytes()))
        .map(|(w, t)| w + 0.25 * (t - w))
        .collect();
    assert_eq!(written["a"].bytes, support::bytes_of(Dtype::BF16, &expected));
    let plan =
        Plan::new(&[input(&adapter, 1.0)], &base, &Options { dtype: Some(Dtype::F32), ..Options::default() })
            .unwrap();
    assert!(plan.notes.iter().any(|note| matches!(note, Note::Inexact { .. })));
    let (written, _) = support::run(&plan, &base);
    assert_eq!(written["a"].values(), values(tuned.bytes()));
}

#[test]
fn a_wrong_base_is_refused_by_its_first_tensor_whatever_is_allowed() {
    let (base, tuned) = (noise(Dtype::BF16, &[50], 1), noise(Dtype::BF16, &[50], 2));
    let other = noise(Dtype::BF16, &[50], 3);
    let edits = || vec![change("b", &base, &tuned), change("a", &base, &tuned)];
    let bytes = base_bytes(&[("a", other.clone()), ("b", other)]);
    for allow_base_mismatch in [false, true] {
        let options = Options { allow_base_mismatch, ..Options::default() };
        let error = failure(edits(), &bytes, &options);
        assert!(matches!(&error, Error::BaseMismatch { tensors, .. } if tensors[0] == "a"), "{error}");
    }
    let bytes = base_bytes(&[("a", tuned.clone()), ("b", tuned.clone())]);
    let error = failure(edits(), &bytes, &Options::default());
    assert_eq!(error.to_string(), "already applied: a is the result of adapter, not its base");
}

#[test]
fn a_result_that_is_not_the_recorded_one_and_a_damaged_payload_are_errors() {
    let (base, tuned) = (noise(Dtype::BF16, &[50], 1), noise(Dtype::BF16, &[50], 2));
    let bytes = base_bytes(&[("a", base.clone())]);
    let Edit::Bits(sound) = change("a", &base, &tuned) else { unreachable!() };
    let wrong = Bits { result: [7; 32], ..sound.clone() };
    let error = failure(vec![Edit::Bits(wrong)], &bytes, &Options::default());
    assert!(matches!(error, Error::OtherResult { .. }), "{error}");
    let short = Tensor::owned(Dtype::U8, Shape::new(&[9]).unwrap(), sound.z.bytes()[..9].to_vec()).unwrap();
    let error = failure(vec![Edit::Bits(Bits { z: short, ..sound })], &bytes, &Options::default());
    assert!(matches!(error, Error::Payload { .. }), "{error}");
}

#[test]
fn elements_that_two_adapters_set_must_be_equal_and_count_once() {
    let bytes = base_bytes(&[("a", noise(Dtype::BF16, &[6], 1))]);
    let base = checkpoint(&bytes);
    let put = |at: &[f64], values: &[f64]| {
        adapter(vec![sparse_set("a", positions(at), tensor(Dtype::BF16, &[values.len() as u64], values))])
    };
    let (first, second) = (put(&[0.0, 3.0], &[1.0, 2.0]), put(&[3.0, 5.0], &[2.0, 4.0]));
    let inputs = [input(&first, 1.0), input(&second, 1.0)];
    let plan = Plan::new(&inputs, &base, &Options::default()).unwrap();
    let (written, _) = support::run(&plan, &base);
    let values = written["a"].values();
    assert_eq!([values[0], values[3], values[5]], [1.0, 2.0, 4.0]);
    let third = put(&[3.0], &[9.0]);
    let refusal =
        Plan::new(&[input(&first, 1.0), input(&third, 1.0)], &base, &Options::default()).unwrap_err();
    assert!(refusal.to_string().contains("element 3"), "{refusal}");
    let refusal =
        Plan::new(&[input(&first, 0.5), input(&second, 1.0)], &base, &Options::default()).unwrap_err();
    assert!(refusal.to_string().contains("element 3"), "{refusal}");
    let whole = adapter(vec![Edit::Set(support::set(
        "a",
        fitment_core::model::SetDtype::Base,
        noise(Dtype::BF16, &[6], 7),
    ))]);
    assert!(Plan::new(&[input(&first, 1.0), input(&whole, 1.0)], &base, &Options::default()).is_err());
}
