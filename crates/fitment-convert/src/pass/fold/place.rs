//! From the site of an intervention to the weights that make or read its states.

use super::obstacle::Obstacle;
use crate::architectures::{Architecture, Constant, Projection, Rows};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{IndexRange, ModuleSite, Site, SiteComponent};
use serde_json::Value;

/// A base whose sites are known.
pub(crate) struct Model<'b> {
    pub(super) base: &'b dyn Checkpoint,
    pub(super) architecture: &'static Architecture,
    pub(super) model_type: String,
    /// What stands before the list of layers, with its dot.
    prefix: String,
}

/// Which end of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Input,
    Output,
}

/// One end of one linear layer, or of a norm at the end of a layer.
#[derive(Clone, Debug)]
pub(super) struct Touch {
    pub(super) module: String,
    pub(super) side: Side,
    /// How far from the layer the states are taken: 0 at the layer itself, 1 at the module around it, 2 and 3 at the residual stream.
    pub(super) level: u8,
    /// The outputs that the site is; all when `None`.
    pub(super) rows: Option<Vec<IndexRange>>,
    /// How many numbers the states have.
    pub(super) width: u64,
}

impl Touch {
    /// Whether both are about the same numbers.
    pub(super) fn meets(&self, other: &Touch) -> bool {
        let apart = matches!((&self.rows, &other.rows), (Some(a), Some(b)) if a != b);
        self.module == other.module && self.side == other.side && !apart
    }
}

/// Where states come from or go to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// One for an output, one for each layer that reads an input.
    pub(super) touches: Vec<Touch>,
    /// The residual stream, to which only constants can be added; the site's word.
    pub(super) residual: Option<SiteComponent>,
}

impl<'b> Model<'b> {
    /// Finds out what the base is. The error is the `model_type`, or that there is none.
    pub(crate) fn of(base: &'b dyn Checkpoint) -> Result<Self, String> {
        let none = || "none named".to_owned();
        let value =
            find(base, "model_type").and_then(|value| value.as_str().map(str::to_owned)).ok_or_else(none)?;
        let architecture = Architecture::of(&value).ok_or_else(|| value.clone())?;
        let first = format!("{}.0.{}.weight", architecture.layers, architecture.query.module);
        let prefixes: Vec<&str> = base
            .tensors()
            .keys()
            .filter_map(|name| name.strip_suffix(&first))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        match prefixes[..] {
            [prefix] => Ok(Self { base, architecture, prefix: prefix.to_owned(), model_type: value }),
            [] => Err(format!("{value} without a tensor {first}")),
            _ => Err(format!("{value} with several tensors {first}")),
        }
    }

    /// The module of a layer, by the base's name.
    pub(super) fn module(&self, layer: u64, rest: &str) -> String {
        format!("{}{}.{layer}.{rest}", self.prefix, self.architecture.layers)
    }

    /// How many layers the base has.
    pub(crate) fn layers(&self) -> u64 {
        let has = |layer: &u64| {
            let weight = format!("{}.weight", self.module(*layer, self.architecture.query.module));
            self.base.tensors().contains_key(&weight)
        };
        (0..).take_while(has).count() as u64
    }

    /// Outputs and inputs of a linear layer.
    pub(super) fn extents(&self, module: &str) -> Result<(u64, u64), Obstacle> {
        let tensor = format!("{module}.weight");
        let dims = self.base.tensors().get(&tensor).map(|info| info.shape.dims());
        match dims {
            Some([first, second]) if self.architecture.conv1d => Ok((*second, *first)),
            Some([first, second]) => Ok((*first, *second)),
            _ => Err(Obstacle::MissingTensor { tensor }),
        }
    }

    /// How many numbers the states at a site have, where a weight says it.
    pub(crate) fn width(&self, site: &Site) -> Option<u64> {
        self.place(site).ok()?.touches.first().map(|touch| touch.width)
    }

    /// The layer that a module is of.
    pub(crate) fn layer(&self, path: &ModuleSite) -> Option<u64> {
        self.inside(path.split().0).map(|(layer, _)| layer)
    }

    /// The weights at a site.
    pub(super) fn place(&self, site: &Site) -> Result<Place, Obstacle> {
        match site {
            Site::Layer { layer, component } => self.component(*layer, *component),
            Site::Module(path) => self.path(path),
        }
    }

    fn component(&self, layer: u64, component: SiteComponent) -> Result<Place, Obstacle> {
        let lines = self.architecture;
        let nothing =
            |reason| Err(Obstacle::NoWeight { site: format!("{}.{layer}", component.name()), reason });
        match component {
            SiteComponent::BlockOutput => self.constant(layer, component, 2),
            SiteComponent::BlockInput if layer == 0 => nothing("it is the embedding of the tokens"),
            SiteComponent::BlockInput => self.constant(layer - 1, component, 3),
            SiteComponent::MlpActivation => match lines.mlp_out.filter(|_| !lines.gated) {
                Some(module) => self.inputs(layer, &[module], 1),
                None => {
                    nothing("what stands there is multiplied by another projection before a weight reads it")
                }
            },
            SiteComponent::CrossAttentionInput | SiteComponent::CrossAttentionOutput => {
                nothing("models with cross-attention are not known")
            }
            SiteComponent::MlpInput => self.inputs(layer, lines.mlp_in, 1),
            SiteComponent::MlpOutput => match lines.mlp_out {
                Some(module) => self.output(layer, Projection { module, rows: Rows::All }, 1),
                None => nothing("a norm and the residual stream are in the module"),
            },
            SiteComponent::AttentionInput => match lines.attention {
                Some(_) => self.inputs(layer, &lines.projections().map(|line| line.module), 1),
                None => nothing("the residual stream reads it too"),
            },
            SiteComponent::AttentionOutput if lines.attention_out_is_output => {
                self.output(layer, Projection { module: lines.attention_out, rows: Rows::All }, 1)
            }
            SiteComponent::AttentionOutput => nothing("a norm and the residual stream are in the module"),
            SiteComponent::AttentionValueOutput | SiteComponent::HeadAttentionValueOutput => {
                self.inputs(layer, &[lines.attention_out], 0)
            }
            SiteComponent::QueryOutput | SiteComponent::HeadQueryOutput => self.output(layer, lines.query, 0),
            SiteComponent::KeyOutput | SiteComponent::HeadKeyOutput => self.output(layer, lines.key, 0),
            SiteComponent::ValueOutput | SiteComponent::HeadValueOutput => self.output(layer, lines.value, 0),
        }
    }

