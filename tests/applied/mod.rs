//! What an adapter makes of a base, in memory: for tests that need the executor, which the support crate does without.
#![allow(dead_code, reason = "each test file uses one of them")]

use fitment_apply::{Input, Options, Plan, execute};
use fitment_core::Adapter;
use fitment_core::checkpoint::{Checkpoint, OutputTensor, TensorInfo};
use fitment_tests::sink::Sink;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// Dtype, shape and bytes of every tensor of a checkpoint.
pub(crate) type Applied = BTreeMap<String, (TensorInfo, Vec<u8>)>;

/// The base with a list of adapters applied, each with its weight, or why that cannot be.
pub(crate) fn applied(adapters: &[(&Adapter<'_>, f64)], base: &dyn Checkpoint) -> Result<Applied, String> {
    let inputs: Vec<Input<'_>> = adapters
        .iter()
        .map(|(adapter, weight)| Input { adapter, weight: *weight, name: "a".to_owned() })
        .collect();
    let plan = Plan::new(&inputs, base, &Options::default()).map_err(|refusal| refusal.to_string())?;
    let sink = Sink::new(base);
    execute(&plan, base, &sink, &|_| (), &AtomicBool::new(false)).map_err(|error| error.to_string())?;
    let mut written = sink.into_written();
    let output = |tensor: &OutputTensor| {
        (tensor.name.clone(), (tensor.info.clone(), written.remove(&tensor.name).unwrap_or_default()))
    };
    Ok(plan.tensors().map(output).collect())
}

/// The bytes of every tensor of the base with one adapter applied.
pub(crate) fn weights(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> BTreeMap<String, Vec<u8>> {
    let all = applied(&[(adapter, 1.0)], base).expect("the adapter fits the base");
    all.into_iter().map(|(name, (_, bytes))| (name, bytes)).collect()
}
