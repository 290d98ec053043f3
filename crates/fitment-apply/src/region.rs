//! Where the elements of `W`, a slice of a stored tensor, lie in that tensor.

use fitment_core::model::{AxisSlice, IndexRange};
use std::ops::Range;

/// The part of a stored tensor that an edit addresses.
///
/// Indices of a slice ascend on every axis, so walking the stored tensor in order meets the elements of `W` in `W`'s
/// order: a contiguous block of the one holds a contiguous block of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    dims: Vec<u64>,
    axes: Vec<Option<Ranges>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges {
    /// Each with the number of indices before it.
    ranges: Vec<(IndexRange, u64)>,
    len: u64,
}

/// The elements of `W` inside a block of the stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// Flat position in `W` of the first one.
    pub(crate) first: usize,
    /// Runs of them inside the block, in order.
    pub(crate) runs: Vec<Range<usize>>,
}

impl Located {
    /// The positions in `W`.
    pub(crate) fn range(&self) -> Range<usize> {
        self.first..self.first + self.runs.iter().map(ExactSizeIterator::len).sum::<usize>()
    }

    /// The runs inside the block that hold the positions `wanted` of `W`, in order.
    pub(crate) fn runs_of(&self, wanted: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let wanted = wanted.clone();
        let mut at = self.first;
        self.runs.iter().filter_map(move |run| {
            let here = at..at + run.len();
            at = here.end;
            let common = here.start.max(wanted.start)..here.end.min(wanted.end);
            let offset = |position: usize| run.start + (position - here.start);
            (!common.is_empty()).then(|| offset(common.start)..offset(common.end))
        })
    }
}

impl Region {
    /// The slice of a tensor of these extents, whose element count fits in memory.
    ///
    /// # Errors
    /// What is wrong with the slice.
    pub(crate) fn new(dims: &[u64], slice: &[AxisSlice]) -> Result<Self, String> {
        let mut axes = vec![None; dims.len()];
        for part in slice {
            let axis = usize::try_from(part.axis).ok().filter(|axis| *axis < dims.len());
            let Some(axis) = axis else {
                return Err(format!("the slice has axis {}, the tensor {} axes", part.axis, dims.len()));
            };
            if axes[axis].is_some() {
                return Err(format!("the slice names axis {axis} twice"));
            }
            axes[axis] = Some(Ranges::new(part, dims[axis])?);
        }
        Ok(Self { dims: dims.to_vec(), axes })
    }

    /// The extents of `W`, before any transposition.
    pub fn extents(&self) -> Vec<u64> {
        let extent = |(dim, axis): (&u64, &Option<Ranges>)| axis.as_ref().map_or(*dim, |ranges| ranges.len);
        self.dims.iter().zip(&self.axes).map(extent).collect()
    }

    /// The indices of an axis that `W` has, ascending; `None` for all of them.
    pub fn indices(&self, axis: usize) -> Option<Vec<u64>> {
        let ranges = self.axes.get(axis)?.as_ref()?;
        let each = |(range, _): &(IndexRange, u64)| (range.start..range.end).step_by(range.step as usize);
        Some(ranges.ranges.iter().flat_map(each).collect())
    }

    /// Whether `W` is the whole tensor.
    pub fn is_whole(&self) -> bool {
        self.axes.iter().all(Option::is_none)
    }

    /// Elements of one index of `W`'s first axis.
    pub(crate) fn row_len(&self) -> usize {
        self.extents().iter().skip(1).map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).product()
    }

    /// Number of elements of `W`.
    pub fn elements(&self) -> u64 {
        self.extents().iter().product()
    }

    /// As [`Region::locate`], where rows that are being appended belong to a whole tensor too.
    pub(crate) fn locate_unbounded(&self, block: Range<usize>) -> Option<Located> {
        if !self.is_whole() {
            return self.locate(block);
        }
        let runs = std::iter::once(0..block.len()).collect();
        (!block.is_empty()).then_some(Located { first: block.start, runs })
    }

    /// The elements of `W` in the flat block `block` of the stored tensor; `None` when there is none.
    pub(crate) fn locate(&self, block: Range<usize>) -> Option<Located> {
        let total = usize::try_from(self.dims.iter().product::<u64>()).unwrap_or(usize::MAX);
        let block = block.start.min(total)..block.end.min(total);
        if block.is_empty() {
            return None;
        }
        let Some(last) = self.axes.iter().rposition(Option::is_some) else {
            return Some(Located { first: block.start, runs: std::iter::once(0..block.len()).collect() });
        };
        self.locate_sliced(&block, last)
    }

    fn locate_sliced(&self, block: &Range<usize>, last: usize) -> Option<Located> {
        let size = |dim: u64| usize::try_from(dim).unwrap_or(usize::MAX);
        let inner: usize = self.dims[last + 1..].iter().map(|dim| size(*dim)).product();
        let line = size(self.dims[last]) * inner;
        let ranges = self.axes[last].as_ref().expect("the last sliced axis is sliced");
        let mut located = Located { first: 0, runs: Vec::new() };
        for outer in block.start / line..block.end.div_ceil(line) {
            let Some(line_of_w) = self.outer_index(outer as u64, last) else { continue };
            let start = outer * line;
            let cut = block.start.max(start) - start..block.end.min(start + line) - start;
            let before = size(line_of_w) * size(ranges.len) * inner;
            ranges.for_runs(&cut, inner, |run, position| {
                if located.runs.is_empty() {
                    located.first = before + position;
                }
                let run = start + run.start - block.start..start + run.end - block.start;
                match located.runs.last_mut() {
                    Some(previous) if previous.end == run.start => previous.end = run.end,
                    _ => located.runs.push(run),
                }
            });
        }
        (!located.runs.is_empty()).then_some(located)
    }

    /// The position in `W` of an index over the axes before `last`, when the slice has it.
    fn outer_index(&self, mut index: u64, last: usize) -> Option<u64> {
        let mut position = 0;
        let mut stride = 1;
        for (dim, axis) in self.dims[..last].iter().zip(&self.axes[..last]).rev() {
            let at = index % dim;
            index /= dim;
            let (at, extent) = match axis {
                None => (at, *dim),
                Some(ranges) => (ranges.find(at)?, ranges.len),
            };
            position += at * stride;
            stride *= extent;
        }
        Some(position)
    }
}

