//! Convolutions.

use super::change::{Change, Factors};
use super::mix::Shared;
use super::row::{Beside, Changes, add, sum};
use super::vector::AdaptedVector;
use candle_core::{Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

/// A convolution and what adapters add to it. Its input is `[batch, in, height, width]`.
#[derive(Clone, Debug)]
pub struct AdaptedConv2d {
    /// `[out, in / groups, height, width]`
    weight: Tensor,
    config: Conv2dConfig,
    changes: Changes,
    bias: AdaptedVector,
}

impl AdaptedConv2d {
    pub(super) fn new(
        layer: Conv2d,
        changes: Vec<Option<Change>>,
        bias: AdaptedVector,
        mix: Shared,
    ) -> Result<Self> {
        let changes = Changes::new(changes, mix);
        Ok(Self { weight: layer.weight().clone(), config: *layer.config(), changes, bias })
    }

    fn convolve(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let Conv2dConfig { padding, stride, dilation, groups, .. } = self.config;
        x.to_dtype(weight.dtype())?.conv2d(weight, padding, stride, dilation, groups)
    }

    /// `left·right` as a convolution to the rank's channels and one of 1 × 1 behind it. Every group of inputs has all of these channels, as the
    /// rows of `W` of every group are made of them.
    fn product(&self, x: &Tensor, (left, right): &(Tensor, Tensor)) -> Result<Tensor> {
        let (_, inner, height, width) = self.weight.dims4()?;
        let (out, rank) = left.dims2()?;
        let groups = self.config.groups;
        let narrow = right.reshape((rank, inner, height, width))?.repeat((groups, 1, 1, 1))?;
        let wide = left.reshape((out, rank, 1, 1))?;
        self.convolve(x, &narrow)?.conv2d(&wide, 0, 1, 1, groups)
    }
}

impl Beside for AdaptedConv2d {
    fn changes(&self) -> &Changes {
        &self.changes
    }

    fn delta(&self, change: &Change, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let Factors { product, row, column } = match change {
            Change::Dense(delta) => return self.convolve(x, delta),
            Change::Factors(factors) => factors,
        };
        let mut parts = Vec::new();
        if let Some(product) = product {
            parts.push(self.product(x, product)?);
        }
        if let Some(row) = row {
            let gains = row.reshape((row.dim(0)?, 1, 1))?;
            parts.push(y.to_dtype(row.dtype())?.broadcast_mul(&gains)?);
        }
        if let Some(column) = column {
            let (_, inner, height, width) = self.weight.dims4()?;
            let gains = column.reshape((inner, height, width))?;
            let weight = self.weight.to_dtype(column.dtype())?.broadcast_mul(&gains)?;
            parts.push(self.convolve(x, &weight)?);
        }
        sum(parts, y)
    }
}

impl Module for AdaptedConv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let mix = self.changes.mix();
        let y = add(self, &mix, &x, self.convolve(&x, &self.weight)?)?;
        self.bias.add_to(&mix, y, 1)
    }
}
