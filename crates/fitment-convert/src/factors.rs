//! Low-rank products by the names of transformers' classes, as an adapter: what readers share whose files hold nothing else.

use crate::bind::bind;
use crate::error::Error;
use crate::loss::Loss;
use crate::names::{Fit, Names, Want, resolve};
use crate::read::ReadOptions;
use crate::tying::{flag_scales_logits, is_head_module, is_vocabulary_module};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{
    AxisSlice, Base, BaseTensor, ConfigEdit, ConfigValue, Edit, IndexRange, Lora, LoraForm, Magnitude,
    NormOf, Origin, Source, Target, TensorName,
};
use fitment_core::tensor::{Shape, Tensor};
use serde_json::Map;
use std::collections::BTreeMap;

/// One product `scale·up·down` on a weight `[out, in]`, or on some of its rows.
#[derive(Clone, Debug)]
pub(crate) struct Factors<'a> {
    /// The module in the class; its `weight` is changed.
    pub(crate) module: String,
    /// The whole weight's extents.
    pub(crate) dims: [u64; 2],
    /// Of which rows it is, in their order; empty for all.
    pub(crate) rows: Vec<IndexRange>,
    /// `[rows, r]`.
    pub(crate) up: Tensor<'a>,
    /// `[r, in]`.
    pub(crate) down: Tensor<'a>,
    /// DoRA's: one element for each row, whose norm is that of the merged weight.
    pub(crate) magnitude: Option<Tensor<'a>>,
    pub(crate) scale: f64,
    pub(crate) origin: Origin,
}

/// What is known of the model beside the products.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// The name that the files have for it.
    pub(crate) name: Option<String>,
    /// Whether its head is its embedding, where something other than the base says so.
    pub(crate) is_tied: Option<bool>,
}

/// An adapter of these products, each module with one or with several on other rows. On a tied head it is of the head alone.
///
/// # Errors
/// [`Error::Ambiguous`] without a base for a head that may be tied; those of a base that does not fit.
pub(crate) fn adapter<'a>(
    factors: Vec<Factors<'a>>,
    source: Source<'a>,
    model: Model,
    options: &ReadOptions<'_>,
) -> Result<(Adapter<'a>, Vec<Loss>), Error> {
    let mut adapter = Adapter {
        base: Base { name: options.base_name.map(str::to_owned).or(model.name), ..Base::default() },
        source: Some(source),
        ..Adapter::default()
    };
    let mut losses = Vec::new();
    match options.base {
        Some(base) => {
            let wants: Vec<Want> = factors.iter().map(want).collect();
            let names = resolve(&wants, base)?;
            losses.extend(renamed(&wants, &names));
            let mut unties = false;
            for one in factors {
                let (target, is_apart) = place(&one, &names, base)?;
                unties |= is_apart;
                adapter.edits.push(Edit::Lora(lora(one, target)));
            }
            if unties {
                let value = ConfigValue::TieWordEmbeddings(false);
                adapter.edits.push(Edit::Config(ConfigEdit {
                    component: None,
                    value,
                    origin: Origin::default(),
                }));
            }
            let targets: Vec<String> =
                adapter.edits.iter().filter_map(|edit| Some(edit.target()?.name.to_string())).collect();
            adapter.base.tied = names.other_uses(targets.iter().map(String::as_str))?;
            bind(&mut adapter, base)?;
        }
        None => {
            let mut expected = BTreeMap::new();
            for one in factors {
                refuse_head(&one, model.is_tied)?;
                let target = Target::whole(TensorName::new(weight(&one))?);
                expected.insert(target.name.clone(), one.dims);
                adapter.edits.push(Edit::Lora(lora(one, target)));
            }
            losses.push(Loss::Unbound { targets: expected.len() });
            adapter.base.tensors = expected.into_iter().map(base_tensor).collect();
        }
    }
    Ok((adapter, losses))
}

fn weight(factors: &Factors<'_>) -> String {
    format!("{}.weight", factors.module)
}

fn want(factors: &Factors<'_>) -> Want {
    Want {
        name: weight(factors),
        fit: Fit::Exact(factors.dims.to_vec()),
        may_create: false,
        is_vocabulary: is_vocabulary_module(&factors.module),
    }
}

fn renamed(wants: &[Want], names: &Names) -> Option<Loss> {
    let moved = |want: &&Want| names.on_disk(&want.name).is_some_and(|disk| disk != want.name);
    let first = wants.iter().find(moved)?;
    let to = names.on_disk(&first.name)?.to_owned();
    Some(Loss::Renamed { from: first.name.clone(), to, targets: wants.iter().filter(moved).count() })
}

/// The target on disk, and whether that takes a tied tensor apart.
fn place(factors: &Factors<'_>, names: &Names, base: &dyn Checkpoint) -> Result<(Target, bool), Error> {
    let name = weight(factors);
    let disk = names.on_disk(&name);
    let Some(tied) = names.tied_with(&name) else {
        return Ok((Target::whole(TensorName::new(disk.unwrap_or(&name))?), false));
    };
    if flag_scales_logits(base.config()) {
        return Err(Error::Unsupported {
            what: name,
            reason: "the base ties it to its embedding, and an untied head is also scaled otherwise there, so no checkpoint holds the result".to_owned(),
            hint: "serve it unmerged".to_owned(),
        });
    }
    if let Some(disk) = disk {
        return Ok((Target::whole(TensorName::new(disk)?), true));
    }
    let owner = names.on_disk(&tied.owner).unwrap_or(&tied.owner);
    let uses = vec![TensorName::new(&name)?];
    Ok((Target { uses, ..Target::whole(TensorName::new(owner)?) }, true))
}

/// Without a base, a head that may be the embedding.
fn refuse_head(factors: &Factors<'_>, is_tied: Option<bool>) -> Result<(), Error> {
    if !is_head_module(&factors.module) || is_tied == Some(false) {
        return Ok(());
    }
    Err(Error::Ambiguous {
        what: weight(factors),
        reason: "a head may be tied to the embedding, and then only one of its uses changes".to_owned(),
        hint: "name the base with --base".to_owned(),
    })
}

fn lora<'a>(factors: Factors<'a>, mut target: Target) -> Lora<'a> {
    if !factors.rows.is_empty() {
        target.slice = vec![AxisSlice { axis: 0, ranges: factors.rows }];
    }
    Lora {
        target,
        form: LoraForm::Matrix,
        transposed: false,
        scale: factors.scale,
        up: factors.up,
        down: factors.down,
        mid: None,
        magnitude: factors.magnitude.map(|value| Magnitude {
            value,
            axis: 0,
            norm_of: NormOf::Merged,
            eps: 0.0,
        }),
        origin: factors.origin,
    }
}

fn base_tensor((name, dims): (TensorName, [u64; 2])) -> BaseTensor {
    BaseTensor {
        unchanged: false,
        component: None,
        name,
        experts: None,
        dtype: None,
        shape: Shape::new(&dims).ok(),
        digests: Vec::new(),
        extra: Map::new(),
    }
}
