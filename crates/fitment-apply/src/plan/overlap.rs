//! Elements that two adapters set.

use super::step::{Action, Elements, Share, Step, Values};
use crate::region::Region;
use std::ops::Range;

/// Where two `set` steps meet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    /// Flat position in the stored tensor of the first common element, or of the first that differs.
    pub(super) position: usize,
    /// Whether all common elements have the same bits.
    pub(super) equal: bool,
}

/// A run of the stored tensor and where its values begin, in elements.
#[derive(Clone, Debug)]
struct Stretch {
    run: Range<usize>,
    value: usize,
}

/// The set steps of a share.
pub(super) fn sets<'s, 'a>(share: &'s Share<'a>) -> impl Iterator<Item = (&'s Region, &'s Values<'a>)> {
    share.steps.iter().filter_map(|step| match &step.action {
        Action::Set(values) => Some((&step.region, values)),
        Action::LowRank(_)
        | Action::Add(_)
        | Action::Put(_)
        | Action::Scatter { .. }
        | Action::Restore(_) => None,
    })
}

/// Elements that both adapters set, one of them singly. What the later one puts to the same bits as the earlier one is
/// left out there; the first element that cannot be left out is given, and whether the bits are equal.
pub(super) fn settle_elements(earlier: &Share<'_>, later: &mut Share<'_>) -> Option<Overlap> {
    let mut fault: Option<Overlap> = None;
    let mut keep = |position: usize, equal: bool| {
        if fault.as_ref().is_none_or(|fault| (equal, position) < (fault.equal, fault.position)) {
            fault = Some(Overlap { position, equal });
        }
    };
    let whole = earlier.weight == 1.0 && later.weight == 1.0;
    for step in &mut later.steps {
        match &mut step.action {
            Action::Put(elements) => {
                let mut shared = Vec::new();
                elements.for_each_in(0..usize::MAX, |position, at| {
                    let Some(bits) = set_bits(earlier, position) else { return };
                    let equal = bits == elements.value.bits_at(at, 1);
                    if equal && whole { shared.push(at) } else { keep(position, equal) }
                });
                elements.skip.extend(shared);
            }
            Action::Set(values) => {
                for piece in stretches(&step.region, values) {
                    puts(earlier).for_each(|elements| {
                        elements.for_each_in(piece.run.clone(), |position, at| {
                            let ours = values.value.bits_at(piece.value + (position - piece.run.start), 1);
                            keep(position, ours == elements.value.bits_at(at, 1));
                        });
                    });
                }
            }
            Action::LowRank(_) | Action::Add(_) | Action::Scatter { .. } | Action::Restore(_) => {}
        }
    }
    fault
}

fn puts<'s, 'a>(share: &'s Share<'a>) -> impl Iterator<Item = &'s Elements<'a>> {
    share.steps.iter().filter_map(|step| match &step.action {
        Action::Put(elements) => Some(elements),
        _ => None,
    })
}

/// What the share sets at a position.
fn set_bits<'a>(share: &Share<'a>, position: usize) -> Option<&'a [u8]> {
    let mut bits = None;
    puts(share).for_each(|elements| {
        elements.for_each_in(position..position + 1, |_, at| bits = Some(elements.value.bits_at(at, 1)));
    });
    for (region, values) in sets(share) {
        let inside = stretches(region, values).into_iter().find(|stretch| stretch.run.contains(&position));
        bits =
            inside.map(|found| values.value.bits_at(found.value + (position - found.run.start), 1)).or(bits);
    }
    bits
}

/// Where both set elements; `None` when they do not meet.
pub(super) fn overlap(a: (&Region, &Values<'_>), b: (&Region, &Values<'_>)) -> Option<Overlap> {
    let same_dtype = a.1.value.dtype == b.1.value.dtype;
    let mut first = None;
    for (ours, theirs) in meetings(&stretches(a.0, a.1), &stretches(b.0, b.1)) {
        let (start, len) = (ours.run.start, ours.run.len());
        first = first.or(Some(start));
        if !same_dtype || a.1.value.bits_at(ours.value, len) != b.1.value.bits_at(theirs, len) {
            return Some(Overlap { position: start, equal: false });
        }
    }
    first.map(|position| Overlap { position, equal: true })
}

