//! Convolutions.

use super::change::{Change, Factors};
use super::mix::Shared;
use super::row::{Beside, add, sum};
use super::vector::AdaptedVector;
use candle_core::{Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

/// A convolution and what adapters add to it. Its input is `[batch, in, height, width]`.
#[derive(Clone, Debug)]
pub struct AdaptedConv2d {
    /// `[out, in / groups, height, width]`
    weight: Tensor,
    config: Conv2dConfig,
    changes: Vec<Option<Change>>,
    bias: AdaptedVector,
    mix: Shared,
}

impl AdaptedConv2d {
    pub(super) fn new(
        layer: Conv2d,
        changes: Vec<Option<Change>>,
        bias: AdaptedVector,
        mix: Shared,
    ) -> Result<Self> {
        Ok(Self { weight: layer.weight().clone(), config: *layer.config(), changes, bias, mix })
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
    fn acts(&self, adapter: usize) -> bool {
        self.changes.get(adapter).is_some_and(Option::is_some)
    }

    fn delta(&self, adapter: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self.changes.get(adapter).and_then(Option::as_ref) {
            None => y.zeros_like(),
            Some(Change::Dense(delta)) => self.convolve(x, delta),
            Some(Change::Factors(Factors { product, row, column })) => {
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
    }
}

impl Module for AdaptedConv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let mix = self.mix.get();
        let y = add(self, &mix, &x, self.convolve(&x, &self.weight)?)?;
        self.bias.add_to(&mix, y, 1)
    }
}