    /// Where a constant at the end of a layer goes.
    fn constant(&self, layer: u64, component: SiteComponent, level: u8) -> Result<Place, Obstacle> {
        let module = match self.architecture.constant {
            Constant::Bias(module) => module,
            Constant::BiasIf(_, flag) if self.flag(flag) == Some(false) => {
                return Err(Obstacle::NoConstant("a norm ends the layer"));
            }
            Constant::BiasIf(module, _) => module,
            Constant::Nowhere(reason) => return Err(Obstacle::NoConstant(reason)),
        };
        let module = self.module(layer, module);
        let tensor = format!("{module}.weight");
        let width = match self.base.tensors().get(&tensor).map(|info| info.shape.dims()) {
            Some([width]) => *width,
            Some(_) => self.extents(&module)?.0,
            None => return Err(Obstacle::MissingTensor { tensor }),
        };
        let touch = Touch { module, side: Side::Output, level, rows: None, width };
        Ok(Place { touches: vec![touch], residual: Some(component) })
    }

    fn output(&self, layer: u64, line: Projection, level: u8) -> Result<Place, Obstacle> {
        let module = self.module(layer, line.module);
        let (out, _) = self.extents(&module)?;
        let rows = self.rows(line.rows, out);
        let width = rows.as_ref().map_or(out, |rows| rows.iter().map(|range| range.len()).sum());
        let touch = Touch { module, side: Side::Output, level, rows, width };
        Ok(Place { touches: vec![touch], residual: None })
    }

    fn inputs(&self, layer: u64, modules: &[&str], level: u8) -> Result<Place, Obstacle> {
        let mut modules = modules.to_vec();
        modules.dedup();
        let touch = |module: &str| {
            let module = self.module(layer, module);
            let (_, width) = self.extents(&module)?;
            Ok(Touch { module, side: Side::Input, level, rows: None, width })
        };
        let touches = modules.into_iter().map(touch).collect::<Result<_, _>>()?;
        Ok(Place { touches, residual: None })
    }

    /// The outputs of a part; a config without head counts gives parts that no width fits.
    fn rows(&self, rows: Rows, out: u64) -> Option<Vec<IndexRange>> {
        let range = |start: u64, len: u64| IndexRange { start, end: start.saturating_add(len), step: 1 };
        let heads = self.number("num_attention_heads").unwrap_or(1).max(1);
        match rows {
            Rows::All => None,
            Rows::Third(part) => Some(vec![range(part * (out / 3), out / 3)]),
            Rows::ThirdOfHead(part) => {
                let width = out / 3 / heads;
                Some((0..heads.min(out)).map(|head| range((3 * head + part) * width, width)).collect())
            }
            Rows::Grouped(part) => {
                let keys = self.number("num_key_value_heads").unwrap_or(heads).max(1);
                let width = out / heads.saturating_add(keys.saturating_mul(2)).max(1);
                let (query, key) = (heads.saturating_mul(width), keys.saturating_mul(width));
                Some(vec![match part {
                    0 => range(0, query),
                    1 => range(query, key),
                    _ => range(query.saturating_add(key), key),
                }])
            }
        }
    }

    /// A module by its path in the model, which has or lacks the prefix that the base has or lacks.
    fn path(&self, path: &ModuleSite) -> Result<Place, Obstacle> {
        let unknown = || Obstacle::UnknownModule { site: path.as_str().to_owned() };
        let (module, is_output) = path.split();
        let (layer, rest) = self.inside(module).ok_or_else(unknown)?;
        let lines = self.architecture;
        let component = lines.component(&rest, is_output);
        let linear = lines.linears().into_iter().find(|linear| *linear == rest);
        match (component, linear, is_output) {
            (Some(component), ..) => self.component(layer, component),
            (None, Some(module), true) => self.output(layer, Projection { module, rows: Rows::All }, 0),
            (None, Some(module), false) => self.inputs(layer, &[module], 0),
            (None, None, _) => Err(unknown()),
        }
    }

    /// The layer of a module, and its name there.
    fn inside(&self, module: &str) -> Option<(u64, String)> {
        let (before, layer, rest) = self.architecture.inside(module)?;
        let before = if before.is_empty() { before } else { format!("{before}.") };
        (before.ends_with(&self.prefix) || self.prefix.ends_with(&before)).then_some((layer, rest))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        find(self.base, key)?.as_bool()
    }

    fn number(&self, key: &str) -> Option<u64> {
        find(self.base, key)?.as_u64()
    }
}

/// A value of the config: of the text model, where the config is of several.
fn find<'b>(base: &'b dyn Checkpoint, key: &str) -> Option<&'b Value> {
    let config = base.config()?;
    let nested = config.get("text_config").and_then(|text| text.get(key));
    nested.or_else(|| config.get(key))
}
