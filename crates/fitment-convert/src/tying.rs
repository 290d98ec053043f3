//! Which tensors of a base share one storage when its model is loaded, by the names that classes give them.

pub use fitment_core::model::{is_head_module, is_vocabulary_module};

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Embedding or head's bias and the other uses of it, as transformers' classes tie them (`_tied_weights_keys`, 5.23). Rows that name more
/// come first; a tensor belongs to one row.
const TIED: &[Row] = &[
    row(
        "model.shared.weight",
        &["lm_head.weight", "model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight"],
    ),
    row("shared.weight", &["decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight"]),
    row("model.language_model.embed_tokens.weight", &["lm_head.weight"]),
    row("model.text_model.embed_tokens.weight", &["lm_head.weight"]),
    Row { only: Some("whisper"), ..row("model.decoder.embed_tokens.weight", &["proj_out.weight"]) },
    Row { only: Some("trocr"), ..row("model.decoder.embed_tokens.weight", &["output_projection.weight"]) },
    row("model.decoder.embed_tokens.weight", &["lm_head.weight"]),
    row("model.embed_tokens.weight", &["lm_head.weight"]),
    row("transformer.wte.weight", &["lm_head.weight"]),
    row("transformer.word_embeddings.weight", &["lm_head.weight"]),
    row("transformer.tokens_embed.weight", &["lm_head.weight"]),
    row("backbone.embeddings.weight", &["lm_head.weight"]),
    row("gpt_neox.embed_in.weight", &["embed_out.weight"]),
    row("model.embeddings.tok_embeddings.weight", &["decoder.weight"]),
    row("roberta.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("albert.embeddings.word_embeddings.weight", &["predictions.decoder.weight"]),
    row("distilbert.embeddings.word_embeddings.weight", &["vocab_projector.weight"]),
    row("electra.embeddings.word_embeddings.weight", &["generator_lm_head.weight"]),
    row("bert.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("deberta.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("ernie.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("fnet.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("layoutlm.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("lxmert.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("mobilebert.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("mra.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("nomic_bert.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("nystromformer.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("roc_bert.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("roformer.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("tapas.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("transformer.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("visual_bert.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("yoso.embeddings.word_embeddings.weight", &["cls.predictions.decoder.weight"]),
    row("data2vec_text.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("esm.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("gte.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("ibert.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("longformer.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("mpnet.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    row("roberta_prelayernorm.embeddings.word_embeddings.weight", &["lm_head.decoder.weight"]),
    // The bias of a masked-LM head: PEFT and an untied model know it by the second name, files hold the first.
    beside(
        "cls.predictions.transform.dense.weight",
        "cls.predictions.bias",
        &["cls.predictions.decoder.bias"],
    ),
    beside("lm_head.dense.weight", "lm_head.bias", &["lm_head.decoder.bias"]),
    beside("predictions.dense.weight", "predictions.bias", &["predictions.decoder.bias"]),
];

/// Model types whose `tie_word_embeddings` also scales the logits: it cannot be set to false without changing more.
const FLAG_SCALES_LOGITS: &[&str] =
    &["t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pop2piano", "t5gemma"];

#[derive(Clone, Copy)]
struct Row {
    owner: &'static str,
    uses: &'static [&'static str],
    only: Option<&'static str>,
    /// A tensor that only models with this tie have.
    beside: Option<&'static str>,
}

const fn row(owner: &'static str, uses: &'static [&'static str]) -> Row {
    Row { owner, uses, only: None, beside: None }
}

const fn beside(other: &'static str, owner: &'static str, uses: &'static [&'static str]) -> Row {
    Row { beside: Some(other), ..row(owner, uses) }
}

/// Tensors that are one when the model is loaded, by their names in the model's class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tied {
    /// Stored on disk, and the name from which the absent ones are loaded.
    pub owner: String,
    /// Stored on disk beside the owner.
    pub stored: Vec<String>,
    /// Not on disk.
    pub absent: Vec<String>,
    /// The output head among them.
    pub head: Option<String>,
}

impl Tied {
    /// Every member.
    pub fn members(&self) -> impl Iterator<Item = &String> {
        [&self.owner].into_iter().chain(&self.stored).chain(&self.absent)
    }

    /// Whether it is the bias of a head: one parameter in all that is computed, whatever becomes of the head's matrix.
    pub fn is_bias(&self) -> bool {
        self.owner.ends_with(".bias")
    }

    /// Whether a name is one of the members.
    pub fn holds(&self, name: &str) -> bool {
        self.members().any(|member| member == name)
    }
}

/// The ties of a base: `names` are those of its tensors in the model's class. A flag that is not in the config is what the
/// tensors say: a head that is not stored is tied.
pub fn find_tied<V>(names: &BTreeMap<String, V>, config: Option<&Map<String, Value>>) -> Vec<Tied> {
    let flag = config.and_then(tie_flag);
    if flag == Some(false) {
        return Vec::new();
    }
    let model_type = config.and_then(model_type);
    let mut claimed = BTreeSet::new();
    let mut found = Vec::new();
    for row in TIED.iter().filter(|row| row.only.is_none_or(|only| Some(only) == model_type)) {
        for prefix in prefixes(names, row) {
            let full = |name: &&str| format!("{prefix}{name}");
            if row.beside.is_some_and(|other| !names.contains_key(&full(&other))) {
                continue;
            }
            let members: Vec<String> = [&row.owner].into_iter().chain(row.uses).map(full).collect();
            if members.iter().any(|member| claimed.contains(member)) {
                continue;
            }
            let uses = members.iter().skip(1).cloned();
            let (stored, absent): (Vec<_>, Vec<_>) = uses.partition(|name| names.contains_key(name));
            if absent.is_empty() && flag != Some(true) {
                continue;
            }
            let is_head = |name: &&String| name.ends_with(".weight") && !name.contains("embed_tokens");
            let head = members.iter().skip(1).find(is_head).cloned();
            found.push(Tied { owner: members[0].clone(), stored, absent, head });
            claimed.extend(members);
        }
    }
    found
}

/// What stands before a row's owner in this base, such as `language_model.`.
fn prefixes<V>(names: &BTreeMap<String, V>, row: &Row) -> BTreeSet<String> {
    let prefixes = names.keys().filter_map(|name| name.strip_suffix(row.owner));
    prefixes.filter(|prefix| prefix.is_empty() || prefix.ends_with('.')).map(str::to_owned).collect()
}

fn tie_flag(config: &Map<String, Value>) -> Option<bool> {
    let nested = || config.get("text_config")?.get("tie_word_embeddings")?.as_bool();
    config.get("tie_word_embeddings").and_then(Value::as_bool).or_else(nested)
}

/// `model_type` of a config.
pub(crate) fn model_type(config: &Map<String, Value>) -> Option<&str> {
    config.get("model_type")?.as_str()
}

/// Whether `tie_word_embeddings` does more than tie in this model.
pub(crate) fn flag_scales_logits(config: Option<&Map<String, Value>>) -> bool {
    config.and_then(model_type).is_some_and(|model_type| FLAG_SCALES_LOGITS.contains(&model_type))
}

/// Whether a name is the one by which an untied model knows the bias of its head, and a tied one stores nothing.
pub(crate) fn is_bias_alias(name: &str) -> bool {
    let uses = TIED.iter().filter(|row| row.beside.is_some()).flat_map(|row| row.uses);
    uses.into_iter().any(|alias| {
        name.strip_suffix(alias).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
    })
}

/// Embedding modules that no head is ever tied to.
pub(crate) const UNTIED_EMBEDDINGS: &[&str] =
    &["wpe", "position_embeddings", "token_type_embeddings", "embed_positions"];

/// Whether a module is an embedding or a head, by the names that the field has for them.
pub(crate) fn is_embedding_or_head(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    UNTIED_EMBEDDINGS.contains(&last) || is_vocabulary_module(module)
}

#[cfg(test)]
mod tests {
    use super::{Tied, find_tied};
    use serde_json::{Map, Value, json};
    use std::collections::BTreeMap;

    fn find(names: &[&str], config: Value) -> Vec<Tied> {
        let names: BTreeMap<String, ()> = names.iter().map(|name| ((*name).to_owned(), ())).collect();
        let config: Map<String, Value> = config.as_object().unwrap().clone();
        find_tied(&names, Some(&config))
    }

    #[test]
    fn absent_head_is_tied_unless_the_flag_says_no() {
        let names = ["model.embed_tokens.weight", "model.norm.weight"];
        let tied = find(&names, json!({}));
        assert_eq!(tied[0].owner, "model.embed_tokens.weight");
        assert_eq!(tied[0].absent, ["lm_head.weight"]);
        assert_eq!(tied[0].head.as_deref(), Some("lm_head.weight"));
        assert_eq!(find(&names, json!({"tie_word_embeddings": false})), []);
    }

    #[test]
    fn stored_head_is_tied_only_by_the_flag() {
        let names = ["model.embed_tokens.weight", "lm_head.weight"];
        assert_eq!(find(&names, json!({})), []);
        assert_eq!(find(&names, json!({"tie_word_embeddings": true}))[0].stored, ["lm_head.weight"]);
    }

    #[test]
    fn encoder_decoder_models_tie_four_names() {
        let tied = find(&["shared.weight"], json!({"model_type": "t5"}));
        assert_eq!(
            tied[0].absent,
            ["decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight"]
        );
        let tied = find(&["model.shared.weight"], json!({}));
        assert_eq!(tied.len(), 1);
        assert_eq!(tied[0].owner, "model.shared.weight");
    }

    #[test]
    fn bias_of_a_masked_head_has_two_names() {
        let tied = find(&["cls.predictions.bias", "cls.predictions.transform.dense.weight"], json!({}));
        assert_eq!(
            (&*tied[0].owner, &*tied[0].absent[0]),
            ("cls.predictions.bias", "cls.predictions.decoder.bias")
        );
        assert!(tied[0].is_bias() && tied[0].head.is_none());
        assert_eq!(find(&["lm_head.bias", "lm_head.weight"], json!({"tie_word_embeddings": true})), []);
    }

    #[test]
    fn nested_models_keep_their_prefix() {
        let tied = find(&["language_model.model.embed_tokens.weight"], json!({}));
        assert_eq!(tied[0].absent, ["language_model.lm_head.weight"]);
        let tied = find(&["model.language_model.embed_tokens.weight"], json!({}));
        assert_eq!(tied[0].absent, ["lm_head.weight"]);
    }
}
