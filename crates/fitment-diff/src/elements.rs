//! The readable forms: single elements, and the difference as numbers. Both go to the spool block by block, and a second
//! pass over the tensor takes the place of a list in memory that would grow with it.

use crate::encode::{Context, Pair, finite};
use crate::error::Error;
use crate::part::{Exceptions, Outcome};
use crate::spool::Stream;
use fitment_core::checkpoint::TensorInfo;
use fitment_core::tensor::Dtype;
use fitment_math::round::{Element, decode, encode};

/// Elements in arithmetic at once.
const BLOCK: usize = 64 * 1024;

impl Context<'_> {
    /// Changed elements and their positions; `None` where that is no smaller than the tensor, or where one is not finite.
    pub(crate) fn sparse(&self, pair: &Pair<'_>, changed: u64) -> Result<Option<Outcome>, Error> {
        let Some(element) = Element::of(pair.info.dtype) else { return Ok(None) };
        let (size, width) = (element.size(), Positions::of(pair.info).width());
        if changed.saturating_mul((width + size) as u64) >= pair.tuned.len() as u64 {
            return Ok(None);
        }
        let changes = || pair.changes(size);
        // Most tensors are finite as a whole, which is found faster than the changes are.
        let is_kept = |(_, value): (usize, &[u8])| finite(pair.info.dtype, value);
        if !finite(pair.info.dtype, pair.tuned) && !changes().all(is_kept) {
            return Ok(None);
        }
        let mut listed = Listed::new(self, pair, changed, size)?;
        for (place, value) in changes() {
            listed.add(place, value)?;
        }
        let Exceptions { index, positions, values } = listed.end()?;
        Ok(Some(Outcome::Sparse { index, positions, values }))
    }

    /// `Δ` in F32 (F64 for F64), and what the rounded sum misses.
    pub(crate) fn add(&self, pair: &Pair<'_>) -> Result<Option<Outcome>, Error> {
        let Some(element) = Element::of(pair.info.dtype) else { return Ok(None) };
        if !finite(pair.info.dtype, pair.base) || !finite(pair.info.dtype, pair.tuned) {
            return Ok(None);
        }
        let mut sums = Sums::new(element);
        let dtype = if element == Element::F64 { Dtype::F64 } else { Dtype::F32 };
        let (size, wide) = (element.size(), sums.wide.size());
        let mut delta = Stream::new(self.spool, pair.name, (pair.tuned.len() / size * wide) as u64)?;
        let (mut missed, mut blocks_with) = (0, Vec::new());
        for (number, (base, tuned)) in pair.blocks(size).enumerate() {
            let stored = sums.difference(base, tuned);
            // A difference beyond the range; the room stays unwritten.
            if !finite(dtype, stored) {
                return Ok(None);
            }
            delta.extend(stored)?;
            let here = sums.missed(tuned).count() as u64;
            blocks_with.extend((here > 0).then_some(number));
            missed += here;
        }
        let delta = delta.end()?;
        if missed == 0 {
            return Ok(Some(Outcome::Add { delta, dtype, exceptions: None }));
        }
        let mut listed = Listed::new(self, pair, missed, size)?;
        let misses = |(number, _): &(usize, _)| blocks_with.binary_search(number).is_ok();
        for (number, (base, tuned)) in pair.blocks(size).enumerate().filter(misses) {
            sums.difference(base, tuned);
            for (place, value) in sums.missed(tuned) {
                listed.add(number * BLOCK + place, value)?;
            }
        }
        Ok(Some(Outcome::Add { delta, dtype, exceptions: Some(listed.end()?) }))
    }
}

impl<'p> Pair<'p> {
    fn blocks(&self, size: usize) -> impl Iterator<Item = (&'p [u8], &'p [u8])> {
        self.base.chunks(BLOCK * size).zip(self.tuned.chunks(BLOCK * size))
    }

