//! Where `apply` computes: here, or on a device of candle's.

use crate::args::Apply;
use crate::console::Failure;
use anyhow::anyhow;
use fitment_apply::{Error, Outcome, Plan};
use fitment_core::checkpoint::{Checkpoint, CheckpointSink};
use std::sync::atomic::AtomicBool;

/// The executor of `fitment-apply`, or a device.
pub(crate) enum Chosen {
    Processor,
    #[cfg(feature = "candle")]
    Device(fitment_candle::apply::Applier),
}

impl Chosen {
    /// Opens what `--device` names.
    pub(crate) fn open(args: &Apply) -> Result<Self, Failure> {
        if args.device != "cpu" {
            return other(args);
        }
        match args.device_memory {
            None => Ok(Chosen::Processor),
            Some(_) => Err(Failure::from(anyhow!("--device-memory: `--device cpu` takes what it needs"))),
        }
    }

    /// Checks that everything in the plan can be computed there.
    #[cfg_attr(
        not(feature = "candle"),
        allow(unused_variables, reason = "the processor computes every dtype")
    )]
    pub(crate) fn check(&self, plan: &Plan<'_>) -> Result<(), Failure> {
        match self {
            Chosen::Processor => Ok(()),
            #[cfg(feature = "candle")]
            Chosen::Device(device) => device.check(plan).map_err(|error| {
                Failure::from(error).hint("--dtype writes another dtype; --device cpu computes all of them")
            }),
        }
    }

    pub(crate) fn execute(
        &self,
        plan: &Plan<'_>,
        (base, sink): (&dyn Checkpoint, &dyn CheckpointSink),
        progress: &(dyn Fn(u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Outcome, Error> {
        match self {
            Chosen::Processor => fitment_apply::execute(plan, base, sink, progress, cancel),
            #[cfg(feature = "candle")]
            Chosen::Device(device) => fitment_apply::execute_on(device, plan, (base, sink), progress, cancel),
        }
    }
}

#[cfg(feature = "candle")]
fn other(args: &Apply) -> Result<Chosen, Failure> {
    use fitment_candle::{Error, apply::Applier};
    let opened = args.device.parse().and_then(|name| Applier::open(name, args.device_memory));
    opened.map(Chosen::Device).map_err(|error| {
        let hint = match &error {
            Error::NotBuilt { feature, .. } => Some(format!("cargo install --path cli --features {feature}")),
            _ => None,
        };
        let failure = Failure::from(anyhow!("--device {error}"));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

#[cfg(not(feature = "candle"))]
fn other(args: &Apply) -> Result<Chosen, Failure> {
    let failure =
        Failure::from(anyhow!("--device {}: this build computes on the processor only", args.device));
    Err(failure
        .hint("`cargo install --path cli --features cuda` (or metal, or candle) makes one with devices"))
}
