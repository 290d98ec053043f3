//! Whether a base has the sites of interventions, with states of their width.

use crate::error::Clash;
use crate::pass::fold::Model;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, Intervention, Site, SiteComponent};
use serde_json::Value;

/// Every intervention at a layer that the base does not have, or on states of another width, by its label.
///
/// What neither the base's config nor a weight beside the site says is not judged, nor are models with an encoder and a
/// decoder, whose layers have two counts: whoever runs the model meets the states themselves (spec section 5.6).
pub fn misfits(adapter: &Adapter<'_>, base: &dyn Checkpoint) -> Vec<Clash> {
    if value(base, "is_encoder_decoder").and_then(Value::as_bool) == Some(true) {
        return Vec::new();
    }
    let interventions = adapter.edits.iter().filter_map(|edit| match edit {
        // Part of a pipeline of several models, and none of this one.
        Edit::Intervention(edit) => edit.component.is_none().then_some(edit),
        _ => None,
    });
    let model = Model::of(base).ok();
    interventions.filter_map(|edit| misfit(edit, base, model.as_ref())).collect()
}

fn misfit(edit: &Intervention<'_>, base: &dyn Checkpoint, model: Option<&Model<'_>>) -> Option<Clash> {
    let clash = |expected, found| Some(Clash { target: edit.label(), expected, found });
    let layers =
        number(base, &["num_hidden_layers", "n_layer", "num_layers"]).or_else(|| model.map(Model::layers));
    for site in [Some(&edit.site), edit.input_site.as_ref()].into_iter().flatten() {
        let layer = match site {
            Site::Layer { layer, .. } => Some(*layer),
            Site::Module(path) => model.and_then(|model| model.layer(path)),
        };
        if let (Some(layer), Some(count)) = (layer, layers)
            && layer >= count
        {
            return clash(format!("layer {layer}"), format!("{count} layers, counted from 0"));
        }
    }
    let states = width(&edit.site, base, model);
    match (edit.dims, edit.width(), states) {
        (Some([start, end]), _, Some(states)) if end > states => {
            return clash(format!("elements {start}..{end} of the states"), wide(states));
        }
        (None, Some(width), Some(states)) if width != states => return clash(wide(width), wide(states)),
        _ => {}
    }
    let read = edit.input_site.as_ref().and_then(|site| width(site, base, model));
    let weight = edit.source_weight.as_ref().and_then(|weight| weight.dims().get(1).copied());
    match (weight, read) {
        (Some(weight), Some(read)) if weight != read => {
            clash(format!("{} to read", wide(weight)), wide(read))
        }
        _ => None,
    }
}

fn wide(width: u64) -> String {
    format!("states {width} wide")
}

/// Width of the states at a site: of the residual stream as the config says it, inside of a layer as the weights say it.
fn width(site: &Site, base: &dyn Checkpoint, model: Option<&Model<'_>>) -> Option<u64> {
    let is_residual = match site {
        Site::Layer { component, .. } => match component {
            SiteComponent::BlockInput
            | SiteComponent::BlockOutput
            | SiteComponent::MlpInput
            | SiteComponent::MlpOutput
            | SiteComponent::AttentionInput
            | SiteComponent::AttentionOutput
            | SiteComponent::CrossAttentionInput
            | SiteComponent::CrossAttentionOutput => true,
            SiteComponent::MlpActivation
            | SiteComponent::AttentionValueOutput
            | SiteComponent::QueryOutput
            | SiteComponent::KeyOutput
            | SiteComponent::ValueOutput => false,
            // The states of one head.
            SiteComponent::HeadAttentionValueOutput
            | SiteComponent::HeadQueryOutput
            | SiteComponent::HeadKeyOutput
            | SiteComponent::HeadValueOutput => return None,
        },
        Site::Module(_) => false,
    };
    let stated = is_residual.then(|| number(base, &["hidden_size", "n_embd", "d_model"])).flatten();
    stated.or_else(|| model?.width(site))
}

/// The first of these config values that is there and a number.
fn number(base: &dyn Checkpoint, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| value(base, key)?.as_u64())
}

/// A value of the model's config, at the top or in the part about language.
fn value<'b>(base: &'b dyn Checkpoint, key: &str) -> Option<&'b Value> {
    let config = base.config()?;
    config.get(key).or_else(|| config.get("text_config")?.get(key))
}
