//! Orders in which toolchains list the rows of attention's projections. The weights are the same, and so is the model.

use fitment_core::model::IndexRange;

/// Where the rows of each part stand in a whole in which the parts take turns, `groups` times: ranges in the order of the part's own rows.
/// `sizes` is how many rows each part has in all. `None` when they do not come out even.
pub(crate) fn in_turns(sizes: &[u64], groups: u64) -> Option<Vec<Vec<IndexRange>>> {
    let even = |size: &u64| size.checked_div(groups).filter(|one| one * groups == *size && *one > 0);
    let turns: Vec<u64> = sizes.iter().map(even).collect::<Option<_>>()?;
    let turn = turns.iter().try_fold(0u64, |sum, size| sum.checked_add(*size))?;
    turn.checked_mul(groups)?;
    let mut before = 0;
    let mut places = Vec::with_capacity(sizes.len());
    for size in turns {
        let place = |group: u64| {
            let start = group * turn + before;
            IndexRange { start, end: start + size, step: 1 }
        };
        places.push((0..groups).map(place).collect());
        before += size;
    }
    Some(places)
}

/// How other tools list the rows that transformers has otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// The halves of each head in turn: row `h·d + 2i + j` is transformers' `h·d + j·d/2 + i`, `d` rows in a head. Rotary
    /// positions turn neighbours there, and halves in transformers (`LlamaModel.permute` of llama.cpp).
    HalvesInTurn {
        /// How many heads.
        heads: u64,
    },
    /// All queries, all keys, all values; in transformers each group has its queries, one key and one value
    /// (GPT-NeoX, BLOOM: each head is a group; Falcon).
    PartsTogether {
        /// How many groups: one for each head of keys.
        groups: u64,
        /// Heads of queries in a group.
        queries: u64,
    },
}

impl RowOrder {
    /// How many heads there are in all, of queries, keys and values.
    pub(crate) fn heads(self) -> u64 {
        match self {
            RowOrder::HalvesInTurn { heads } => heads,
            RowOrder::PartsTogether { groups, queries } => groups.saturating_mul(queries.saturating_add(2)),
        }
    }

    /// The row of transformers for each row of the other order; `None` when so many rows do not fall into such heads.
    pub(crate) fn sources(self, rows: u64) -> Option<Vec<usize>> {
        let rows = usize::try_from(rows).ok()?;
        let divided = |by: u64| {
            let by = usize::try_from(by).ok()?;
            rows.checked_div(by).filter(|part| part.checked_mul(by) == Some(rows))
        };
        match self {
            RowOrder::HalvesInTurn { heads } => {
                let half = divided(heads.checked_mul(2)?)?;
                let place = |row: usize| {
                    let (head, inside) = (row / (2 * half), row % (2 * half));
                    head * 2 * half + (inside % 2) * half + inside / 2
                };
                Some((0..rows).map(place).collect())
            }
            RowOrder::PartsTogether { groups, queries } => {
                let width = divided(groups.checked_mul(queries.checked_add(2)?)?)?;
                let keys = groups.checked_mul(u64::try_from(width).ok()?)?;
                let parts = in_turns(&[keys.checked_mul(queries)?, keys, keys], groups)?;
                let rows = parts.iter().flatten().flat_map(IndexRange::indices);
                rows.map(|row| usize::try_from(row).ok()).collect()
            }
        }
    }
}

/// The order that undoes another: where `sources` has `j` at `i`, it has `i` at `j`.
pub(crate) fn undone(sources: &[usize]) -> Vec<usize> {
    let mut undone = vec![0; sources.len()];
    for (row, source) in sources.iter().enumerate() {
        if let Some(place) = undone.get_mut(*source) {
            *place = row;
        }
    }
    undone
}

#[cfg(test)]
mod tests {
    use super::{RowOrder, in_turns, undone};

    #[test]
    fn halves_of_a_head_alternate() {
        let order = RowOrder::HalvesInTurn { heads: 2 };
        assert_eq!(order.sources(8).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(order.sources(12).unwrap()[..6], [0, 3, 1, 4, 2, 5]);
        assert_eq!((order.sources(6), RowOrder::HalvesInTurn { heads: 0 }.sources(4)), (None, None));
    }

    #[test]
    fn parts_of_groups_come_together() {
        let order = RowOrder::PartsTogether { groups: 2, queries: 1 };
        assert_eq!(order.sources(12).unwrap(), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        let grouped = RowOrder::PartsTogether { groups: 2, queries: 2 };
        assert_eq!(grouped.sources(8).unwrap(), [0, 1, 4, 5, 2, 6, 3, 7]);
        assert_eq!(grouped.sources(9), None);
        assert_eq!(RowOrder::PartsTogether { groups: u64::MAX, queries: 3 }.sources(9), None);
    }

    #[test]
    fn parts_take_turns() {
        let shown = |groups| {
            let parts = in_turns(&[8, 4, 4], groups).unwrap();
            parts
                .iter()
                .map(|ranges| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(1), ["0:8", "8:12", "12:16"]);
        assert_eq!(shown(2), ["0:4,8:12", "4:6,12:14", "6:8,14:16"]);
        assert!(in_turns(&[8, 4, 4], 3).is_none() && in_turns(&[8, 4, 4], 0).is_none());
    }

    #[test]
    fn an_order_is_undone() {
        let order = RowOrder::PartsTogether { groups: 3, queries: 2 }.sources(24).unwrap();
        let back = undone(&order);
        assert!(order.iter().enumerate().all(|(row, source)| back[*source] == row));
    }
}
