//! Runs a plan on the processor: tensor by tensor, in blocks, on all cores.

mod compute;
mod digest;
mod error;
mod patch;
mod restore;
mod work;

pub use compute::{Change, Factors, Piece, Rescale, Work, WorkOp, WorkShare, WorkStep};
pub use digest::Mismatch;
pub use error::Error;

use crate::device::Device;
use crate::plan::{Job, Plan};
use digest::{Hasher, Verdicts};
use fitment_core::checkpoint::{Checkpoint, CheckpointSink, OutputTensor};
use std::sync::atomic::{AtomicBool, Ordering};
use work::{Item, Task};

/// What an application did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tensors of the result.
    pub tensors: usize,
    /// Tensors that are not mere copies of the base's.
    pub changed: usize,
    /// Bytes of the result's tensors.
    pub bytes: u64,
    /// Base tensors whose digest was compared.
    pub checked: usize,
    /// Base tensors that are not the recorded ones, by name; only when the plan allows it.
    pub mismatches: Vec<Mismatch>,
}

/// Executes a plan. The bytes of the result depend on plan and base only, not on the number of threads.
///
/// `progress` is told how many bytes of the result have just been written, from any thread. `cancel` stops the work
/// within a block.
///
/// # Errors
/// [`Error::BaseMismatch`] when a digest differs and the plan does not allow it; [`Error::NotFinite`] when a finite base
/// value becomes infinite; [`Error::Cancelled`]; [`Error::Checkpoint`] when reading or writing fails. What was written
/// so far is worthless then.
pub fn execute(
    plan: &Plan<'_>,
    base: &dyn Checkpoint,
    sink: &dyn CheckpointSink,
    progress: &(dyn Fn(u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Outcome, Error> {
    run(plan, (base, sink, None), progress, cancel)
}

/// As [`execute`], with the arithmetic done by a device. The result may differ from that of [`execute`] in the last place.
///
/// # Errors
/// Those of [`execute`], and [`Error::Device`].
pub fn execute_on(
    device: &dyn Device,
    plan: &Plan<'_>,
    (base, sink): (&dyn Checkpoint, &dyn CheckpointSink),
    progress: &(dyn Fn(u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Outcome, Error> {
    run(plan, (base, sink, Some(device)), progress, cancel)
}

fn run(
    plan: &Plan<'_>,
    (base, sink, device): (&dyn Checkpoint, &dyn CheckpointSink, Option<&dyn Device>),
    progress: &(dyn Fn(u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Outcome, Error> {
    let stop = AtomicBool::new(false);
    let verdicts = Verdicts::default();
    let context = Context { base, sink, device, progress, cancel, stop: &stop, verdicts: &verdicts };
    let items = work::items(plan);
    let threads = device.map_or(usize::MAX, |device| device.in_flight().max(1));
    work::run(&items, (&stop, threads), |item, scratch| context.run(item, scratch))?;
    let mismatches = verdicts.into_sorted(plan);
    let is_strict = |mismatch: &Mismatch| {
        let expected = plan.digests.get(&mismatch.target);
        expected.is_some_and(|expected| expected.iter().any(|expected| expected.result.is_some()))
    };
    if mismatches.iter().any(|mismatch| !plan.allow_base_mismatch || is_strict(mismatch)) {
        return Err(digest::mismatch_error(plan, base, cancel)?);
    }
    let checked = plan.digests.len();
    Ok(Outcome {
        tensors: plan.outputs.len(),
        changed: plan.changed(),
        bytes: plan.bytes(),
        checked,
        mismatches,
    })
}

/// What every item needs.
struct Context<'c> {
    base: &'c dyn Checkpoint,
    sink: &'c dyn CheckpointSink,
    /// Does the arithmetic, if not this crate.
    device: Option<&'c dyn Device>,
    progress: &'c (dyn Fn(u64) + Sync),
    cancel: &'c AtomicBool,
    stop: &'c AtomicBool,
    verdicts: &'c Verdicts,
}

impl Context<'_> {
    fn run(&self, item: &Item<'_>, scratch: &mut compute::Scratch) -> Result<(), Error> {
        self.check_stop()?;
        match &item.task {
            Task::Verify(name) => {
                let bytes = self.base.read(name)?;
                let mut hasher = Hasher::new(item.expected);
                for block in bytes.chunks(digest::BLOCK) {
                    self.check_stop()?;
                    hasher.update(block);
                }
                self.judge(name, hasher, item)
            }
            Task::Make(output) => match &output.job {
                Job::Copy { from } => {
                    self.sink.copy(&output.tensor.name, from)?;
                    (self.progress)(byte_len(&output.tensor));
                    Ok(())
                }
                Job::Restore(job) => restore::run(self, (&output.tensor, job), item, &mut scratch.bytes),
                Job::Patch(job) => patch::run(self, (&output.tensor, job), item, &mut scratch.bytes),
                Job::Compute(job) => compute::run(self, (&output.tensor, job), item, scratch),
            },
        }
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// Whether the run is about to end with an error.
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn write(&self, tensor: &OutputTensor, at: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check_stop()?;
        self.sink.write(&tensor.name, at as u64, bytes)?;
        (self.progress)(bytes.len() as u64);
        Ok(())
    }

    /// Compares a finished digest with the expected ones. A mismatch that is not allowed ends the run.
    fn judge(&self, name: &str, hasher: Hasher, item: &Item<'_>) -> Result<(), Error> {
        let differs = self.verdicts.judge(name, hasher, item.expected);
        if differs && !item.allow_mismatch {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn byte_len(tensor: &OutputTensor) -> u64 {
    tensor.info.shape.byte_len(tensor.info.dtype).unwrap_or(0)
}
