//! Adapters beside the weights of a layer, a token at a time.

use super::base::{Factors, LARGE, Model, SMALL, Synthetic};
use super::{Place, Result};
use candle_core::Tensor;
use candle_nn::{Linear, Module};
use fitment_apply::Input;
use fitment_candle::unmerged::{AdaptedLinear, Adapters, Mix};

/// Prints what adapters cost for a token, for batches of one and of many rows, each row with the next adapter in turn.
pub(super) fn report(place: &Place, quick: bool) -> Result<()> {
    let model = if quick { SMALL } else { LARGE };
    println!(
        "\nunmerged r = 16 beside all linear modules of one layer of the {} shape, {:?}",
        model.name,
        place.dtype()
    );
    println!("  batch   adapters   plain us/token   with adapters   overhead");
    for adapters in [1, 8, 64] {
        let layer = Layer::new(place, &model, adapters)?;
        for batch in [1, 32] {
            let (plain, adapted) = layer.measure(place, batch)?;
            let each = |seconds: f64| seconds * 1e6 / batch as f64;
            println!(
                "  {batch:>5} {adapters:>10} {:>16.1} {:>15.1} {:>9.1} %",
                each(plain),
                each(adapted),
                100.0 * (adapted / plain - 1.0)
            );
        }
    }
    Ok(())
}

struct Layer {
    plain: Vec<Linear>,
    adapted: Vec<AdaptedLinear>,
    adapters: Adapters,
}

impl Layer {
    fn new(place: &Place, model: &Model, adapters: usize) -> Result<Self> {
        let base = Synthetic::new(model.modules(1))?;
        let factors: Vec<Factors> = (0..adapters).map(|seed| Factors::new(seed as u64)).collect();
        let models =
            factors.iter().map(|factors| factors.adapter(model.modules(1))).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<Input<'_>> =
            models.iter().map(|adapter| Input { adapter, weight: 1.0, name: "adapter".to_owned() }).collect();
        let mut loaded = Adapters::load(&inputs, &base, &place.device)?.with_dtype(place.dtype());
        let (mut plain, mut adapted) = (Vec::new(), Vec::new());
        for (path, rows, columns) in model.modules(1) {
            let weight = Linear::new(place.matrix(rows, columns)?, None);
            adapted.push(loaded.linear(&path, weight.clone())?);
            plain.push(weight);
        }
        loaded.check_all_taken()?;
        Ok(Self { plain, adapted, adapters: loaded })
    }

    /// Seconds of one token of each row, without and with adapters.
    fn measure(&self, place: &Place, batch: usize) -> Result<(f64, f64)> {
        let rows = (0..batch).map(|row| Some((row % self.adapters.len(), 1.0))).collect();
        self.adapters.set(Mix::Rows(rows))?;
        let inputs = self.plain.iter().map(|layer| {
            let width = layer.weight().dim(1)? as u64;
            Ok(place.matrix(batch as u64, width)?.unsqueeze(1)?)
        });
        let inputs = inputs.collect::<Result<Vec<Tensor>>>()?;
        let plain = place.seconds(|| through(&self.plain, &inputs))?;
        Ok((plain, place.seconds(|| through(&self.adapted, &inputs))?))
    }
}

fn through<L: Module>(layers: &[L], inputs: &[Tensor]) -> Result<()> {
    for (layer, input) in layers.iter().zip(inputs) {
        layer.forward(input)?;
    }
    Ok(())
}
