//! A tensor whose arithmetic a device does.

use super::lower::{self, Work};
use super::{Error, Pass};
use crate::device::{Block, Blocks, Device, DeviceError};
use crate::exec::digest::Hasher;

pub(super) fn run(pass: &Pass<'_>, device: &dyn Device, out: &mut Vec<u8>) -> Result<(), Error> {
    let shares = lower::shares(pass)?;
    let size = |dim: &u64| usize::try_from(*dim).unwrap_or(usize::MAX);
    let dims = pass.tensor.info.shape.dims().iter().map(size).collect();
    let (name, source, target) = (pass.name(), pass.source, pass.target);
    let work = Work { name, dims, source, target, len: pass.len, shares };
    let unit = pass.unit();
    let mut cut = Cut { unit, block: unit.max(device.block_elements(&work) / unit * unit) };
    let mut blocks = device.begin(&work).map_err(|error| pass.failed(error))?;
    for number in 0..blocks.rehearsals() {
        let mut first = 0;
        while first < pass.len {
            let (block, ()) = cut.block(pass, first, |block| blocks.rehearse(number, block))?;
            first += block.len;
        }
        blocks.rehearsed(number).map_err(|error| pass.failed(error))?;
    }
    write(pass, &mut *blocks, &mut cut, out)
}

fn write(pass: &Pass<'_>, blocks: &mut dyn Blocks, cut: &mut Cut, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut hasher = Hasher::new(pass.item.expected);
    let size = pass.target.size();
    let mut first = 0;
    while first < pass.len {
        let (block, ()) = cut.block(pass, first, |block| {
            out.resize(block.len * size, 0);
            blocks.block(block, out)
        })?;
        hasher.update(block.stored);
        pass.check_finite(first, out)?;
        pass.context.write(pass.tensor, first * size, out)?;
        first += block.len;
    }
    pass.finish(hasher)
}

/// Blocks are cut at multiples of `unit`, and get smaller where the device has no room for them.
struct Cut {
    unit: usize,
    block: usize,
}

impl Cut {
    /// Gives `work` the block at `first`, and a smaller one as long as it is too large.
    fn block<'p, T>(
        &mut self,
        pass: &'p Pass<'_>,
        first: usize,
        mut work: impl FnMut(Block<'p>) -> Result<T, DeviceError>,
    ) -> Result<(Block<'p>, T), Error> {
        loop {
            pass.context.check_stop()?;
            let len = self.block.min(pass.len - first);
            let block = Block { first, len, stored: pass.stored_block(first, first + len) };
            match work(block) {
                Ok(done) => return Ok((block, done)),
                Err(DeviceError::OutOfMemory) if len > self.unit => {
                    self.block = self.unit.max(len / 2 / self.unit * self.unit);
                }
                Err(error) => return Err(pass.failed(error)),
            }
        }
    }
}