impl Ranges {
    fn new(part: &AxisSlice, extent: u64) -> Result<Self, String> {
        let mut ranges = Vec::with_capacity(part.ranges.len());
        let (mut end, mut len) = (0, 0);
        for range in &part.ranges {
            if range.is_empty() || range.step == 0 || range.start < end || range.end > extent {
                return Err(format!(
                    "axis {}: range {range} is empty, not ascending, or beyond the extent {extent}",
                    part.axis
                ));
            }
            ranges.push((*range, len));
            end = range.end;
            len += range.len();
        }
        if ranges.is_empty() {
            return Err(format!("axis {} has no range", part.axis));
        }
        Ok(Self { ranges, len })
    }

    /// Where an index comes in the slice.
    fn find(&self, index: u64) -> Option<u64> {
        let at = self.ranges.partition_point(|(range, _)| range.end <= index);
        let (range, before) = self.ranges.get(at)?;
        let offset = index.checked_sub(range.start)?;
        offset.is_multiple_of(range.step).then(|| before + offset / range.step)
    }

    /// Calls `each` with every run of addressed elements inside `cut` of one line (elements, `inner` to an index) and
    /// the position of its first element in the line of `W`.
    fn for_runs(&self, cut: &Range<usize>, inner: usize, mut each: impl FnMut(Range<usize>, usize)) {
        let (low, high) = ((cut.start / inner) as u64, cut.end.div_ceil(inner) as u64);
        let from = self.ranges.partition_point(|(range, _)| range.end <= low);
        for (range, before) in self.ranges[from..].iter().take_while(|(range, _)| range.start < high) {
            let mut emit = |start: u64, end: u64, position: u64| {
                let (start, end) = (start as usize * inner, end as usize * inner);
                let run = start.max(cut.start)..end.min(cut.end);
                if !run.is_empty() {
                    let position = position as usize * inner + (run.start - start);
                    each(run, position);
                }
            };
            if range.step == 1 {
                emit(range.start, range.end, *before);
                continue;
            }
            let skipped = low.saturating_sub(range.start) / range.step;
            let indices =
                (range.start + skipped * range.step..range.end.min(high)).step_by(range.step as usize);
            for (index, number) in indices.zip(skipped..) {
                emit(index, index + 1, before + number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Region;
    use fitment_core::model::{AxisSlice, IndexRange};
    use proptest::prelude::*;

    fn ranges(extent: u64) -> impl Strategy<Value = Vec<IndexRange>> {
        proptest::collection::vec((0..4u64, 1..5u64, 1..4u64), 1..4).prop_filter_map(
            "no room",
            move |parts| {
                let mut at = 0;
                let mut ranges = Vec::new();
                for (gap, len, step) in parts {
                    let range = IndexRange { start: at + gap, end: (at + gap + len).min(extent), step };
                    if range.start >= range.end {
                        break;
                    }
                    at = range.end;
                    ranges.push(range);
                }
                (!ranges.is_empty()).then_some(ranges)
            },
        )
    }

    /// Every element of `W` in `W`'s order: its flat position in the tensor.
    fn written_out(dims: &[u64], slice: &[AxisSlice]) -> Vec<usize> {
        let lists: Vec<Vec<u64>> = dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| match slice.iter().find(|part| part.axis == axis as u64) {
                None => (0..*dim).collect(),
                Some(part) => part.ranges.iter().flat_map(IndexRange::indices).collect(),
            })
            .collect();
        let mut flat = vec![0u64];
        for (list, dim) in lists.iter().zip(dims) {
            flat = flat.iter().flat_map(|at| list.iter().map(move |index| at * dim + index)).collect();
        }
        flat.into_iter().map(|at| at as usize).collect()
    }

    proptest! {
        #[test]
        fn blocks_hold_what_the_slice_says(
            dims in proptest::collection::vec(1..7u64, 1..4),
            parts in (ranges(7), ranges(7), ranges(7)),
            used in 0..8u8,
            cut in (0..400usize, 0..400usize),
        ) {
            let parts = [parts.0, parts.1, parts.2];
            let slice: Vec<AxisSlice> = (0..dims.len())
                .filter(|axis| used & (1 << axis) != 0)
                .map(|axis| AxisSlice { axis: axis as u64, ranges: parts[axis].clone() })
                .filter(|part| part.ranges.iter().all(|range| range.end <= dims[part.axis as usize]))
                .collect();
            let region = Region::new(&dims, &slice).unwrap();
            let expected = written_out(&dims, &slice);
            prop_assert_eq!(region.elements() as usize, expected.len());
            let total: usize = dims.iter().product::<u64>() as usize;
            let block = cut.0.min(total)..cut.1.min(total);
            let inside: Vec<(usize, usize)> =
                expected.iter().copied().enumerate().filter(|(_, at)| block.contains(at)).collect();
            let located = region.locate(block.clone());
            let found: Vec<(usize, usize)> = located
                .iter()
                .flat_map(|located| {
                    (located.first..).zip(located.runs.iter().cloned().flatten().map(|at| at + block.start))
                })
                .collect();
            prop_assert_eq!(found, inside);
        }
    }
}
