//! Generated adapters against the definitions, element by element in f64.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_apply::{Input, Options};
use fitment_core::model::{Adapter, Edit, ExpertRange};
use fitment_core::tensor::Dtype;
use proptest::prelude::*;
use support::generated::{Wish, dims, dtype, edit, wish};
use support::oracle::{self, Dense};
use support::{NAME, adapter, add, base_bytes, checkpoint, input, lora, noise, spacing};

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
