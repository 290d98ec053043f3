//! The other files of an adapter's folder: carried along, or listed as left out.

use super::folder::{CONFIG, Folder, INDEX};
use crate::files::{Files, is_safe_path, kept_bytes};
use crate::loss::Loss;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::json;
use fitment_core::model::SourceFile;
use serde_json::Value;

/// Bytes of a tokenizer that is looked into: the largest in use hold about 40 MB.
const MAX_TOKENIZER_BYTES: usize = 128_000_000;

/// What becomes of the files of a folder.
#[derive(Debug, Default)]
pub(super) struct Carried<'a> {
    pub(super) files: Vec<SourceFile<'a>>,
    pub(super) losses: Vec<Loss>,
}

/// Carries the config and the index, and with `keep_files` everything else of the adapter.
pub(super) fn carry<'a>(
    files: &Files<'a>,
    folder: &Folder<'a>,
    keep_files: bool,
    base: Option<&dyn Checkpoint>,
) -> Carried<'a> {
    let mut carried = Carried::default();
    let needed = [(CONFIG, folder.config), (INDEX, folder.index)];
    for (name, bytes) in needed.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
        let path = format!("{}{name}", folder.prefix);
        let path = if is_safe_path(&path) { path } else { name.to_owned() };
        carried.files.extend(source_file(&path, bytes));
    }
    carried.losses.extend(
        folder
            .others
            .iter()
            .map(|other| Loss::AdapterLeft { folder: other.trim_end_matches('/').to_owned() }),
    );
    for (path, bytes) in files.iter().filter(|(path, _)| is_other(path, folder)) {
        let inside = path.starts_with(&folder.prefix);
        match source_file(path, bytes).filter(|_| keep_files && inside && is_safe_path(path)) {
            Some(file) => carried.files.push(file),
            None => carried.losses.push(left(path, bytes, base)),
        }
    }
    carried
}

/// Whether a file is neither config nor weights, nor of another adapter.
fn is_other(path: &str, folder: &Folder<'_>) -> bool {
    let own = [CONFIG, INDEX].iter().any(|name| path.strip_prefix(&folder.prefix) == Some(name));
    let of_another = folder.others.iter().any(|other| !other.is_empty() && path.starts_with(other));
    !own && !of_another && !folder.weight_files.iter().any(|file| file == path)
}

fn source_file<'a>(path: &str, bytes: &'a [u8]) -> Option<SourceFile<'a>> {
    Some(SourceFile { path: path.to_owned(), data: kept_bytes(bytes)? })
}

fn left(path: &str, bytes: &[u8], base: Option<&dyn Checkpoint>) -> Loss {
    match added_token(path, bytes, base) {
        Some(token) => Loss::TokenizerLeft { path: path.to_owned(), token },
        None => Loss::FileLeft { path: path.to_owned() },
    }
}

/// A token of a tokenizer file whose number is beyond the base's vocabulary.
fn added_token(path: &str, bytes: &[u8], base: Option<&dyn Checkpoint>) -> Option<String> {
    let vocabulary = vocabulary_size(base?)?;
    let beyond = |number: Option<u64>| number.is_some_and(|number| number >= vocabulary);
    let name = path.rsplit('/').next()?;
    if !matches!(name, "tokenizer.json" | "added_tokens.json") || bytes.len() > MAX_TOKENIZER_BYTES {
        return None;
    }
    let parsed = json::parse(bytes).ok()?;
    match (name, &parsed) {
        ("added_tokens.json", Value::Object(tokens)) => {
            tokens.iter().find(|(_, number)| beyond(number.as_u64())).map(|(token, _)| token.clone())
        }
        ("tokenizer.json", tokenizer) => {
            let tokens = tokenizer.get("added_tokens")?.as_array()?;
            let added = tokens.iter().find(|token| beyond(token.get("id").and_then(Value::as_u64)))?;
            Some(added.get("content")?.as_str()?.to_owned())
        }
        _ => None,
    }
}

/// The rows of the base's vocabulary by its config.
pub(super) fn vocabulary_size(base: &dyn Checkpoint) -> Option<u64> {
    let config = base.config()?;
    let nested = || config.get("text_config")?.get("vocab_size");
    config.get("vocab_size").or_else(nested)?.as_u64()
}
