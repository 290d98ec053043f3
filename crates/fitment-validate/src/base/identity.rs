//! What an adapter recorded of its base beside digests and shapes.

use super::{Fit, shapes};
use crate::rules;

pub(super) fn check(fit: &mut Fit<'_, '_>) {
    dtypes(fit);
    architecture(fit);
    config(fit);
    name(fit);
}

fn dtypes(fit: &mut Fit<'_, '_>) {
    for entry in &fit.adapter.base.tensors {
        let target = shapes::target(entry);
        let found = fit.info(&target).map(|info| info.dtype);
        let (Some(recorded), Some(found)) = (entry.dtype, found) else { continue };
        if recorded != found && target.component.is_none() {
            let message = format!("the adapter was made for {recorded}, the base has {found}");
            fit.report(&rules::B_DTYPE, target.label(), message);
        }
    }
}

fn architecture(fit: &mut Fit<'_, '_>) {
    let found = fit.config("architectures").and_then(|list| list.get(0)?.as_str());
    let (Some(recorded), Some(found)) = (fit.adapter.base.architecture.as_deref(), found) else { return };
    if family(recorded) != family(found) {
        let message = format!("the adapter was made for {recorded}, the base is {found}");
        fit.report(&rules::B_CONFIG, "architectures", message);
    }
}

/// The model behind its head: `Llama` of `LlamaForCausalLM`, `GPT2` of `GPT2LMHeadModel`.
fn family(class: &str) -> &str {
    let end = ["For", "LMHead", "WithLMHead", "Model"].iter().filter_map(|word| class.find(word)).min();
    &class[..end.unwrap_or(class.len())]
}

fn config(fit: &mut Fit<'_, '_>) {
    for (key, recorded) in &fit.adapter.base.config {
        if let Some(found) = fit.config(key).filter(|found| *found != recorded) {
            let message = format!("the adapter was made for {recorded}, the base has {found}");
            fit.report(&rules::B_CONFIG, key, message);
        }
    }
}

/// The path or hub id by which the config says it was loaded, if it does.
fn name(fit: &mut Fit<'_, '_>) {
    let found = fit.config("_name_or_path").and_then(|name| name.as_str()).filter(|name| !name.is_empty());
    let (Some(recorded), Some(found)) = (fit.adapter.base.name.as_deref(), found) else { return };
    // A local copy goes by its folder: only the last part of a path is its name.
    let last = |name: &str| name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().map(str::to_owned);
    if last(recorded) != last(found) {
        let message = format!("the adapter was made for {recorded:?}, the config of the base says {found:?}");
        fit.report(&rules::B_NAME, "_name_or_path", message);
    }
}

#[cfg(test)]
mod tests {
    use super::family;

    #[test]
    fn a_head_does_not_make_another_family() {
        assert_eq!(family("LlamaForCausalLM"), family("LlamaModel"));
        assert_eq!(family("GPT2LMHeadModel"), family("GPT2Model"));
        assert_ne!(family("Qwen2ForCausalLM"), family("Qwen2MoeForCausalLM"));
        assert_eq!(family("Custom"), "Custom");
    }
}
