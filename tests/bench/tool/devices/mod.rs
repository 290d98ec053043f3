//! What `tests/gpu` reports: a device against the processor, in the numbers that a user of either has.

mod apply;
mod base;
mod copies;
mod unmerged;

use candle_core::{DType, Device, Tensor};
use fitment_candle::device::Name;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A device, and how much is asked of it.
struct Place {
    name: Name,
    device: Device,
    /// Rounds of each measurement, of which the median counts.
    rounds: usize,
}

/// Prints every table. With `quick`, of one layer of the smaller shape, to see that all of it runs; `folder` is on the disk that is measured.
pub(crate) fn run(name: &str, folder: &Path, quick: bool) -> Result<()> {
    let name: Name = name.parse()?;
    let place = Place { name, device: name.open()?, rounds: if quick { 1 } else { 5 } };
    println!(
        "device: {name}{}",
        if name == Name::Cpu { ", which is this processor through candle" } else { "" }
    );
    copies::report(&place, folder, quick)?;
    apply::report(&place, quick)?;
    unmerged::report(&place, quick)
}

impl Place {
    /// The median of the seconds that `work` takes, its kernels finished; the first, in which they are loaded, does not count.
    fn seconds(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..=self.rounds {
            let begin = Instant::now();
            work()?;
            self.device.synchronize()?;
            times.push(begin.elapsed().as_secs_f64());
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().ok_or_else(|| "no rounds".into())
    }

    /// The dtype of a model's weights there: candle's products of 16 bits are slow on the processor.
    fn dtype(&self) -> DType {
        if self.name == Name::Cpu { DType::F32 } else { DType::BF16 }
    }

    /// A matrix of small numbers that differ.
    fn matrix(&self, rows: u64, columns: u64) -> Result<Tensor> {
        let numbers = Tensor::rand(-0.05_f32, 0.05, (rows as usize, columns as usize), &self.device)?;
        Ok(numbers.to_dtype(self.dtype())?)
    }
}

/// Gigabytes a second.
fn speed(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / 1e9 / seconds
}
