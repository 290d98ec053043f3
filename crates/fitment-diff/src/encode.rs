//! One tensor of both checkpoints to what is stored of it.

use crate::error::Error;
use crate::part::{Outcome, Part};
use crate::spool::{Spool, Stream};
use crate::{Form, Options, rows};
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::identity::sha256;
use fitment_core::payload::Layout;
use fitment_core::tensor::Dtype;
use fitment_math::bits;
use fitment_math::not_finite;
use fitment_math::round::Element;

pub(crate) struct Context<'c> {
    pub(crate) base: &'c dyn Checkpoint,
    pub(crate) tuned: &'c dyn Checkpoint,
    pub(crate) options: &'c Options,
    pub(crate) spool: &'c dyn Spool,
}

/// Whether the two shapes differ in more than the number of rows.
pub(crate) fn reshapes(before: &TensorInfo, after: &TensorInfo) -> bool {
    match (before.shape.dims(), after.shape.dims()) {
        (old, new) if old == new => false,
        ([_, old @ ..], [_, new @ ..]) => old != new,
        _ => true,
    }
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
            copy_of: None,
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
                    match () {
                        () if reshapes(before, after) => Outcome::Reshaped,
                        () if before.dtype == after.dtype => self.other_rows(&pair)?,
                        () => Outcome::Replaced,
                    }
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
        // Whoever asks for a readable form has a reader that takes no bits.
        if self.options.form != Form::Bits && can_be_set(pair) {
            return Ok((changed, Outcome::Replaced));
        }
        let layout = Layout::for_share(changed, pair.info.shape.elements());
        let (dtype, level) = (pair.info.dtype, self.options.level);
        let pieces = bits::encode_pieces(layout, dtype, pair.base, pair.tuned, level).map_err(failed)?;
        // Spec appendix D: where nothing is won, the tensor itself is of more use.
        let is_large = pieces.byte_len() * 100 > pair.tuned.len() as u64 * 95;
        if is_large && can_be_set(pair) {
            return Ok((changed, Outcome::Replaced));
        }
        let mut payload = Stream::new(self.spool, pair.name, pieces.byte_len())?;
        pieces.iter().try_for_each(|piece| payload.extend(piece))?;
        Ok((changed, Outcome::Bits { result: sha256(pair.tuned), payload: payload.end()? }))
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
        let mut listed = Stream::new(self.spool, pair.name, numbers.len() as u64 * 8)?;
        let mut gathered = Stream::new(self.spool, pair.name, (numbers.len() * row) as u64)?;
        for number in &numbers {
            listed.extend(&(*number as i64).to_le_bytes())?;
            gathered.extend(&pair.tuned[number * row..(number + 1) * row])?;
        }
        let count = numbers.len() as u64;
        Ok(Outcome::Rows { numbers: listed.end()?, rows: gathered.end()?, count })
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

/// Whether no element is NaN or infinite: what roles of numbers must keep.
pub(crate) fn finite(dtype: Dtype, bytes: &[u8]) -> bool {
    not_finite::first(dtype, bytes).is_none()
}
