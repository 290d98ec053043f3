//! `apply` of a LoRA to every linear module of a model, its base neither read from a disk nor written to one.

use super::base::{Factors, LARGE, Model, Nowhere, SMALL, Synthetic};
use super::{Place, Result, speed};
use candle_core::{DType, Tensor};
use fitment_apply::{Input, Options, Plan, execute, execute_on};
use fitment_candle::apply::Applier;
use fitment_core::checkpoint::{Checkpoint, CheckpointSink};
use fitment_core::model::Adapter;
use fitment_core::tensor::Dtype;
use fitment_tests::compare::{Distance, distance};
use fitment_tests::sink::Sink;
use std::sync::atomic::AtomicBool;

/// Prints seconds and effective speed of processor and device, and how far their results are apart.
pub(super) fn report(place: &Place, quick: bool) -> Result<()> {
    println!("\napply of r = 16 to all linear modules, tensor by tensor (GB/s of bytes read and written)");
    println!("  shape   layers   processor          device             ratio   compared with the processor");
    let models: &[&Model] = if quick { &[&SMALL] } else { &[&SMALL, &LARGE] };
    for model in models {
        let layers = if quick { 1 } else { model.layers };
        let base = Synthetic::new(model.modules(layers))?;
        let factors = Factors::new(3);
        let adapter = factors.adapter(model.modules(layers))?;
        let applier = Applier::open(place.name, None)?;
        let bytes = 2 * base.tensors().values().map(|info| 2 * info.shape.elements()).sum::<u64>();
        let here = place.seconds(|| applied(&adapter, &base, None, &Nowhere))?;
        let there = place.seconds(|| applied(&adapter, &base, Some(&applier), &Nowhere))?;
        println!(
            "  {:<7} {layers:>6} {here:>8.3} s {:>6.1} {there:>10.3} s {:>6.1} {:>9.2}   {}",
            model.name,
            speed(bytes, here),
            speed(bytes, there),
            here / there,
            apart(model, &factors, &applier)?
        );
    }
    alone(place, if quick { &SMALL } else { &LARGE })
}

fn applied(
    adapter: &Adapter<'_>,
    base: &dyn Checkpoint,
    device: Option<&Applier>,
    sink: &dyn CheckpointSink,
) -> Result<()> {
    let inputs = [Input { adapter, weight: 1.0, name: "adapter".to_owned() }];
    let plan = Plan::new(&inputs, base, &Options::default())?;
    let cancel = AtomicBool::new(false);
    match device {
        None => execute(&plan, base, sink, &|_| {}, &cancel)?,
        Some(device) => execute_on(device, &plan, (base, sink), &|_| {}, &cancel)?,
    };
    Ok(())
}

/// Of the modules of one layer.
fn apart(model: &Model, factors: &Factors, applier: &Applier) -> Result<String> {
    let base = Synthetic::new(model.modules(1))?;
    let adapter = factors.adapter(model.modules(1))?;
    let (here, there) = (Sink::new(&base), Sink::new(&base));
    applied(&adapter, &base, None, &here)?;
    applied(&adapter, &base, Some(applier), &there)?;
    let (here, there) = (here.into_written(), there.into_written());
    let mut all = Distance::default();
    for (name, ours) in &there {
        let one = distance(Dtype::BF16, ours, &here[name], Some(&base.read(name)?));
        all.elements += one.elements;
        all.different += one.different;
        all.ulps = all.ulps.max(one.ulps);
    }
    let share = 1e6 * all.different as f64 / all.elements.max(1) as f64;
    Ok(format!("{share:.1} of a million differ, by at most {:.2} units in the last place", all.ulps))
}

/// The arithmetic of the largest matrix without the way there and back, by the kernels that `apply` takes on a device.
fn alone(place: &Place, model: &Model) -> Result<()> {
    let largest = model.linear.iter().max_by_key(|(_, rows, columns)| rows * columns);
    let (_, rows, columns) = *largest.ok_or("a model without modules")?;
    let weight = place.matrix(rows, columns)?.to_dtype(DType::BF16)?;
    let factor = |rows, columns| {
        Ok::<Tensor, Box<dyn std::error::Error>>(place.matrix(rows, columns)?.to_dtype(DType::F32)?)
    };
    let (up, down) = (factor(rows, crate::model::RANK)?, factor(crate::model::RANK, columns)?);
    let seconds = place.seconds(|| {
        (weight.to_dtype(DType::F32)? + up.matmul(&down)?)?.to_dtype(DType::BF16)?;
        Ok(())
    })?;
    let copy = place.seconds(|| {
        weight.copy()?;
        Ok(())
    })?;
    let bytes = 4 * rows * columns;
    println!(
        "  the arithmetic of {rows} x {columns} alone, on the device: {:.1} GB/s, {:.1} times as long as a copy",
        speed(bytes, seconds),
        seconds / copy
    );
    println!(
        "  (goal on a device of the H100's class: reading, arithmetic and writing within 1.5 times the way of the bytes to it and back)"
    );
    Ok(())
}
