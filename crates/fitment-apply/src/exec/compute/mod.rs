//! Arithmetic on one tensor: decoded to f64, changed, rounded once.

mod blocks;
mod change;
mod factors;
mod lower;
mod op;
mod prepare;

pub use change::{Change, Piece};
pub use factors::Factors;
pub use lower::{Rescale, Work, WorkOp, WorkShare, WorkStep};

use super::digest::Hasher;
use super::work::Item;
use super::{Context, Error};
use crate::device::DeviceError;
use crate::plan::{Action, Compute};
use fitment_core::checkpoint::OutputTensor;
use fitment_core::model::LoraForm;
use fitment_core::tensor::Dtype;
use fitment_math::dense;
use fitment_math::not_finite;
use fitment_math::round::{Element, Encoded, EncodedMut, decode, encode};
use op::{PreparedShare, Product};
use std::borrow::Cow;

/// Elements decoded at once: with the stored bytes they stay in a core's own cache.
const BLOCK: usize = 64 * 1024;

/// Bytes written at once.
const PIECE: usize = 1 << 20;

/// Buffers that a thread uses again and again: fresh pages cost more than the arithmetic.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    base: Vec<f64>,
    total: Vec<f64>,
    share: Vec<f64>,
    gathered: Vec<f64>,
}

pub(super) fn run(
    context: &Context<'_>,
    (tensor, job): (&OutputTensor, &Compute<'_>),
    item: &Item<'_>,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    let wrong = |message: String| Error::WrongPlan { tensor: tensor.name.clone(), message };
    let element = |dtype| Element::of(dtype).ok_or_else(|| wrong(format!("{dtype} has no arithmetic here")));
    let target = element(tensor.info.dtype)?;
    let source = job.base.as_ref().map_or(Ok(target), |(_, info)| element(info.dtype))?;
    let bytes = match &job.base {
        Some((name, _)) => context.base.read(name)?,
        None => Cow::Borrowed(&[][..]),
    };
    let len = usize::try_from(tensor.info.shape.elements()).map_err(|_| wrong("is too large".to_owned()))?;
    let pass = Pass { context, tensor, item, job, bytes: &bytes, source, target, len };
    match context.device {
        Some(device) => blocks::run(&pass, device, &mut scratch.bytes),
        None => pass.run(&mut scratch.buffers, &mut scratch.bytes),
    }
}

/// One tensor on its way through.
pub(super) struct Pass<'p> {
    context: &'p Context<'p>,
    tensor: &'p OutputTensor,
    item: &'p Item<'p>,
    job: &'p Compute<'p>,
    /// The base's bytes: of a growing tensor, fewer than the result's.
    bytes: &'p [u8],
    source: Element,
    target: Element,
    /// Elements of the result.
    len: usize,
}

