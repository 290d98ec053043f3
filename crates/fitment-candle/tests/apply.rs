//! Plans carried out by candle's processor device, against `fitment-apply`'s own arithmetic.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../fitment-apply/tests/support/mod.rs"]
mod support;

use fitment_apply::device::{Block, Blocks, Device, DeviceError, Work};
use fitment_apply::{Input, Options, Plan, execute_on};
use fitment_candle::apply::Applier;
use fitment_candle::device::Name;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Adapter, Edit, ExpertRange, LoraForm, Magnitude, NormOf};
use fitment_core::tensor::{Dtype, Tensor};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use support::generated::{Wish, dims, dtype, edit, wish};
use support::{
    MemorySink, NAME, Written, adapter, base_bytes, checkpoint, input, lora, noise, spacing, values_of,
};

fn run(device: &dyn Device, plan: &Plan<'_>, base: &dyn Checkpoint) -> BTreeMap<String, Written> {
    let sink = MemorySink::new(base, plan.tensors());
    execute_on(device, plan, (base, &sink), &|_| {}, &AtomicBool::new(false)).unwrap();
    sink.finish()
}

fn applier(memory: u64) -> Applier {
    Applier::open(Name::Cpu, Some(memory)).unwrap()
}

/// How many elements differ, and that none differs by more than is allowed: one unit in the last place of a 16-bit dtype, 2e-6 of the
/// largest element in f32.
fn differing(base: &Tensor<'_>, found: &Written, expected: &Written) -> Result<usize, TestCaseError> {
    prop_assert_eq!(&found.info, &expected.info);
    let dtype = found.info.dtype;
    let before = values_of(base.dtype(), base.bytes());
    let (found, expected) = (found.values(), expected.values());
    let largest = expected.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
    let mut count = 0;
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let size = before.get(at).copied().unwrap_or(0.0).abs().max(expected.abs());
        let bound = match dtype {
            Dtype::F64 => 1e-12 * largest,
            Dtype::F32 => 2e-6 * largest,
            // Sums of terms of size 1 that cancel are off by units of f32.
            _ => spacing(dtype, size) + 2e-6 * largest,
        };
        prop_assert!((found - expected).abs() <= bound, "element {at}: {found}, expected {expected}");
        count += usize::from(found.to_bits() != expected.to_bits());
    }
    Ok(count)
}

fn check(
    (dtype, dims): (Dtype, &[u64]),
    files: &[(Vec<Wish>, f64)],
    (seed, memory): (u64, u64),
) -> Result<(), TestCaseError> {
    let base = noise(dtype, dims, seed);
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let base_file = checkpoint(&bytes);
    let adapters: Vec<Adapter<'static>> = files
        .iter()
        .map(|(wishes, _)| adapter(wishes.iter().map(|wish| edit(wish, dims)).collect()))
        .collect();
    let inputs: Vec<Input<'_>> =
        adapters.iter().zip(files).map(|(adapter, (_, weight))| input(adapter, *weight)).collect();
    let Ok(plan) = Plan::new(&inputs, &base_file, &Options::default()) else { return Ok(()) };
    let (expected, _) = support::run(&plan, &base_file);
    let found = run(&applier(memory), &plan, &base_file);
    differing(&base, &found[NAME], &expected[NAME]).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_is_what_the_processor_makes_of_it(
        dtype in dtype(), dims in dims(),
        files in proptest::collection::vec(
            (proptest::collection::vec(wish(), 1..4), prop_oneof![Just(1.0), Just(0.25), Just(-2.0)]), 1..3),
        seed: u64,
        // Blocks of a few rows, or of one.
        memory in prop_oneof![Just(0_u64), Just(1 << 14), Just(64 << 20)],
    ) {
        check((dtype, &dims), &files, (seed, memory))?;
    }
}

/// A LoRA, and its DoRAs by rows and columns, as large as in a small model.
fn wide(magnitude: Option<u64>) -> Adapter<'static> {
    let (out, rank, inner) = (256, 16, 576);
    let mut edit = lora(NAME, 2.0, noise(Dtype::F32, &[out, rank], 1), noise(Dtype::F32, &[rank, inner], 2));
    edit.magnitude = magnitude.map(|axis| Magnitude {
        value: noise(Dtype::F32, &[if axis == 0 { out } else { inner }], 3),
        axis,
        norm_of: NormOf::Merged,
        eps: 0.0,
    });
    adapter(vec![Edit::Lora(edit)])
}

#[test]
fn few_elements_of_wide_tensors_differ() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64] {
        for magnitude in [None, Some(0), Some(1)] {
            let base = noise(dtype, &[256, 576], 9);
            let bytes = base_bytes(&[(NAME, base.clone())]);
            let base_file = checkpoint(&bytes);
            let adapter = wide(magnitude);
            let plan = Plan::new(&[input(&adapter, 1.0)], &base_file, &Options::default()).unwrap();
            let (expected, _) = support::run(&plan, &base_file);
            let found = run(&applier(1 << 22), &plan, &base_file);
            let differing = differing(&base, &found[NAME], &expected[NAME]).unwrap();
            let share = differing as f64 / (256.0 * 576.0);
            println!("{dtype}, magnitude along {magnitude:?}: {:.4} % differ", share * 100.0);
            assert!(matches!(dtype, Dtype::F32 | Dtype::F64) || share < 0.002, "{dtype}: {share}");
        }
    }
}

