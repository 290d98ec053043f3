//! One tensor of both checkpoints to what is stored of it.

use crate::error::Error;
use crate::part::{Exceptions, Outcome, Part};
use crate::spool::Spool;
use crate::{Form, Options, rows};
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::identity::sha256;
use fitment_core::payload::Layout;
use fitment_core::tensor::Dtype;
use fitment_math::bits;
use fitment_math::not_finite;
use fitment_math::round::{Element, decode, encode};
use std::ops::Range;

pub(crate) struct Context<'c> {
    pub(crate) base: &'c dyn Checkpoint,
    pub(crate) tuned: &'c dyn Checkpoint,
    pub(crate) options: &'c Options,
    pub(crate) spool: &'c dyn Spool,
}

/// The error about a tensor that no edit can make of the base's.
pub(crate) fn reshaped(base: &dyn Checkpoint, tuned: &dyn Checkpoint, name: &str) -> Option<Error> {
    let (before, after) = (base.tensors().get(name)?, tuned.tensors().get(name)?);
    let (old, new) = (before.shape.dims(), after.shape.dims());
    let rows_only = old.len() == new.len() && !old.is_empty() && old[1..] == new[1..];
    (old != new && !rows_only).then(|| Error::Reshaped {
        name: name.to_owned(),
        base: before.shape.clone(),
        tuned: after.shape.clone(),
    })
}

/// Both sides of a tensor that both checkpoints have.
pub(crate) struct Pair<'p> {
    pub(crate) name: &'p str,
    pub(crate) info: &'p TensorInfo,
    pub(crate) base: &'p [u8],
    pub(crate) tuned: &'p [u8],
}