/// Takes out of `later` what `earlier` sets too. `false` when rows would have to be cut.
pub(super) fn drop_common(earlier: (&Region, &Values<'_>), later: &mut Step<'_>) -> bool {
    let Action::Set(values) = &mut later.action else { return true };
    let ours = stretches(earlier.0, earlier.1);
    let theirs = stretches(&later.region, values);
    let common: usize = meetings(&ours, &theirs).map(|(stretch, _)| stretch.run.len()).sum();
    if common == theirs.iter().map(|stretch| stretch.run.len()).sum::<usize>() {
        values.rows = Some(Vec::new());
        return true;
    }
    let (Some(rows), true, true) = (&mut values.rows, earlier.0.is_whole(), later.region.is_whole()) else {
        return false;
    };
    match &earlier.1.rows {
        None => {
            let end = earlier.0.extents().first().copied().unwrap_or(0);
            rows.retain(|(row, _)| *row >= end);
        }
        Some(set) => rows.retain(|(row, _)| set.binary_search_by_key(row, |(row, _)| *row).is_err()),
    }
    true
}

/// Pairs of a common run, with its place in `a`'s values, and its place in `b`'s.
fn meetings<'s>(a: &'s [Stretch], b: &'s [Stretch]) -> impl Iterator<Item = (Stretch, usize)> + 's {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
            let run = x.run.start.max(y.run.start)..x.run.end.min(y.run.end);
            if x.run.end <= y.run.end {
                i += 1;
            } else {
                j += 1;
            }
            if !run.is_empty() {
                let value = x.value + (run.start - x.run.start);
                let theirs = y.value + (run.start - y.run.start);
                return Some((Stretch { run, value }, theirs));
            }
        }
        None
    })
}

fn stretches(region: &Region, values: &Values<'_>) -> Vec<Stretch> {
    let runs = if region.is_whole() {
        // Rows may lie beyond the end.
        std::iter::once(0..usize::MAX).collect()
    } else {
        region.locate(0..usize::MAX).map(|located| located.runs).unwrap_or_default()
    };
    let row = region.row_len();
    let pieces: Vec<Stretch> = match &values.rows {
        None => vec![Stretch { run: 0..values.value.elements(), value: 0 }],
        Some(rows) => rows
            .iter()
            .map(|(number, index)| {
                let start = usize::try_from(*number).unwrap_or(usize::MAX).saturating_mul(row);
                Stretch { run: start..start.saturating_add(row), value: index * row }
            })
            .collect(),
    };
    // `pieces` lie in W; `runs` say where W lies in the tensor.
    let mut at = 0usize;
    let in_w: Vec<Stretch> = runs
        .into_iter()
        .map(|run| {
            let start = at;
            at = at.saturating_add(run.len());
            Stretch { value: run.start, run: start..at }
        })
        .collect();
    meetings(&pieces, &in_w)
        .map(|(piece, start)| Stretch { run: start..start + piece.run.len(), value: piece.value })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Overlap, overlap};
    use crate::part::Part;
    use crate::plan::step::Values;
    use crate::region::Region;
    use fitment_core::model::{AxisSlice, IndexRange};
    use fitment_core::tensor::Dtype;

    fn values<'a>(bytes: &'a [u8], dims: &[u64], rows: Option<&[u64]>) -> Values<'a> {
        let rows = rows.map(|rows| rows.iter().copied().zip(0..).collect());
        Values { value: Part { dtype: Dtype::U8, dims: dims.to_vec(), bytes }, rows }
    }

    #[test]
    fn rows_meet_where_both_have_them() {
        let region = Region::new(&[4, 2], &[]).unwrap();
        let a = values(&[1, 2, 3, 4], &[2, 2], Some(&[0, 3]));
        let b = values(&[3, 4, 9, 9], &[2, 2], Some(&[3, 4]));
        assert_eq!(overlap((&region, &a), (&region, &b)), Some(Overlap { position: 6, equal: true }));
        let c = values(&[3, 5], &[1, 2], Some(&[3]));
        assert_eq!(overlap((&region, &a), (&region, &c)), Some(Overlap { position: 6, equal: false }));
        let d = values(&[3, 5], &[1, 2], Some(&[2]));
        assert_eq!(overlap((&region, &a), (&region, &d)), None);
    }

    #[test]
    fn slices_meet_inside_the_tensor() {
        let whole = Region::new(&[2, 4], &[]).unwrap();
        let odd = AxisSlice { axis: 1, ranges: vec![IndexRange { start: 1, end: 4, step: 2 }] };
        let sliced = Region::new(&[2, 4], &[odd]).unwrap();
        let a = values(&[0, 1, 2, 3, 4, 5, 6, 7], &[2, 4], None);
        let b = values(&[1, 3, 5, 7], &[2, 2], None);
        assert_eq!(overlap((&whole, &a), (&sliced, &b)), Some(Overlap { position: 1, equal: true }));
        let c = values(&[1, 3, 5, 8], &[2, 2], None);
        assert_eq!(overlap((&whole, &a), (&sliced, &c)), Some(Overlap { position: 7, equal: false }));
    }
}
