//! Every breach that the files show, and the units that they hold.

use super::config::{self, Config, Parsed};
use super::folder::{CONFIG, Folder};
use super::keys::{self, Part};
use super::methods::Method;
use super::{bottleneck, edits, lora, rules};
use crate::finite;
use crate::orthogonal;
use fitment_core::Finding;
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// One unit of one layer.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    /// The block: `model.layers.3`.
    pub(super) block: String,
    pub(super) layer: u64,
    /// 0 or 1.
    pub(super) unit: usize,
    pub(super) adapter: String,
    /// It is the layer's only one.
    pub(super) is_tied: bool,
    pub(super) weight: Tensor<'a>,
    pub(super) bias: Tensor<'a>,
    pub(super) projection: Projection<'a>,
}

/// `P`, `[r, d]`.
#[derive(Clone, Debug)]
pub(super) enum Projection<'a> {
    Plain(Tensor<'a>),
    /// What torch computes it of.
    Orthogonal {
        original: Tensor<'a>,
        base: Tensor<'a>,
    },
}

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Inspected<'a> {
    pub(super) config: Config,
    pub(super) units: Vec<Unit<'a>>,
    pub(super) bottlenecks: Vec<bottleneck::Unit<'a>>,
    pub(super) loras: Vec<lora::Unit<'a>>,
    /// Names of adapters in the keys.
    adapters: BTreeSet<String>,
    pub(super) findings: Vec<Finding>,
}

type Parts<'a> = BTreeMap<Part, Tensor<'a>>;

/// The tensors of a unit, by the ends of their keys.
pub(super) type Group<'a> = BTreeMap<&'static str, Tensor<'a>>;

/// Looks at a folder as a whole.
pub(super) fn inspect<'a>(folder: &Folder<'a>) -> Inspected<'a> {
    let mut seen = Inspected { findings: folder.findings.clone(), ..Inspected::default() };
    match folder.config.map(config::parse) {
        None => return seen,
        Some(Err(findings)) => {
            seen.findings.extend(findings);
            return seen;
        }
        Some(Ok(Parsed::Refused(reason))) => {
            seen.findings.push(Finding::new(&rules::H_UNSUPPORTED, "config", reason));
            return seen;
        }
        Some(Ok(Parsed::Known(config))) => seen.config = *config,
    }
    match seen.config.method.clone() {
        Method::Reft => reft(folder, &mut seen),
        Method::Bottleneck(_) if folder.has_interface => {
            let message = "a bottleneck adapter of a model that the library was told of by adapter_interface.json: where it acts is not known";
            seen.findings.push(Finding::new(&rules::H_UNSUPPORTED, "config", message));
            return seen;
        }
        Method::Bottleneck(form) if folder.weights.is_some() => {
            bottleneck::units(&folder.tensors, &form, &mut seen);
        }
        Method::Lora(form) if folder.weights.is_some() => {
            lora::units(&folder.tensors, &form, &mut seen);
        }
        Method::Bottleneck(_) | Method::Lora(_) => return seen,
    }
    if folder.weights.is_some() {
        let mut findings = of_all_methods(&seen);
        findings.extend(not_finite(folder, &seen));
        seen.findings.extend(findings);
    }
    seen
}

fn reft<'a>(folder: &Folder<'a>, seen: &mut Inspected<'a>) {
    if seen.config.prefix_positions == 0 && seen.config.suffix_positions == 0 {
        let message = "prefix_positions and suffix_positions are 0";
        seen.findings.push(Finding::new(&rules::H_POSITIONS, CONFIG, message));
    }
    if folder.weights.is_some() {
        units(folder, seen);
        contradictions(seen);
    }
}

impl<'a> Inspected<'a> {
    /// Looks at one tensor of an adapter.
    pub(super) fn note_tensor(&mut self, name: &str, adapter: &str, tensor: &Tensor<'a>) {
        self.adapters.insert(adapter.to_owned());
        if !matches!(tensor.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let message = format!("is {}, a float is asked for", tensor.dtype());
            self.findings.push(Finding::new(&rules::H_DTYPE, name, message));
        }
    }
}

