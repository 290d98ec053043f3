//! Whether the base has the sites of interventions, with states of their width.

use super::Fit;
use crate::rules;
use fitment_core::model::{Edit, Intervention, Site, SiteComponent};
use serde_json::Value;

/// Reports interventions at layers that the base does not have, or on states of another width; what its config does not
/// say is not judged, nor are models with an encoder and a decoder, whose layers have two counts.
pub(super) fn check(fit: &mut Fit<'_, '_>) {
    if fit.config("is_encoder_decoder").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let adapter = fit.adapter;
    for edit in &adapter.edits {
        let Edit::Intervention(edit) = edit else { continue };
        if let Some(component) = &edit.component {
            let message = format!(
                "belongs to the component {:?} of a pipeline, the base is a single model",
                component.as_str()
            );
            fit.report(&rules::B_SITE, edit.label(), message);
        } else if let Some(fault) = fault(fit, edit) {
            fit.report(&rules::B_SITE, edit.label(), fault);
        }
    }
}

fn fault(fit: &Fit<'_, '_>, edit: &Intervention<'_>) -> Option<String> {
    let layers = number(fit, &["num_hidden_layers", "n_layer", "num_layers"]);
    for site in [Some(&edit.site), edit.input_site.as_ref()].into_iter().flatten() {
        if let (Site::Layer { layer, .. }, Some(count)) = (site, layers)
            && *layer >= count
        {
            return Some(format!("is at layer {layer}, the base has {count}, counted from 0"));
        }
    }
    let states = states(fit, &edit.site)?;
    match edit.dims {
        Some([start, end]) if end > states => {
            Some(format!("changes elements {start}..{end}, the base's states there have {states}"))
        }
        Some(_) => None,
        None => {
            let width = edit.width().filter(|width| *width != states)?;
            Some(format!("is {width} wide, the base's states there {states}"))
        }
    }
}

/// Width of the states at a site, where the config says it for every architecture: that of the residual stream. Inside
/// of attention and feed-forward modules, heads, gates and experts have configs of their own.
fn states(fit: &Fit<'_, '_>, site: &Site) -> Option<u64> {
    let Site::Layer { component, .. } = site else { return None };
    match component {
        SiteComponent::BlockInput
        | SiteComponent::BlockOutput
        | SiteComponent::MlpInput
        | SiteComponent::MlpOutput
        | SiteComponent::AttentionInput
        | SiteComponent::AttentionOutput
        | SiteComponent::CrossAttentionInput
        | SiteComponent::CrossAttentionOutput => number(fit, &["hidden_size", "n_embd", "d_model"]),
        SiteComponent::MlpActivation
        | SiteComponent::AttentionValueOutput
        | SiteComponent::QueryOutput
        | SiteComponent::KeyOutput
        | SiteComponent::ValueOutput
        | SiteComponent::HeadAttentionValueOutput
        | SiteComponent::HeadQueryOutput
        | SiteComponent::HeadKeyOutput
        | SiteComponent::HeadValueOutput => None,
    }
}

/// The first of these config values that is there and a number.
fn number(fit: &Fit<'_, '_>, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| fit.config(key)?.as_u64())
}
