use super::Error;
use fitment_math::ndarray::ArrayView2;

/// One forward pass: which columns hold tokens, and where each row's tokens stand in its text.
#[derive(Clone, Debug)]
pub struct Pass<'p> {
    mask: ArrayView2<'p, bool>,
    seen: Vec<u64>,
    prompt: Vec<u64>,
}

impl<'p> Pass<'p> {
    /// The whole prompt in one pass. `mask` is the attention mask, `[batch, seq]`: true for tokens, false for padding, on
    /// whichever side that is.
    pub fn prompt(mask: ArrayView2<'p, bool>) -> Self {
        let prompt = counts(mask);
        Self { seen: vec![0; prompt.len()], prompt, mask }
    }

    /// Pass number `step` of a generation with a cache, one token in each row: 1 is the first behind the prompt's, whose rows
    /// had `prompt` tokens. `mask`, `[batch, 1]`, is false for rows that have ended.
    ///
    /// # Errors
    /// As [`Pass::new`].
    pub fn decode(mask: ArrayView2<'p, bool>, prompt: &[u64], step: u64) -> Result<Self, Error> {
        let behind = step.saturating_sub(1);
        let seen: Vec<u64> = prompt.iter().map(|prompt| prompt.saturating_add(behind)).collect();
        Self::new(mask, &seen, prompt)
    }

    /// Any pass: in row `k`, `seen[k]` tokens came before the first one here, and the prompt has `prompt[k]`. Serves a prompt that
    /// comes in several passes, and generation without a cache, where `seen` is 0 and the mask is that of prompt and answer.
    ///
    /// # Errors
    /// [`Error::Rows`] when the three differ in their number of rows.
    pub fn new(mask: ArrayView2<'p, bool>, seen: &[u64], prompt: &[u64]) -> Result<Self, Error> {
        for (what, found) in [("seen", seen.len()), ("prompt", prompt.len())] {
            if found != mask.nrows() {
                return Err(Error::Rows { what, expected: mask.nrows(), found });
            }
        }
        Ok(Self { mask, seen: seen.to_vec(), prompt: prompt.to_vec() })
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.mask.nrows(), self.mask.ncols()]
    }

    /// The columns of a row that hold tokens, in order.
    pub(super) fn columns(&self, row: usize) -> Vec<usize> {
        let row = self.mask.row(row);
        row.iter().enumerate().filter(|(_, is_token)| **is_token).map(|(column, _)| column).collect()
    }

    /// Tokens of a row before this pass, and those of its prompt.
    pub(super) fn place(&self, row: usize) -> (u64, u64) {
        (self.seen[row], self.prompt[row])
    }
}

fn counts(mask: ArrayView2<'_, bool>) -> Vec<u64> {
    mask.outer_iter().map(|row| row.iter().filter(|is_token| **is_token).count() as u64).collect()
}
