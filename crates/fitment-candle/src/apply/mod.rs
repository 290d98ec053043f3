//! A plan of `fitment-apply`, its arithmetic done by a candle device.
//!
//! Products and sums are f32 (f64 for tensors of that dtype), results are rounded once. `bits` are decoded by the processor. Tensors are worked
//! on in blocks of rows, several at the same time: while one is read, another is computed and a third one written.

mod blocks;
pub(crate) mod flat;
mod norms;

pub(crate) use blocks::{Done, OnDevice, Stop};

use crate::device::{self, Name};
use crate::error::{Error, first_line};
use fitment_apply::Plan;
use fitment_apply::device::{Blocks, Device, DeviceError, Work};
use fitment_apply::plan::Job;
use fitment_math::round::Element;

/// Memory of the device that an application takes when nothing else is said: blocks of some million elements, beyond which none gets
/// faster.
pub const DEFAULT_MEMORY: u64 = 2 << 30;

/// On the processor, where blocks should stay near its caches.
const CPU_MEMORY: u64 = 64 << 20;

/// How many tensors are worked on at the same time. More than three, as reading and digests are slower than everything else.
const IN_FLIGHT: usize = 8;

/// Numbers of the width of the sums that are alive at once for an element of a block: base, sum, product, change, result of a step.
const ALIVE: usize = 5;

/// A device that applies.
#[derive(Debug)]
pub struct Applier {
    name: Name,
    device: candle_core::Device,
    memory: usize,
}

impl Applier {
    /// Opens a device, to use so many bytes of its memory.
    ///
    /// # Errors
    /// [`Error::NotBuilt`], [`Error::Absent`].
    pub fn open(name: Name, memory: Option<u64>) -> Result<Self, Error> {
        let default = if name == Name::Cpu { CPU_MEMORY } else { DEFAULT_MEMORY };
        let memory = usize::try_from(memory.unwrap_or(default)).unwrap_or(usize::MAX);
        Ok(Self { name, device: name.open()?, memory })
    }

    /// Checks that the device can compute what the plan asks of it.
    ///
    /// # Errors
    /// [`Error::Dtype`]
    pub fn check(&self, plan: &Plan<'_>) -> Result<(), Error> {
        let mut known = Vec::new();
        for output in &plan.outputs {
            let Job::Compute(job) = &output.job else { continue };
            let from = job.base.as_ref().map(|(_, info)| info.dtype);
            for dtype in from.into_iter().chain([output.tensor.info.dtype]) {
                if known.contains(&dtype) || Element::of(dtype).is_none() {
                    continue;
                }
                if !device::can_compute(&self.device, dtype) {
                    let (name, tensor) = (self.name.to_string(), output.tensor.name.clone());
                    return Err(Error::Dtype { name, dtype, tensor });
                }
                known.push(dtype);
            }
        }
        Ok(())
    }
}

impl Device for Applier {
    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn block_elements(&self, work: &Work<'_>) -> usize {
        let wide = if OnDevice::computes_f64(work) { 8 } else { 4 };
        let element = work.source.size() + work.target.size() + ALIVE * wide;
        self.memory / IN_FLIGHT / element
    }

    fn begin<'w>(&'w self, work: &'w Work<'w>) -> Result<Box<dyn Blocks + 'w>, DeviceError> {
        Ok(Box::new(OnDevice::new(&self.device, work)?))
    }
}

/// What candle says, sorted by what can be done.
fn failed(error: candle_core::Error) -> DeviceError {
    let reason = first_line(&error);
    let lower = reason.to_lowercase();
    if lower.contains("out of memory") || lower.contains("out_of_memory") {
        DeviceError::OutOfMemory
    } else {
        DeviceError::Failed(reason)
    }
}
