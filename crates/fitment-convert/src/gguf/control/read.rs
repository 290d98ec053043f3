use super::super::container::Container;
use super::{MODEL_HINT, layer};
use crate::bind::bind;
use crate::error::Error;
use crate::read::ReadOptions;
use fitment_core::Adapter;
use fitment_core::model::{
    About, Base, Edit, Intervention, Origin, Overlap, Positions, Rounding, Site, SiteComponent, Source,
};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use std::collections::BTreeMap;

/// The role of a direction.
pub(super) const ROLE: &str = "up.bias";

/// Reads a control vector that breaks no rule: one intervention on `block_output` for each direction, everywhere, with strength 1.
///
/// # Errors
/// [`Error::Mismatch`] for a base of another size.
pub(in crate::gguf) fn read<'a>(
    container: &Container<'a>,
    source: Source<'a>,
    options: &ReadOptions<'_>,
) -> Result<Adapter<'a>, Error> {
    let hint = container.get(MODEL_HINT).and_then(|value| value.as_text());
    let mut adapter = Adapter {
        base: Base {
            architecture: hint.map(str::to_owned),
            name: options.base_name.map(str::to_owned),
            ..Base::default()
        },
        edits: edits(container)?,
        source: Some(source),
        about: About::default(),
        extra: serde_json::Map::new(),
    };
    if let Some(base) = options.base {
        bind(&mut adapter, base)?;
    }
    Ok(adapter)
}

fn edits<'a>(container: &Container<'a>) -> Result<Vec<Edit<'a>>, Error> {
    container
        .tensors
        .iter()
        .filter_map(|entry| Some((layer(&entry.name)?, entry)))
        .map(|(layer, entry)| {
            let invalid = |source| fitment_core::Error::Shape { name: entry.name.clone(), source };
            let shape = Shape::new(&[entry.bytes.len() as u64 / 4]).map_err(invalid)?;
            let direction = Tensor::borrowed(Dtype::F32, shape, entry.bytes).map_err(invalid)?;
            let keys = BTreeMap::from([(ROLE.to_owned(), entry.name.clone())]);
            Ok(Edit::Intervention(steer(layer, direction, Origin { keys, ..Origin::default() })))
        })
        .collect()
}

fn steer<'a>(layer: u64, direction: Tensor<'a>, origin: Origin) -> Intervention<'a> {
    Intervention {
        component: None,
        site: Site::Layer { layer, component: SiteComponent::BlockOutput },
        input_site: None,
        dims: None,
        scale: 1.0,
        activation: None,
        subtract: false,
        orthonormal: false,
        up: None,
        up_bias: Some(direction),
        source_weight: None,
        source_bias: None,
        proj: None,
        proj_bias: None,
        positions: Positions::EVERYWHERE,
        // llama.cpp adds up what several files say of a block; with constants any order is the same.
        overlap: Overlap::Sequential,
        rounding: Rounding::F32,
        origin,
    }
}