/// What the tensors of an adapter say together, and where the config contradicts them.
fn of_all_methods(seen: &Inspected<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |rule, place: &str, message: String| findings.push(Finding::new(rule, place, message));
    let config = &seen.config;
    if seen.units.is_empty() && seen.bottlenecks.is_empty() && seen.loras.is_empty() {
        say(&rules::H_UNIT, "", "the file holds no whole adapter".to_owned());
    }
    let names = &seen.adapters;
    if names.len() > 1 {
        say(&rules::H_KEY, "", format!("the tensors are of several adapters: {names:?}"));
    }
    if let (Some(stated), Some(found)) = (&config.name, names.first())
        && names.len() == 1
        && stated != found
    {
        say(&rules::H_NAME, "config", format!("name is {stated:?}, the keys say {found:?}"));
    }
    let of_reft = seen.units.iter().filter_map(|unit| unit.weight.dims().last().copied());
    let widths: BTreeSet<u64> = seen.bottlenecks.iter().map(bottleneck::Unit::width).chain(of_reft).collect();
    if widths.len() > 1 {
        say(&rules::H_SHAPE, "config", format!("units are of widths {widths:?}"));
    }
    if let (Some(stated), Some(width)) = (config.hidden_size, widths.first())
        && stated != *width
    {
        say(&rules::H_WIDTH, "config", format!("hidden_size is {stated}, the tensors are {width} wide"));
    }
    let layers = seen.bottlenecks.iter().map(|unit| unit.layer);
    let layers = layers.chain(seen.loras.iter().flat_map(lora::Unit::numbers));
    let left_out: BTreeSet<u64> = layers.filter(|layer| config.left_out.contains(layer)).collect();
    if !left_out.is_empty() {
        say(&rules::H_LAYERS, "config", format!("leave_out has {left_out:?}, and so have the tensors"));
    }
    findings
}

/// Tensors with a NaN or an infinity, but for those of units that do nothing, which are kept as they are.
fn not_finite(folder: &Folder<'_>, seen: &Inspected<'_>) -> Vec<Finding> {
    let idle = seen.units.iter().filter(|unit| edits::is_idle(unit, &seen.config));
    let idle: BTreeSet<_> = idle.map(|unit| (unit.block.as_str(), unit.unit)).collect();
    let acts = |name: &str| keys::parse(name).is_none_or(|key| !idle.contains(&(key.block, key.unit)));
    let acting = folder.tensors.iter().filter(|(name, _)| acts(name));
    finite::check_all(&acting.map(|(name, tensor)| (name.clone(), tensor)).collect::<Vec<_>>())
}

/// Sorts the tensors into units.
fn units<'a>(folder: &Folder<'a>, seen: &mut Inspected<'a>) {
    let mut groups: BTreeMap<(u64, String, String, usize), Parts<'a>> = BTreeMap::new();
    for (name, tensor) in &folder.tensors {
        let Some(key) = keys::parse(name) else {
            let message = "is no tensor of a ReFT unit";
            seen.findings.push(Finding::new(&rules::H_KEY, &**name, message));
            continue;
        };
        seen.note_tensor(name, key.adapter, tensor);
        let place = (key.layer, key.block.to_owned(), key.adapter.to_owned(), key.unit);
        groups.entry(place).or_default().insert(key.part, tensor.clone());
    }
    let blocks_of_second: BTreeSet<&String> =
        groups.keys().filter(|(.., unit)| *unit == 1).map(|(_, block, ..)| block).collect();
    for ((layer, block, adapter, unit), parts) in &groups {
        match projection(parts) {
            Ok((weight, bias, projection)) => {
                let (block, adapter) = (block.clone(), adapter.clone());
                let is_tied = *unit == 0 && !blocks_of_second.contains(&block);
                let unit =
                    Unit { layer: *layer, block, adapter, unit: *unit, is_tied, weight, bias, projection };
                seen.findings.extend(misfit(&unit));
                seen.units.push(unit);
            }
            Err(missing) => {
                let place = keys::name(block, adapter, *unit, missing);
                seen.findings.push(Finding::new(&rules::H_UNIT, place, "is missing"));
            }
        }
    }
}