impl Context<'_> {
    pub(crate) fn part(&self, name: &str) -> Result<Part, Error> {
        let (before, after) = (self.base.tensors().get(name), self.tuned.tensors().get(name));
        let old = before.map(|_| self.base.read(name)).transpose().map_err(Error::Base)?;
        let new = after.map(|_| self.tuned.read(name)).transpose().map_err(Error::Tuned)?;
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| bytes.len() as u64);
        let mut part = Part {
            name: name.to_owned(),
            base: before.cloned().zip(old.as_deref().map(sha256)),
            tuned: after.cloned(),
            outcome: Outcome::Removed,
            changed_elements: 0,
            compared_elements: 0,
            tuned_bytes: len(new.as_deref()),
            read_bytes: len(old.as_deref()) + len(new.as_deref()),
        };
        part.outcome = match (before, after, old, new) {
            (Some(before), Some(after), Some(old), Some(new)) => {
                let pair = Pair { name, info: after, base: &old, tuned: &new };
                if before == after {
                    part.compared_elements = after.shape.elements();
                    let (changed, outcome) = self.same_form(&pair)?;
                    part.changed_elements = changed;
                    outcome
                } else {
                    storable(&pair)?;
                    if before.dtype == after.dtype { self.other_rows(&pair)? } else { Outcome::Replaced }
                }
            }
            (None, Some(info), _, Some(new)) => {
                storable(&Pair { name, info, base: &[], tuned: &new })?;
                Outcome::Created
            }
            _ => Outcome::Removed,
        };
        Ok(part)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<Range<u64>, Error> {
        self.spool.put(bytes).map_err(|source| Error::Spool { name: name.to_owned(), source })
    }

    /// Both have one dtype and shape.
    fn same_form(&self, pair: &Pair<'_>) -> Result<(u64, Outcome), Error> {
        if pair.base == pair.tuned {
            return Ok((0, Outcome::Unchanged));
        }
        let failed = |source| Error::Encode { name: pair.name.to_owned(), source };
        let changed = bits::changed(pair.info.dtype, pair.base, pair.tuned).map_err(failed)?;
        #[cfg(feature = "svd")]
        if let Some(wanted) = self.options.low_rank {
            if let Some(outcome) = self.factors(pair, wanted)? {
                return Ok((changed, outcome));
            }
            let is_set = pair.info.shape.dims().len() != 2 && self.options.form != Form::Add;
            if is_set && can_be_set(pair) {
                return Ok((changed, Outcome::Replaced));
            }
        }
        let readable = match self.options.form {
            Form::Bits => None,
            Form::Sparse => self.sparse(pair, changed)?,
            Form::Add => self.add(pair)?,
        };
        if let Some(outcome) = readable {
            return Ok((changed, outcome));
        }
        let layout = Layout::for_share(changed, pair.info.shape.elements());
        let payload = bits::encode_as(layout, pair.info.dtype, pair.base, pair.tuned, self.options.level)
            .map_err(failed)?;
        // Spec appendix D: where nothing is won, the tensor itself is of more use.
        let is_large = payload.bytes.len() as u64 * 100 > pair.tuned.len() as u64 * 95;
        if is_large && can_be_set(pair) {
            return Ok((changed, Outcome::Replaced));
        }
        let payload = self.put(pair.name, &payload.bytes)?;
        Ok((changed, Outcome::Bits { result: sha256(pair.tuned), payload }))
    }

    /// Another number of rows: those that change and those beyond the end, unless the whole is hardly more.
    fn other_rows(&self, pair: &Pair<'_>) -> Result<Outcome, Error> {
        let grows = pair.tuned.len() > pair.base.len();
        let rows = usize::try_from(pair.info.shape.dims()[0]).unwrap_or(usize::MAX);
        if !grows || Element::of(pair.info.dtype).is_none() {
            return Ok(Outcome::Replaced);
        }
        let row = pair.tuned.len() / rows.max(1);
        let numbers = rows::changed(pair.base, pair.tuned, row);
        if numbers.len() * 2 > rows {
            return Ok(Outcome::Replaced);
        }
        let listed: Vec<u8> = numbers.iter().flat_map(|number| (*number as i64).to_le_bytes()).collect();
        let gathered = rows::gathered(pair.tuned, row, &numbers);
        let count = numbers.len() as u64;
        Ok(Outcome::Rows {
            numbers: self.put(pair.name, &listed)?,
            rows: self.put(pair.name, &gathered)?,
            count,
        })
    }

    fn sparse(&self, pair: &Pair<'_>, changed: u64) -> Result<Option<Outcome>, Error> {
        let Some(element) = Element::of(pair.info.dtype) else { return Ok(None) };
        let (positions, width) = positions(pair.info);
        let size = element.size();
        if changed.saturating_mul((width + size) as u64) >= pair.tuned.len() as u64 {
            return Ok(None);
        }
        let differs = |at: &usize| pair.base[at * size..][..size] != pair.tuned[at * size..][..size];
        let places: Vec<usize> = (0..pair.tuned.len() / size).filter(differs).collect();
        let values = at_places(pair.tuned, &places, size);
        if !finite(pair.info.dtype, &values) {
            return Ok(None);
        }
        let index = self.put(pair.name, &listed(&places, positions))?;
        Ok(Some(Outcome::Sparse { index, positions, values: self.put(pair.name, &values)? }))
    }

    /// `Δ` in F32 (F64 for F64), and what the rounded sum misses.
    fn add(&self, pair: &Pair<'_>) -> Result<Option<Outcome>, Error> {
        let Some(element) = Element::of(pair.info.dtype) else { return Ok(None) };
        if !finite(pair.info.dtype, pair.base) || !finite(pair.info.dtype, pair.tuned) {
            return Ok(None);
        }
        let delta_element = if element == Element::F64 { Element::F64 } else { Element::F32 };
        let dtype = if element == Element::F64 { Dtype::F64 } else { Dtype::F32 };
        let (size, wide) = (element.size(), delta_element.size());
        let count = pair.tuned.len() / size;
        let mut delta = vec![0; count * wide];
        let mut missed = Vec::new();
        let failed = "buffers of the same number of elements";
        let mut numbers = [vec![0.0f64; BLOCK], vec![0.0f64; BLOCK], vec![0.0f64; BLOCK]];
        let mut rounded = vec![0; BLOCK * size];
        for first in (0..count).step_by(BLOCK) {
            let len = BLOCK.min(count - first);
            let [base, tuned, sum] = &mut numbers;
            let (base, tuned, sum) = (&mut base[..len], &mut tuned[..len], &mut sum[..len]);
            let stored = first * size..(first + len) * size;
            decode(element, &pair.base[stored.clone()], base).expect(failed);
            decode(element, &pair.tuned[stored.clone()], tuned).expect(failed);
            sum.iter_mut()
                .zip(tuned.iter().zip(base.iter()))
                .for_each(|(d, (tuned, base))| *d = tuned - base);
            let here = &mut delta[first * wide..(first + len) * wide];
            encode(delta_element, sum, here).expect(failed);
            // As the executor adds: the stored difference, widened, in f64, rounded once.
            decode(delta_element, here, sum).expect(failed);
            sum.iter_mut().zip(base.iter()).for_each(|(sum, base)| *sum += base);
            encode(element, sum, &mut rounded[..len * size]).expect(failed);
            let (found, wanted) = (rounded[..len * size].chunks(size), pair.tuned[stored].chunks(size));
            missed
                .extend(found.zip(wanted).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| first + at));
        }
        if !finite(dtype, &delta) {
            return Ok(None);
        }
        let exceptions = match missed.is_empty() {
            true => None,
            false => {
                let (positions, _) = positions(pair.info);
                let index = self.put(pair.name, &listed(&missed, positions))?;
                let values = self.put(pair.name, &at_places(pair.tuned, &missed, size))?;
                Some(Exceptions { index, positions, values })
            }
        };
        Ok(Some(Outcome::Add { delta: self.put(pair.name, &delta)?, dtype, exceptions }))
    }
}

/// A `set` holds no number that is not finite.
fn can_be_set(pair: &Pair<'_>) -> bool {
    Element::of(pair.info.dtype).is_none() || finite(pair.info.dtype, pair.tuned)
}

/// Only a change of bits can tell a number that is not finite: a stored weight is refused wherever it is read (E012).
fn storable(pair: &Pair<'_>) -> Result<(), Error> {
    let name = || pair.name.to_owned();
    let fault = |position| Error::NotFinite { name: name(), position };
    not_finite::first(pair.info.dtype, pair.tuned).map_or(Ok(()), |position| Err(fault(position)))
}

/// Elements in arithmetic at once.
const BLOCK: usize = 64 * 1024;

/// Dtype and width of positions: U32 wherever it reaches.
fn positions(info: &TensorInfo) -> (Dtype, usize) {
    if info.shape.elements() <= 1 << 32 { (Dtype::U32, 4) } else { (Dtype::I64, 8) }
}

fn listed(places: &[usize], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::U32 => places.iter().flat_map(|place| (*place as u32).to_le_bytes()).collect(),
        _ => places.iter().flat_map(|place| (*place as i64).to_le_bytes()).collect(),
    }
}

fn at_places(bytes: &[u8], places: &[usize], size: usize) -> Vec<u8> {
    places.iter().flat_map(|place| &bytes[place * size..(place + 1) * size]).copied().collect()
}

/// Whether no element is NaN or infinite: what roles of numbers must keep.
pub(crate) fn finite(dtype: Dtype, bytes: &[u8]) -> bool {
    not_finite::first(dtype, bytes).is_none()
}