impl Pass<'_> {
    fn run(&self, buffers: &mut Buffers, out: &mut Vec<u8>) -> Result<(), Error> {
        let fast = prepare::fast(self)?;
        let shares = if fast.is_some() { Vec::new() } else { prepare::shares(self, buffers)? };
        let mut hasher = Hasher::new(self.item.expected);
        let (unit, size) = (self.unit(), self.target.size());
        let block = unit.max(BLOCK / unit * unit);
        let piece = block.max(PIECE / size / block * block);
        for start in (0..self.len).step_by(piece) {
            let end = self.len.min(start + piece);
            out.resize((end - start) * size, 0);
            for first in (start..end).step_by(block) {
                let last = end.min(first + block);
                let stored = self.stored_block(first, last);
                hasher.update(stored);
                let out = &mut out[(first - start) * size..(last - start) * size];
                let done = match &fast {
                    Some(fast) => self.fast_block(fast, first, stored, out),
                    None => self
                        .block(first, last - first, &shares, buffers)
                        .and_then(|()| encode(self.target, &buffers.total, out)),
                };
                done.map_err(|error| self.arithmetic(error))?;
            }
            self.check_finite(start, out)?;
            self.context.write(self.tensor, start * size, out)?;
        }
        self.finish(hasher)
    }

    /// Judges the base tensor by its digest, of which `hasher` has seen as much as the result is long.
    fn finish(&self, mut hasher: Hasher) -> Result<(), Error> {
        // A result may be smaller than the base, which is bound as a whole.
        hasher.update(self.stored_block(self.len, usize::MAX));
        match &self.job.base {
            Some((name, _)) => self.context.judge(name, hasher, self.item),
            None => Ok(()),
        }
    }

    /// Whole rows with products added to them, in one pass from bytes to bytes.
    fn fast_block(
        &self,
        fast: &Product,
        first: usize,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<(), fitment_math::Error> {
        let (mut stored, mut out) = (stored, out);
        let mut row = first / fast.columns;
        while let Some(product) = fast.experts.get(row / fast.rows).filter(|_| !out.is_empty()) {
            let local = row % fast.rows;
            let here = (fast.rows - local).min(out.len() / self.target.size() / fast.columns);
            let (bytes, rest) = stored.split_at((here * fast.columns * self.source.size()).min(stored.len()));
            let (room, behind) = out.split_at_mut(here * fast.columns * self.target.size());
            let base = Encoded { element: self.source, bytes };
            product.merge(local, base, EncodedMut { element: self.target, bytes: room })?;
            (stored, out) = (rest, behind);
            row += here.max(1);
        }
        Ok(())
    }

    /// The base's bytes of a block; fewer than the block's, or none, where the result grows.
    fn stored_block(&self, first: usize, last: usize) -> &[u8] {
        let size = self.source.size();
        let (first, last) = (first.saturating_mul(size), last.saturating_mul(size));
        &self.bytes[first.min(self.bytes.len())..last.min(self.bytes.len())]
    }

    fn decode_block(&self, first: usize, len: usize, out: &mut Vec<f64>) {
        let stored = self.stored_block(first, first + len);
        let known = stored.len() / self.source.size();
        out.resize(len, 0.0);
        decode(self.source, stored, &mut out[..known]).expect("as long as the block");
        out[known..].fill(0.0);
    }

    /// `W + Σ wᵢ·(Fᵢ(W) − W)` of a block, into `buffers.total`.
    fn block(
        &self,
        first: usize,
        len: usize,
        shares: &[PreparedShare<'_>],
        buffers: &mut Buffers,
    ) -> Result<(), fitment_math::Error> {
        self.decode_block(first, len, &mut buffers.total);
        if let [share] = shares
            && (share.additive || share.weight == 1.0)
        {
            return share.apply(first, &mut buffers.total, &mut buffers.gathered);
        }
        self.decode_block(first, len, &mut buffers.base);
        for share in shares {
            if share.additive {
                share.apply(first, &mut buffers.total, &mut buffers.gathered)?;
                continue;
            }
            buffers.share.clear();
            buffers.share.extend_from_slice(&buffers.base);
            share.apply(first, &mut buffers.share, &mut buffers.gathered)?;
            combine(&mut buffers.total, (&buffers.share, &buffers.base), share.weight)?;
        }
        Ok(())
    }

    /// Refuses a finite base value that became infinite or NaN. `bytes` are the result's from element `first` on.
    fn check_finite(&self, first: usize, bytes: &[u8]) -> Result<(), Error> {
        let dtype = self.tensor.info.dtype;
        let mut from = 0;
        while let Some(found) = not_finite::first(dtype, &bytes[from * self.target.size()..]) {
            let position = first + from + found;
            let stored = self.stored_block(position, position + 1);
            let base = self.job.base.as_ref().map(|(_, info)| info.dtype);
            // A base that is not finite itself stays so.
            if base.and_then(|dtype| not_finite::first(dtype, stored)).is_none() {
                return Err(Error::NotFinite { tensor: self.tensor.name.clone(), position, dtype });
            }
            from += found + 1;
        }
        Ok(())
    }

    /// The base's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The base tensor's dtype, in which its bytes are.
    pub(super) fn dtype(&self) -> Dtype {
        self.job.base.as_ref().map_or(self.tensor.info.dtype, |(_, info)| info.dtype)
    }

    /// The result's name.
    pub(super) fn name(&self) -> &str {
        &self.tensor.name
    }

    fn wrong(&self, message: String) -> Error {
        Error::WrongPlan { tensor: self.tensor.name.clone(), message }
    }

    fn failed(&self, error: DeviceError) -> Error {
        let tensor = || self.tensor.name.clone();
        match error {
            DeviceError::Arithmetic(source) => self.arithmetic(source),
            DeviceError::OutOfMemory | DeviceError::Failed(_) => {
                Error::Device { tensor: tensor(), source: error }
            }
        }
    }

    fn arithmetic(&self, source: fitment_math::Error) -> Error {
        Error::Arithmetic { tensor: self.tensor.name.clone(), source }
    }

    /// Blocks are cut at multiples of this, so that a low-rank step meets whole rows.
    fn unit(&self) -> usize {
        let steps = || self.job.shares.iter().flat_map(|share| &share.steps);
        let leading = |forms: &dyn Fn(LoraForm) -> bool| {
            steps().any(|step| matches!(&step.action, Action::LowRank(edit) if forms(edit.form)))
        };
        let axes = if leading(&|form| form != LoraForm::Stacked) {
            1
        } else if leading(&|form| form == LoraForm::Stacked) {
            2
        } else {
            return 1;
        };
        let dims = self.tensor.info.shape.dims();
        dims.iter().skip(axes).map(|dim| usize::try_from(*dim).unwrap_or(1)).product::<usize>().max(1)
    }
}

/// `total + w·(F(W) − W)`. Where nothing else happened and `w` is 1, the result is `F(W)` to the bit.
fn combine(
    total: &mut [f64],
    (changed, base): (&[f64], &[f64]),
    weight: f64,
) -> Result<(), fitment_math::Error> {
    if weight != 1.0 {
        return dense::add_change(total, changed, base, weight);
    }
    for ((total, base), changed) in total.iter_mut().zip(base).zip(changed) {
        if *total == *base {
            *total = *changed;
        } else {
            let mut one = [*total];
            dense::add_change(&mut one, &[*changed], &[*base], 1.0)?;
            [*total] = one;
        }
    }
    Ok(())
}
