//! Linear layers of experts, whose weights lie in one tensor.

use super::change::{Change, Factors};
use super::mix::{Mix, Shared};
use candle_core::{D, Result, Tensor, bail};
use std::collections::BTreeMap;

/// The linear layers of experts and what adapters add to them.
#[derive(Clone, Debug)]
pub struct AdaptedExperts {
    /// `[experts, out, in]`
    weight: Tensor,
    changes: Vec<Option<Change>>,
    mix: Shared,
}

/// An adapter and the bits of its weight, a key to sort by.
type Acting = Option<(usize, u64)>;

impl AdaptedExperts {
    pub(super) fn new(weight: &Tensor, changes: Vec<Option<Change>>, mix: Shared) -> Result<Self> {
        let dims = weight.dims3()?;
        for change in changes.iter().flatten() {
            let found = match change {
                Change::Dense(delta) => delta.dims3()?,
                Change::Factors(Factors { product: Some((left, right)), row: None, column: None }) => {
                    (left.dim(0)?, left.dim(1)?, right.dim(D::Minus1)?)
                }
                Change::Factors(_) => bail!("an adapter scales the rows of a stack of experts as one matrix"),
            };
            if found != dims {
                bail!("an adapter makes {found:?} of a stack of experts of {dims:?}");
            }
        }
        Ok(Self { weight: weight.clone(), changes, mix })
    }

    /// For each token the outputs of the experts that it goes to, `[batch, seq, chosen, out]`. `experts`, U32, `[batch, seq, chosen]`, names
    /// them; `x` is `[batch, seq, in]`, or `[batch, seq, chosen, in]` where each expert has an input of its own.
    ///
    /// # Errors
    /// An expert that there is not; other extents; a batch of other rows than the mix names.
    pub fn forward(&self, x: &Tensor, experts: &Tensor) -> Result<Tensor> {
        let (batch, seq, chosen) = experts.dims3()?;
        let width = x.dim(D::Minus1)?;
        let x = match x.rank() {
            3 => x.unsqueeze(2)?.broadcast_as((batch, seq, chosen, width))?.contiguous()?,
            _ => x.contiguous()?,
        };
        let flat = x.reshape((batch * seq * chosen, width))?;
        let mix = self.mix.get();
        let mut groups: BTreeMap<(usize, Acting), Vec<u32>> = BTreeMap::new();
        for (at, expert) in experts.flatten_all()?.to_vec1::<u32>()?.into_iter().enumerate() {
            let expert = expert as usize;
            if expert >= self.weight.dim(0)? {
                bail!("a token goes to expert {expert} of {}", self.weight.dim(0)?);
            }
            let acting = match &*mix {
                Mix::Same(_) => None,
                Mix::Rows(rows) if rows.len() != batch => {
                    bail!("the mix names adapters for {} rows, the batch has {batch}", rows.len())
                }
                Mix::Rows(rows) => {
                    rows[at / (seq * chosen)].map(|(adapter, weight)| (adapter, weight.to_bits()))
                }
            };
            groups.entry((expert, acting)).or_default().push(at as u32);
        }
        let (mut order, mut outputs) = (vec![0_u32; flat.dim(0)?], Vec::new());
        let mut done = 0;
        for ((expert, acting), tokens) in groups {
            for token in &tokens {
                order[*token as usize] = done;
                done += 1;
            }
            let x = flat.index_select(&Tensor::new(tokens, flat.device())?, 0)?;
            outputs.push(self.through(expert, &x, (&mix, acting))?);
        }
        if outputs.is_empty() {
            return Tensor::zeros((batch, seq, chosen, self.weight.dim(1)?), flat.dtype(), flat.device());
        }
        let sorted = Tensor::cat(&outputs, 0)?;
        let order = Tensor::new(order, flat.device())?;
        sorted.index_select(&order, 0)?.reshape((batch, seq, chosen, self.weight.dim(1)?))
    }

    /// `x`, `[tokens, in]`, through one expert and what acts beside it.
    fn through(&self, expert: usize, x: &Tensor, (mix, acting): (&Mix, Acting)) -> Result<Tensor> {
        let weight = self.weight.get(expert)?;
        let mut y = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
        let acting: Vec<(usize, f64)> = match mix {
            Mix::Same(weights) => weights.iter().copied().enumerate().collect(),
            Mix::Rows(_) => {
                acting.map(|(adapter, weight)| (adapter, f64::from_bits(weight))).into_iter().collect()
            }
        };
        for (adapter, weight) in acting {
            let delta = match self.changes.get(adapter) {
                Some(Some(change)) if weight != 0.0 => delta(change, expert, x)?,
                _ => continue,
            };
            y = (y.to_dtype(delta.dtype())? + (delta * weight)?)?.to_dtype(y.dtype())?;
        }
        Ok(y)
    }
}

/// What a change adds to the outputs of one expert.
fn delta(change: &Change, expert: usize, x: &Tensor) -> Result<Tensor> {
    let times = |x: &Tensor, matrix: &Tensor| x.to_dtype(matrix.dtype())?.matmul(&matrix.t()?);
    match change {
        Change::Dense(delta) => times(x, &delta.get(expert)?),
        Change::Factors(Factors { product: Some((left, right)), .. }) => {
            times(&times(x, &right.get(expert)?)?, &left.get(expert)?)
        }
        Change::Factors(_) => bail!("an adapter scales the rows of a stack of experts as one matrix"),
    }
}
