//! What an adapter makes of one weight, without making it: `F(W) − W` in the form that costs least to run.

use candle_core::{D, DType, Result, Tensor};

/// `F(W) − W`, `W` being read as the matrix `[rows, columns]` in which it is stored.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// `F(W) = (1 + row)·W·(1 + column) + left·right`, the two of them as diagonal matrices.
    Factors(Factors),
    /// The difference itself, of the extents of `F(W)`; more rows than `W` has where it grows.
    Dense(Tensor),
}

/// Factors of a change; of `row` and `column` there is at most one.
#[derive(Clone, Debug, Default)]
pub(super) struct Factors {
    /// `[rows, r]` and `[r, columns]`; of a stack of experts' matrices `[experts, rows, r]` and `[experts, r, columns]`.
    pub(super) product: Option<(Tensor, Tensor)>,
    /// `[rows]`
    pub(super) row: Option<Tensor>,
    /// `[columns]`
    pub(super) column: Option<Tensor>,
}

impl Factors {
    /// Adds a product.
    pub(super) fn add(&mut self, left: Tensor, right: Tensor) -> Result<()> {
        self.product = Some(match self.product.take() {
            None => (left, right),
            Some((before, below)) => {
                (Tensor::cat(&[before, left], D::Minus1)?, Tensor::cat(&[below, right], D::Minus2)?)
            }
        });
        Ok(())
    }

    /// Multiplies what has been made so far by a factor for each row.
    pub(super) fn scale_rows(&mut self, factors: &Tensor) -> Result<()> {
        if let Some((left, _)) = &mut self.product {
            *left = left.broadcast_mul(&factors.unsqueeze(1)?)?;
        }
        self.row = Some(scaled(self.row.take(), factors)?);
        Ok(())
    }

    /// Multiplies what has been made so far by a factor for each column.
    pub(super) fn scale_columns(&mut self, factors: &Tensor) -> Result<()> {
        if let Some((_, right)) = &mut self.product {
            *right = right.broadcast_mul(factors)?;
        }
        self.column = Some(scaled(self.column.take(), factors)?);
        Ok(())
    }

    /// The same of the transpose of `W`.
    fn turned(self) -> Result<Self> {
        let product = match self.product {
            None => None,
            Some((left, right)) => Some((right.t()?.contiguous()?, left.t()?.contiguous()?)),
        };
        Ok(Self { product, row: self.column, column: self.row })
    }

    fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let cast = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.to_dtype(dtype)).transpose();
        let product = match &self.product {
            None => None,
            Some((left, right)) => Some((left.to_dtype(dtype)?, right.to_dtype(dtype)?)),
        };
        Ok(Self { product, row: cast(&self.row)?, column: cast(&self.column)? })
    }
}

/// `(1 + gain)·factors − 1`
fn scaled(gain: Option<Tensor>, factors: &Tensor) -> Result<Tensor> {
    match gain {
        None => factors - 1.0,
        Some(gain) => ((gain + 1.0)? * factors)? - 1.0,
    }
}

impl Change {
    /// The same of the transpose of a matrix `W`, or of those of experts.
    pub(super) fn turned(self) -> Result<Self> {
        Ok(match self {
            Change::Factors(factors) => Change::Factors(factors.turned()?),
            Change::Dense(delta) => Change::Dense(delta.t()?.contiguous()?),
        })
    }

    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(match self {
            Change::Factors(factors) => Change::Factors(factors.to_dtype(dtype)?),
            Change::Dense(delta) => Change::Dense(delta.to_dtype(dtype)?),
        })
    }
}