#[test]
fn each_expert_of_a_stack_gets_its_own_product() {
    let base = noise(Dtype::BF16, &[3, 8, 6], 1);
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let base_file = checkpoint(&bytes);
    let mut edit = lora(NAME, 0.5, noise(Dtype::BF16, &[3, 8, 2], 2), noise(Dtype::BF16, &[3, 2, 6], 3));
    edit.form = LoraForm::Stacked;
    let adapter = adapter(vec![Edit::Lora(edit)]);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base_file, &Options::default()).unwrap();
    let (expected, _) = support::run(&plan, &base_file);
    let found = run(&applier(0), &plan, &base_file);
    assert_eq!(differing(&base, &found[NAME], &expected[NAME]).unwrap(), 0);
}

#[test]
fn a_bundle_changes_each_tensor_by_its_own_factors() {
    let tensors = [("e.0.w", noise(Dtype::F32, &[3, 4], 1)), ("e.1.w", noise(Dtype::F32, &[3, 4], 2))];
    let bytes = base_bytes(&tensors);
    let base_file = checkpoint(&bytes);
    let mut edit = lora("e.{e}.w", 0.5, noise(Dtype::F32, &[2, 3, 2], 3), noise(Dtype::F32, &[2, 2, 4], 4));
    edit.target.experts = Some(ExpertRange { start: 0, end: 2 });
    let adapter = adapter(vec![Edit::Lora(edit)]);
    let plan = Plan::new(&[input(&adapter, 1.0)], &base_file, &Options::default()).unwrap();
    let (expected, _) = support::run(&plan, &base_file);
    let found = run(&applier(1 << 20), &plan, &base_file);
    for (name, base) in &tensors {
        differing(base, &found[*name], &expected[*name]).unwrap();
    }
}

/// A device that has room for so many elements only.
struct Small(Applier, usize);

struct SmallBlocks<'b>(Box<dyn Blocks + 'b>, usize);

impl Device for Small {
    fn in_flight(&self) -> usize {
        1
    }

    fn block_elements(&self, _: &Work<'_>) -> usize {
        usize::MAX
    }

    fn begin<'w>(&'w self, work: &'w Work<'w>) -> Result<Box<dyn Blocks + 'w>, DeviceError> {
        Ok(Box::new(SmallBlocks(self.0.begin(work)?, self.1)))
    }
}

impl Blocks for SmallBlocks<'_> {
    fn rehearsals(&self) -> usize {
        self.0.rehearsals()
    }

    fn rehearse(&mut self, number: usize, block: Block<'_>) -> Result<(), DeviceError> {
        if block.len > self.1 { Err(DeviceError::OutOfMemory) } else { self.0.rehearse(number, block) }
    }

    fn rehearsed(&mut self, number: usize) -> Result<(), DeviceError> {
        self.0.rehearsed(number)
    }

    fn block(&mut self, block: Block<'_>, out: &mut [u8]) -> Result<(), DeviceError> {
        if block.len > self.1 { Err(DeviceError::OutOfMemory) } else { self.0.block(block, out) }
    }
}

#[test]
fn blocks_get_smaller_until_they_fit_and_then_it_is_an_error() {
    let base = noise(Dtype::F32, &[256, 576], 9);
    let bytes = base_bytes(&[(NAME, base.clone())]);
    let base_file = checkpoint(&bytes);
    for magnitude in [None, Some(1)] {
        let adapter = wide(magnitude);
        let plan = Plan::new(&[input(&adapter, 1.0)], &base_file, &Options::default()).unwrap();
        let (expected, _) = support::run(&plan, &base_file);
        let found = run(&Small(applier(1 << 20), 576 * 3), &plan, &base_file);
        differing(&base, &found[NAME], &expected[NAME]).unwrap();

        let sink = MemorySink::new(&base_file, plan.tensors());
        let small = Small(applier(1 << 20), 575);
        let error =
            execute_on(&small, &plan, (&base_file, &sink), &|_| {}, &AtomicBool::new(false)).unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!((error.to_string(), reason), (NAME.to_owned(), "out of memory".to_owned()));
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_row_without_a_norm_is_refused_as_by_the_processor() {
    let zeros = support::tensor(Dtype::F32, &[256, 576], &vec![0.0; 256 * 576]);
    let bytes = base_bytes(&[(NAME, zeros)]);
    let base_file = checkpoint(&bytes);
    for axis in [0, 1] {
        let mut adapter = wide(Some(axis));
        let Edit::Lora(edit) = &mut adapter.edits[0] else { unreachable!("it is a LoRA") };
        edit.scale = 0.0;
        let plan = Plan::new(&[input(&adapter, 1.0)], &base_file, &Options::default()).unwrap();
        let sink = MemorySink::new(&base_file, plan.tensors());
        let cancel = AtomicBool::new(false);
        let ours = execute_on(&applier(1 << 20), &plan, (&base_file, &sink), &|_| {}, &cancel).unwrap_err();
        let sink = MemorySink::new(&base_file, plan.tensors());
        let theirs = fitment_apply::execute(&plan, &base_file, &sink, &|_| {}, &cancel).unwrap_err();
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}

#[test]
fn devices_have_names() {
    let parse = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
    assert_eq!(parse("cpu-candle"), Ok(Name::Cpu));
    assert_eq!(parse("cuda"), Ok(Name::Cuda(0)));
    assert_eq!(parse("metal:3"), Ok(Name::Metal(3)));
    for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu-candle:0", "cuda:99999999999999999999999"] {
        assert!(parse(wrong).unwrap_err().starts_with(&format!("{wrong}: no such device")), "{wrong}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn what_was_not_built_is_not_there() {
    let error = Applier::open(Name::Cuda(0), None).unwrap_err().to_string();
    assert_eq!(error, "cuda:0: this build has no such devices; the feature `cuda` brings them");
}