    /// Positions and new values of the elements with other bits.
    fn changes(&self, size: usize) -> impl Iterator<Item = (usize, &'p [u8])> {
        let changed_blocks = self.blocks(size).enumerate().filter(|(_, (base, tuned))| base != tuned);
        changed_blocks.flat_map(move |(number, (base, tuned))| {
            let elements = base.chunks(size).zip(tuned.chunks(size)).enumerate();
            let differing = elements.filter(|(_, (base, tuned))| base != tuned);
            differing.map(move |(place, (_, value))| (number * BLOCK + place, value))
        })
    }
}

/// The arithmetic of `add` on one block.
struct Sums {
    element: Element,
    wide: Element,
    base: Vec<f64>,
    other: Vec<f64>,
    delta: Vec<u8>,
    rounded: Vec<u8>,
}

impl Sums {
    fn new(element: Element) -> Self {
        let wide = if element == Element::F64 { Element::F64 } else { Element::F32 };
        let (numbers, delta) = (|| vec![0.0; BLOCK], vec![0; BLOCK * wide.size()]);
        let rounded = vec![0; BLOCK * element.size()];
        Self { element, wide, base: numbers(), other: numbers(), delta, rounded }
    }

    /// The stored difference.
    fn difference(&mut self, base: &[u8], tuned: &[u8]) -> &[u8] {
        let failed = "buffers of the same number of elements";
        let len = tuned.len() / self.element.size();
        let (numbers, other) = (&mut self.base[..len], &mut self.other[..len]);
        decode(self.element, base, numbers).expect(failed);
        decode(self.element, tuned, other).expect(failed);
        other.iter_mut().zip(numbers.iter()).for_each(|(tuned, base)| *tuned -= base);
        let delta = &mut self.delta[..len * self.wide.size()];
        encode(self.wide, other, delta).expect(failed);
        // As the executor adds: the stored difference, widened, in f64, rounded once.
        decode(self.wide, delta, other).expect(failed);
        other.iter_mut().zip(numbers.iter()).for_each(|(sum, base)| *sum += base);
        encode(self.element, other, &mut self.rounded[..tuned.len()]).expect(failed);
        delta
    }

    /// Positions in the block and values of what the sum of the last difference misses.
    fn missed<'t>(&self, tuned: &'t [u8]) -> impl Iterator<Item = (usize, &'t [u8])> {
        let size = self.element.size();
        let found = self.rounded[..tuned.len()].chunks(size);
        let pairs = found.zip(tuned.chunks(size)).enumerate();
        pairs.filter(|(_, (found, wanted))| found != wanted).map(|(place, (_, wanted))| (place, wanted))
    }
}

/// How positions are written: as U32 wherever it reaches.
#[derive(Clone, Copy)]
struct Positions(Dtype);

impl Positions {
    fn of(info: &TensorInfo) -> Self {
        Self(if info.shape.elements() <= 1 << 32 { Dtype::U32 } else { Dtype::I64 })
    }

    fn width(self) -> usize {
        if self.0 == Dtype::U32 { 4 } else { 8 }
    }
}

/// Positions and elements on their way into the spool.
struct Listed<'s> {
    positions: Positions,
    index: Stream<'s>,
    values: Stream<'s>,
}

impl<'s> Listed<'s> {
    fn new(context: &'s Context<'_>, pair: &Pair<'s>, count: u64, size: usize) -> Result<Self, Error> {
        let positions = Positions::of(pair.info);
        let room = |width: usize| Stream::new(context.spool, pair.name, count * width as u64);
        Ok(Self { positions, index: room(positions.width())?, values: room(size)? })
    }

    fn add(&mut self, place: usize, value: &[u8]) -> Result<(), Error> {
        match self.positions.0 {
            Dtype::U32 => self.index.extend(&(place as u32).to_le_bytes())?,
            _ => self.index.extend(&(place as i64).to_le_bytes())?,
        }
        self.values.extend(value)
    }

    fn end(self) -> Result<Exceptions, Error> {
        let (index, values) = (self.index.end()?, self.values.end()?);
        Ok(Exceptions { index, positions: self.positions.0, values })
    }
}
