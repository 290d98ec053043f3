//! Bottleneck adapters: tensors under `….adapters.NAME.`, as interventions.
//!
//! With `h` what attention or feed-forward puts out, `x` the residual stream beside it and `N` the layer norm behind their
//! sum (in models that have it there), the library computes (`methods/modeling.py`, `methods/bottleneck.py`):
//!
//! | config | library | here |
//! |---|---|---|
//! | neither `is_parallel` nor `original_ln_before` | `N(h + B(h) + x)` | at `h` |
//! | `is_parallel` | `N(h + B(x) + x)` | at `h`, reads `x` |
//! | `original_ln_before`, `N` behind the sum, neither residual nor norm after it | `y + B(y)`, `y = N(h + x)` | at `y` |
//! | `original_ln_before`, no `N` behind the sum, feed-forward | `y + B(y)`, `y = h + x` | at the block's output |
//!
//! All else is refused: pfeiffer's `N(h + B(N(h + x)) + x)` reads what comes behind the states that it changes.

use super::inspect::{Group, Inspected};
use super::methods::BottleneckForm;
use super::{keys, rules};
use fitment_core::Finding;
use fitment_core::model::{Intervention, KeptTensor, ModuleSite, Origin, Positions, Site, SiteComponent};
use fitment_core::tensor::Tensor;
use fitment_math::round::widened;
use std::collections::BTreeMap;

/// Where the layers of a class of models have their adapters.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) model_types: &'static [&'static str],
    /// The modules that hold the adapters, below the block: behind attention, behind feed-forward.
    holders: [&'static str; 2],
    /// `h` of both.
    states: [Spot; 2],
    /// `x` of feed-forward; that of attention is the block's input.
    read_by_output: &'static str,
    /// The layer norm behind attention, where layer norms stand behind the sums.
    pub(super) norm: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Spot {
    Word(SiteComponent),
    /// Below the block.
    Path(&'static str),
}

const IN_FRONT: [Spot; 2] =
    [Spot::Word(SiteComponent::AttentionOutput), Spot::Word(SiteComponent::MlpOutput)];
const BESIDE: [&str; 2] = ["attention_adapters", "output_adapters"];

/// The classes whose source was read for this.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_types: &["bert", "roberta", "xlm-roberta", "electra"],
        holders: ["attention.output", "output"],
        states: [Spot::Path("attention.output.dense.output"), Spot::Path("output.dense.output")],
        read_by_output: "intermediate.dense.input",
        norm: Some("attention.output.LayerNorm.output"),
    },
    Family {
        model_types: &["distilbert"],
        holders: BESIDE,
        states: IN_FRONT,
        read_by_output: "ffn.input",
        norm: Some("sa_layer_norm.output"),
    },
    Family {
        model_types: &["llama", "mistral"],
        holders: BESIDE,
        states: IN_FRONT,
        read_by_output: "post_attention_layernorm.input",
        norm: None,
    },
    Family {
        model_types: &["gpt2"],
        holders: BESIDE,
        states: IN_FRONT,
        read_by_output: "ln_2.input",
        norm: None,
    },
];

/// What an adapter reads and changes, by the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    States,
    Residual,
    Sum,
}

/// Which of a block's two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Attention,
    Output,
}

const PARTS: [&str; 5] =
    ["adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias", "scaling"];
const ROLES: [&str; 4] = ["source.weight", "source.bias", "up", "up.bias"];

/// One adapter of one block.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    block: String,
    pub(super) layer: u64,
    pub(super) place: Place,
    /// Module path and `.adapters.NAME.`.
    prefix: String,
    /// In the order of [`PARTS`].
    tensors: [Tensor<'a>; 4],
    learned: Option<Tensor<'a>>,
    scale: f64,
}

/// A key, taken apart.
struct Key<'k> {
    block: &'k str,
    layer: u64,
    place: Place,
    adapter: &'k str,
    part: &'static str,
}

fn parse<'k>(key: &'k str, family: &Family) -> Option<Key<'k>> {
    let (module, rest) = key.split_once(".adapters.")?;
    let (adapter, part) = rest.split_once('.')?;
    let part = PARTS.into_iter().find(|known| *known == part)?;
    let mut places = family.holders.iter().zip([Place::Attention, Place::Output]);
    places.find_map(|(holder, place)| {
        let block = module.strip_suffix(holder)?.strip_suffix('.')?;
        Some(Key { block, layer: keys::layer_of(block)?, place, adapter, part })
    })
}

/// Sorts the tensors into units.
pub(super) fn units<'a>(tensors: &[(String, Tensor<'a>)], form: &BottleneckForm, seen: &mut Inspected<'a>) {
    let mut groups: BTreeMap<(u64, Place, String, String), Group<'a>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Some(Key { block, layer, place, adapter, part }) = parse(name, form.family) else {
            let message = "is no tensor of a bottleneck adapter of this model";
            seen.findings.push(Finding::new(&rules::H_KEY, &**name, message));
            continue;
        };
        seen.note_tensor(name, adapter, tensor);
        let prefix = name.strip_suffix(part).unwrap_or_default().to_owned();
        groups.entry((layer, place, block.to_owned(), prefix)).or_default().insert(part, tensor.clone());
    }
    for ((layer, place, block, prefix), parts) in groups {
        match unit(&parts, form, &prefix) {
            Err(finding) => seen.findings.push(finding),
            Ok((tensors, learned, scale)) => {
                seen.bottlenecks.push(Unit { block, layer, place, prefix, tensors, learned, scale });
            }
        }
    }
    let unplaced = seen.bottlenecks.iter().find(|unit| site(unit, form).is_none());
    let findings: Vec<Finding> = unplaced
        .map(|unit| {
            let message =
                "original_ln_before: no module of this model puts out the sum that is read behind attention";
            Finding::new(&rules::H_UNSUPPORTED, &*unit.prefix, message)
        })
        .into_iter()
        .chain(form.stated.iter().filter_map(|(place, key, stated)| {
            let found = seen.bottlenecks.iter().filter(|unit| unit.place == *place).count();
            let message = format!("{key} is {stated}, the tensors have {found} there");
            (*stated != (found > 0)).then(|| Finding::new(&rules::H_PLACES, "config", message))
        }))
        .collect();
    seen.findings.extend(findings);
}

