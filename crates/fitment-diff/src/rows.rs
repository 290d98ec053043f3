//! Tensors with another number of rows: vocabularies that grew.

/// The rows of `tuned` that the base lacks or has otherwise; `row` is the length of one in bytes.
pub(crate) fn changed(base: &[u8], tuned: &[u8], row: usize) -> Vec<usize> {
    let old = base.chunks_exact(row);
    let kept = old.len();
    let rows = tuned.chunks_exact(row);
    let count = rows.len();
    let differing = old.zip(rows).enumerate().filter(|(_, (old, new))| old != new).map(|(number, _)| number);
    differing.chain(kept..count).collect()
}
