//! Modules of the vocabulary, by the names that the field has for them.

/// Last parts of the names of modules that read the vocabulary.
const EMBEDDINGS: &[&str] = &[
    "embed_tokens",
    "wte",
    "word_embeddings",
    "shared",
    "embed_in",
    "tok_embeddings",
    "tokens_embed",
    "embeddings",
];

/// Last parts of the names of modules that write the vocabulary.
const HEADS: &[&str] = &[
    "lm_head",
    "embed_out",
    "output_projection",
    "proj_out",
    "decoder",
    "vocab_projector",
    "generator_lm_head",
];

/// Whether a module reads or writes the vocabulary, by the last part of its path.
pub fn is_vocabulary_module(module: &str) -> bool {
    EMBEDDINGS.contains(&last_part(module)) || is_head_module(module)
}

/// Whether a module writes the vocabulary, by the last part of its path.
pub fn is_head_module(module: &str) -> bool {
    HEADS.contains(&last_part(module))
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// Whether a tensor has a row for each token, by its name: weight or bias of a module of the vocabulary.
pub fn is_of_vocabulary(tensor: &str) -> bool {
    let module = tensor.strip_suffix(".weight").or_else(|| tensor.strip_suffix(".bias"));
    is_vocabulary_module(module.unwrap_or(tensor))
}