type Sound<'a> = ([Tensor<'a>; 4], Option<Tensor<'a>>, f64);

/// The tensors of a unit, whose shapes fit each other, and its scale.
fn unit<'a>(parts: &Group<'a>, form: &BottleneckForm, prefix: &str) -> Result<Sound<'a>, Finding> {
    let part = |part: &'static str| {
        let missing = || Finding::new(&rules::H_UNIT, format!("{prefix}{part}"), "is missing");
        parts.get(part).cloned().ok_or_else(missing)
    };
    let [weight, bias, up, up_bias, scaling] = PARTS;
    let tensors = [part(weight)?, part(bias)?, part(up)?, part(up_bias)?];
    let misfit = |message: String| Finding::new(&rules::H_SHAPE, format!("{prefix}{weight}"), message);
    let &[r, d] = tensors[0].dims() else {
        return Err(misfit(format!("is {:?}, [r, d] is asked for", tensors[0].dims())));
    };
    if r == 0 || d == 0 {
        return Err(misfit("has an extent of 0".to_owned()));
    }
    for (index, wanted) in [(1, &[r][..]), (2, &[d, r]), (3, &[d])] {
        let found = tensors[index].dims();
        if found != wanted {
            return Err(misfit(format!("is [{r}, {d}], {} is {found:?}, not {wanted:?}", PARTS[index])));
        }
    }
    match (form.scale, parts.get(scaling)) {
        (Some(scale), None) => Ok((tensors, None, scale)),
        (Some(_), Some(_)) => Err(Finding::new(
            &rules::H_KEY,
            format!("{prefix}{scaling}"),
            "is there, and scaling is a number in the config",
        )),
        (None, _) => {
            let learned = part(scaling)?;
            let value = widened(&learned).filter(|values| values.len() == 1);
            let scale = value.and_then(|values| values.first().copied()).filter(|scale| scale.is_finite());
            let fault =
                || Finding::new(&rules::H_SHAPE, format!("{prefix}{scaling}"), "is not one finite number");
            Ok((tensors, Some(learned), scale.ok_or_else(fault)?))
        }
    }
}

impl Unit<'_> {
    /// `d`.
    pub(super) fn width(&self) -> u64 {
        self.tensors[0].dims().last().copied().unwrap_or_default()
    }
}

fn path(block: &str, below: &str) -> Option<Site> {
    Some(Site::Module(ModuleSite::new(format!("{block}.{below}")).ok()?))
}

/// Where a unit acts; `None` where no module puts that out.
fn site(unit: &Unit<'_>, form: &BottleneckForm) -> Option<Site> {
    let word = |component| Site::Layer { layer: unit.layer, component };
    match (form.reads, unit.place) {
        (Reads::Sum, Place::Output) => Some(word(SiteComponent::BlockOutput)),
        (Reads::Sum, Place::Attention) => path(&unit.block, form.family.norm?),
        (Reads::States | Reads::Residual, place) => match form.family.states[place as usize] {
            Spot::Word(component) => Some(word(component)),
            Spot::Path(below) => path(&unit.block, below),
        },
    }
}

/// The interventions, in the order of layers. `None` when a name of a module is none.
pub(super) fn interventions<'a>(units: &[Unit<'a>], form: &BottleneckForm) -> Option<Vec<Intervention<'a>>> {
    units.iter().map(|unit| intervention(unit, form)).collect()
}

fn intervention<'a>(unit: &Unit<'a>, form: &BottleneckForm) -> Option<Intervention<'a>> {
    let input_site = match (form.reads, unit.place) {
        (Reads::States | Reads::Sum, _) => None,
        (Reads::Residual, Place::Attention) => {
            Some(Site::Layer { layer: unit.layer, component: SiteComponent::BlockInput })
        }
        (Reads::Residual, Place::Output) => Some(path(&unit.block, form.family.read_by_output)?),
    };
    let [weight, bias, up, up_bias] = unit.tensors.clone();
    let key = |(role, part): (&str, &str)| (role.to_owned(), format!("{}{part}", unit.prefix));
    Some(Intervention {
        input_site,
        scale: unit.scale,
        activation: form.activation,
        source_weight: Some(weight),
        source_bias: Some(bias),
        up: Some(up),
        up_bias: Some(up_bias),
        origin: Origin { keys: ROLES.into_iter().zip(PARTS).map(key).collect(), ..Origin::default() },
        ..Intervention::at(site(unit, form)?, Positions::EVERYWHERE)
    })
}

/// Learned scales, which stand in the edits as numbers.
pub(super) fn kept<'a>(units: &[Unit<'a>]) -> Vec<KeptTensor<'a>> {
    let learned = |unit: &Unit<'a>| {
        Some(KeptTensor { key: format!("{}scaling", unit.prefix), value: unit.learned.clone()? })
    };
    units.iter().filter_map(learned).collect()
}
