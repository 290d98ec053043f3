//! Low-rank products by the names of transformers' classes, as an adapter: what readers share whose files hold nothing else.

use crate::bind::bind;
use crate::error::Error;
use crate::loss::Loss;
use crate::names::{Creates, Fit, Names, Want, resolve};
use crate::pass::experts::all_of;
use crate::read::ReadOptions;
use crate::tying::{flag_scales_logits, is_head_module, is_vocabulary_module};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::model::{
    AxisSlice, Base, BaseTensor, ConfigEdit, ConfigValue, Edit, ExpertRange, IndexRange, Lora, LoraForm,
    Magnitude, NormOf, Origin, Source, Target, TensorName,
};
use fitment_core::tensor::{Shape, Tensor};
use serde_json::Map;
use std::collections::BTreeMap;

/// A weight of the model's class, and how a product is read into it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The weight; of experts in modules of their own with `{e}` for the number.
    pub(crate) name: String,
    /// Its extents as it is stored; of experts in modules of their own those of one.
    pub(crate) dims: Vec<u64>,
    /// Of which of its indices the product is.
    pub(crate) slice: Vec<AxisSlice>,
    /// How many experts in modules of their own; the factors have an axis in front for them.
    pub(crate) experts: Option<u64>,
    /// All experts are in this one tensor; the factors have an axis in front for them.
    pub(crate) is_stacked: bool,
    /// It is stored with its last two axes the other way round.
    pub(crate) transposed: bool,
}

impl Place {
    /// The `weight` of a linear layer, or some of its rows in their order; no ranges are all of them.
    pub(crate) fn linear(module: &str, dims: [u64; 2], rows: Vec<IndexRange>) -> Self {
        let slice = if rows.is_empty() { Vec::new() } else { vec![AxisSlice { axis: 0, ranges: rows }] };
        let (name, dims) = (format!("{module}.weight"), dims.to_vec());
        Self { name, dims, slice, experts: None, is_stacked: false, transposed: false }
    }

    /// The name of the first of several.
    fn first(&self) -> String {
        self.name.replacen("{e}", "0", 1)
    }

    fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }
}

/// One product `scale·up·down`, `up` `[out, r]` and `down` `[r, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Factors<'a> {
    pub(crate) place: Place,
    pub(crate) up: Tensor<'a>,
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
                if let Err(error) = refuse_head(&one, model.is_tied) {
                    losses.push(error.shown(options.to_look_at)?);
                }
                let target = target(&one.place, &one.place.first(), None)?;
                expected.insert((target.name.clone(), target.experts), one.place.dims.clone());
                adapter.edits.push(Edit::Lora(lora(one, target)));
            }
            losses.push(Loss::Unbound { targets: expected.len() });
            adapter.base.tensors = expected.into_iter().map(base_tensor).collect();
        }
    }
    Ok((adapter, losses))
}

fn want(factors: &Factors<'_>) -> Want {
    Want {
        name: factors.place.first(),
        fit: Fit::Exact(factors.place.dims.clone()),
        creates: Creates::Nothing,
        is_vocabulary: is_vocabulary_module(factors.place.module()),
    }
}

/// The target, by the first tensor's name on disk.
///
/// # Errors
/// [`Error::Mismatch`] where the base has more experts.
fn target(place: &Place, disk: &str, base: Option<&dyn Checkpoint>) -> Result<Target, Error> {
    let slice = place.slice.clone();
    let Some(count) = place.experts else {
        return Ok(Target { slice, ..Target::whole(TensorName::new(disk)?) });
    };
    if count > MAX_EXPERTS {
        return Err(Error::Unsupported {
            what: place.name.clone(),
            reason: format!("{count} experts, {MAX_EXPERTS} are read"),
            hint: "check the file: no model has so many".to_owned(),
        });
    }
    let bundle = disk.replacen(".experts.0.", ".experts.{e}.", 1);
    base.map_or(Ok(()), |base| all_of(&bundle, count, base))?;
    let name = TensorName::new(&bundle)?;
    Ok(Target { slice, experts: Some(ExpertRange { start: 0, end: count }), ..Target::whole(name) })
}

fn renamed(wants: &[Want], names: &Names) -> Option<Loss> {
    let moved = |want: &&Want| names.on_disk(&want.name).is_some_and(|disk| disk != want.name);
    let first = wants.iter().find(moved)?;
    let to = names.on_disk(&first.name)?.to_owned();
    Some(Loss::Renamed { from: first.name.clone(), to, targets: wants.iter().filter(moved).count() })
}

/// The target on disk, and whether that takes a tied tensor apart.
fn place(factors: &Factors<'_>, names: &Names, base: &dyn Checkpoint) -> Result<(Target, bool), Error> {
    let name = factors.place.first();
    let disk = names.on_disk(&name);
    let Some(tied) = names.tied_with(&name) else {
        return Ok((target(&factors.place, disk.unwrap_or(&name), Some(base))?, false));
    };
    if flag_scales_logits(base.config()) {
        return Err(Error::Unsupported {
            what: name,
            reason: "the base ties it to its embedding, and an untied head is also scaled otherwise there, so no checkpoint holds the result".to_owned(),
            hint: "serve it unmerged".to_owned(),
        });
    }
    if let Some(disk) = disk {
        return Ok((target(&factors.place, disk, Some(base))?, true));
    }
    let owner = names.on_disk(&tied.owner).unwrap_or(&tied.owner);
    let uses = vec![TensorName::new(&name)?];
    Ok((Target { uses, ..target(&factors.place, owner, Some(base))? }, true))
}

/// Without a base, a head that may be the embedding.
fn refuse_head(factors: &Factors<'_>, is_tied: Option<bool>) -> Result<(), Error> {
    if !is_head_module(factors.place.module()) || is_tied == Some(false) {
        return Ok(());
    }
    Err(Error::Ambiguous {
        what: factors.place.name.clone(),
        reason: "a head may be tied to the embedding, and then only one of its uses changes".to_owned(),
        hint: "name the base with --base".to_owned(),
    })
}

fn lora<'a>(factors: Factors<'a>, target: Target) -> Lora<'a> {
    Lora {
        target,
        form: if factors.place.is_stacked { LoraForm::Stacked } else { LoraForm::Matrix },
        transposed: factors.place.transposed,
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

fn base_tensor(((name, experts), dims): ((TensorName, Option<ExpertRange>), Vec<u64>)) -> BaseTensor {
    BaseTensor {
        unchanged: false,
        component: None,
        name,
        experts,
        dtype: None,
        shape: Shape::new(&dims).ok(),
        digests: Vec::new(),
        extra: Map::new(),
    }
}
