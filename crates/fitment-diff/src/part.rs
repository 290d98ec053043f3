use fitment_core::checkpoint::TensorInfo;
use fitment_core::model::Digest;
use fitment_core::tensor::Dtype;
use std::ops::Range;

/// What became of one tensor.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// The base's dtype, shape and digest; `None` for a new tensor.
    pub(crate) base: Option<(TensorInfo, Digest)>,
    /// The tuned checkpoint's; `None` for a removed one.
    pub(crate) tuned: Option<TensorInfo>,
    pub(crate) outcome: Outcome,
    /// The place of an earlier part, equal in the base and in the tuned checkpoint, whose tensors are stored for both.
    pub(crate) copy_of: Option<usize>,
    /// Elements with other bits, where both are of one dtype and shape.
    pub(crate) changed_elements: u64,
    pub(crate) compared_elements: u64,
    pub(crate) tuned_bytes: u64,
    pub(crate) read_bytes: u64,
}

/// Ranges are places in the spool.
#[derive(Debug)]
pub(crate) enum Outcome {
    Unchanged,
    Created,
    Removed,
    /// Stored as it is.
    Replaced,
    /// The same, in another shape.
    Reshaped,
    /// Rows that change or are appended: their numbers, and the rows.
    Rows {
        numbers: Range<u64>,
        rows: Range<u64>,
        count: u64,
    },
    Bits {
        result: Digest,
        payload: Range<u64>,
    },
    /// Positions in `index`, and elements.
    Sparse {
        index: Range<u64>,
        positions: Dtype,
        values: Range<u64>,
    },
    #[cfg(feature = "svd")]
    LowRank {
        up: Range<u64>,
        down: Range<u64>,
        measured: crate::Approximated,
    },
    Add {
        delta: Range<u64>,
        dtype: Dtype,
        exceptions: Option<Exceptions>,
    },
}

#[derive(Debug)]
pub(crate) struct Exceptions {
    pub(crate) index: Range<u64>,
    pub(crate) positions: Dtype,
    pub(crate) values: Range<u64>,
}

impl Part {
    pub(crate) fn stored_bytes(&self) -> u64 {
        let len = |range: &Range<u64>| range.end - range.start;
        match &self.outcome {
            _ if self.copy_of.is_some() => 0,
            Outcome::Unchanged | Outcome::Removed => 0,
            Outcome::Created | Outcome::Replaced | Outcome::Reshaped => self.tuned_bytes,
            Outcome::Rows { numbers, rows, .. } => len(numbers) + len(rows),
            Outcome::Bits { payload, .. } => len(payload),
            Outcome::Sparse { index, values, .. } => len(index) + len(values),
            #[cfg(feature = "svd")]
            Outcome::LowRank { up, down, .. } => len(up) + len(down),
            Outcome::Add { delta, exceptions, .. } => {
                let exceptions = exceptions.as_ref().map_or(0, |e| len(&e.index) + len(&e.values));
                len(delta) + exceptions
            }
        }
    }
}
