//! Hidden states between candle and ndarray.

use super::interventions::Error;
use candle_core::{Device, Result, Tensor, WithDType};
use fitment_apply::hidden::{Inputs, Pass, SitePlan};
use fitment_core::model::Site;
use fitment_math::intervention::State;
use fitment_math::ndarray::Array3;
use std::collections::BTreeMap;

/// Applies a plan to states of one dtype.
pub(super) fn apply<S: State + WithDType>(
    plan: &SitePlan<'_>,
    (states, kept): (&Tensor, &BTreeMap<Site, Tensor>),
    pass: &Pass<'_>,
) -> Result<Tensor> {
    let mut changed = array::<S>(states)?;
    let wanted = plan.input_sites();
    let read = kept.iter().filter(|(site, _)| wanted.contains(site));
    let read: Vec<(Site, Array3<S>)> =
        read.map(|(site, states)| Ok((site.clone(), array::<S>(states)?))).collect::<Result<_>>()?;
    let inputs: Inputs<'_, S> = read.iter().map(|(site, states)| (site.clone(), states.view())).collect();
    plan.apply(changed.view_mut(), &inputs, pass).map_err(Error::Hidden).map_err(candle_core::Error::wrap)?;
    let numbers: Vec<S> = changed.into_iter().collect();
    Tensor::from_vec(numbers, states.dims3()?, states.device())
}

fn array<S: WithDType>(states: &Tensor) -> Result<Array3<S>> {
    let numbers = states.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<S>()?;
    Array3::from_shape_vec(states.dims3()?, numbers).map_err(candle_core::Error::wrap)
}
