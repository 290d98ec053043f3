//! Orders in which toolchains list the rows of attention's projections. The weights are the same, and so is the model.

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
                let heads = queries.checked_add(2)?;
                let width = divided(groups.checked_mul(heads)?)?;
                let (groups, queries) = (usize::try_from(groups).ok()?, usize::try_from(queries).ok()?);
                let part = |heads: std::ops::Range<usize>| {
                    (0..groups).flat_map(move |group| {
                        let first = group * (queries + 2);
                        (first + heads.start) * width..(first + heads.end) * width
                    })
                };
                let keys = part(queries..queries + 1).chain(part(queries + 1..queries + 2));
                Some(part(0..queries).chain(keys).collect())
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
    use super::{RowOrder, undone};

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
    fn an_order_is_undone() {
        let order = RowOrder::PartsTogether { groups: 3, queries: 2 }.sources(24).unwrap();
        let back = undone(&order);
        assert!(order.iter().enumerate().all(|(row, source)| back[*source] == row));
    }
}