/// The three tensors of a unit, or the part that is missing.
fn projection<'a>(parts: &Parts<'a>) -> Result<(Tensor<'a>, Tensor<'a>, Projection<'a>), Part> {
    let part = |part: Part| parts.get(&part).cloned().ok_or(part);
    let projection = match parts.get(&Part::Original) {
        Some(original) => Projection::Orthogonal { original: original.clone(), base: part(Part::Base)? },
        None => Projection::Plain(part(Part::Projection)?),
    };
    Ok((part(Part::Weight)?, part(Part::Bias)?, projection))
}

/// Shapes of a unit that do not fit.
fn misfit(unit: &Unit<'_>) -> Option<Finding> {
    let place = keys::name(&unit.block, &unit.adapter, unit.unit, Part::Weight);
    let breach = |message: String| Some(Finding::new(&rules::H_SHAPE, place.clone(), message));
    let &[r, d] = unit.weight.dims() else {
        return breach(format!("is {:?}, [r, d] is asked for", unit.weight.dims()));
    };
    if r == 0 || d == 0 {
        return breach("has an extent of 0".to_owned());
    }
    if unit.bias.dims() != [r] {
        return breach(format!("is [{r}, {d}], its bias is {:?}", unit.bias.dims()));
    }
    let (plain, base) = match &unit.projection {
        Projection::Plain(plain) => (plain, None),
        Projection::Orthogonal { original, base } => (original, Some(base)),
    };
    if plain.dims() != [r, d] {
        return breach(format!("is [{r}, {d}], the projection is {:?}", plain.dims()));
    }
    let n = r.max(d);
    if let Some(base) = base.filter(|base| base.dims() != [n, n]) {
        return breach(format!("is [{r}, {d}], the projection's base is {:?}", base.dims()));
    }
    if base.is_some() && r == d && r > orthogonal::MAX_SQUARE {
        return breach(format!(
            "is of full rank {r}: exponentials are computed up to {}",
            orthogonal::MAX_SQUARE
        ));
    }
    None
}

/// Where the config contradicts the tensors: the tensors count.
fn contradictions(seen: &mut Inspected<'_>) {
    if seen.units.is_empty() {
        return;
    }
    let (config, units) = (&seen.config, &seen.units);
    let mut findings = Vec::new();
    let mut say = |rule, message: String| findings.push(Finding::new(rule, "config", message));
    let ranks: BTreeSet<u64> = units.iter().filter_map(|unit| unit.weight.dims().first().copied()).collect();
    if let Some(r) = config.r.filter(|r| ranks.iter().any(|rank| rank != r)) {
        say(&rules::H_RANK, format!("r is {r}, the tensors have {ranks:?}"));
    }
    let orthogonal =
        units.iter().filter(|unit| matches!(unit.projection, Projection::Orthogonal { .. })).count();
    if let Some(stated) = config.orthogonality
        && orthogonal != if stated { units.len() } else { 0 }
    {
        let message =
            format!("orthogonality is {stated}, {orthogonal} of {} projections are orthogonal", units.len());
        say(&rules::H_ORTHOGONALITY, message);
    }
    let tied = units.iter().filter(|unit| unit.is_tied).count();
    if tied != if config.tied_weights { units.len() } else { 0 } {
        let message =
            format!("tied_weights is {}, {tied} of {} units are alone", config.tied_weights, units.len());
        say(&rules::H_TIED, message);
    }
    let layers: BTreeSet<u64> = units.iter().map(|unit| unit.layer).collect();
    if let Some(stated) = &config.layers
        && stated.iter().copied().collect::<BTreeSet<_>>() != layers
    {
        say(&rules::H_LAYERS, format!("layers are {stated:?}, the tensors are of {layers:?}"));
    }
    let unused =
        [(0, "prefix_positions", config.prefix_positions), (1, "suffix_positions", config.suffix_positions)];
    for (number, positions, _) in unused.into_iter().filter(|(.., count)| *count == 0) {
        let idle = units.iter().filter(|unit| unit.unit == number && !unit.is_tied).count();
        if idle > 0 {
            say(
                &rules::H_UNUSED,
                format!("{positions} is 0: unit {number} of {idle} layers does nothing, and is kept"),
            );
        }
    }
    seen.findings.extend(findings);
}
