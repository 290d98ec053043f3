//! Which adapter of a folder is meant that holds several, and what becomes of the others.

use crate::error::Error;
use crate::files::{Files, is_safe_path, kept_bytes};
use crate::loss::Loss;
use fitment_core::model::SourceFile;
use std::collections::BTreeSet;

/// The sub-folders (with a slash behind; empty for the root) that hold a file of this name.
pub(crate) fn folders_with(files: &Files<'_>, name: &str) -> BTreeSet<String> {
    let folder = |path: &str| path.strip_suffix(name).map(str::to_owned);
    let is_folder = |folder: &String| folder.is_empty() || folder.ends_with('/');
    files.iter().filter_map(|(path, _)| folder(path)).filter(is_folder).collect()
}

/// The sub-folder (with a slash behind it; empty for the root) of the adapter that is named, or of the only one. The root
/// counts as meant where an adapter lies there: its tool loads that one when it is given the folder.
///
/// # Errors
/// [`Error::Ambiguous`] when the folder holds several and none is named, or not the one that is.
pub(crate) fn choose(folders: &BTreeSet<String>, adapter_name: Option<&str>) -> Result<String, Error> {
    let shown = || {
        let names = folders.iter().map(|folder| match folder.trim_end_matches('/') {
            "" => "default",
            name => name,
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let ambiguous = |what: String, reason: String| {
        let hint = format!("name one with --adapter: {}", shown());
        Err(Error::Ambiguous { what, reason, hint })
    };
    if let Some(name) = adapter_name {
        let wanted = format!("{}/", name.trim_end_matches('/'));
        if folders.contains(&wanted) {
            return Ok(wanted);
        }
        if name == "default" && (folders.contains("") || folders.is_empty()) {
            return Ok(String::new());
        }
        return ambiguous(format!("adapter {name}"), format!("the folder holds {}", shown()));
    }
    if folders.contains("") || folders.is_empty() {
        return Ok(String::new());
    }
    match folders.iter().next() {
        Some(only) if folders.len() == 1 => Ok(only.clone()),
        _ => ambiguous("which adapter".to_owned(), format!("the folder holds several: {}", shown())),
    }
}

/// The other adapters of a folder, which are left out: their sub-folders with a slash behind, empty for the root.
pub(crate) fn left(others: &[String]) -> impl Iterator<Item = Loss> {
    others.iter().map(|other| Loss::AdapterLeft { folder: other.trim_end_matches('/').to_owned() })
}

/// Whether a file lies in the sub-folder of one of them. What lies at the root is nobody's alone.
pub(crate) fn is_of_another(others: &[String], path: &str) -> bool {
    others.iter().any(|other| !other.is_empty() && path.starts_with(&**other))
}

/// What of an adapter's folder is neither its weights nor another adapter's: `configs`, which say what the adapter does, are carried
/// along, the rest only where that is asked for. Paths are those below the adapter's own folder.
pub(crate) fn beside<'a>(
    files: &Files<'a>,
    (prefix, others): (&str, &[String]),
    weights: &str,
    configs: &[&str],
    keep: bool,
) -> (Vec<SourceFile<'a>>, Vec<Loss>) {
    let (mut kept, mut losses) = (Vec::new(), left(others).collect::<Vec<_>>());
    for (path, data) in files.iter().filter(|(path, _)| !is_of_another(others, path)) {
        let Some(own) = path.strip_prefix(prefix).filter(|own| *own != weights) else { continue };
        match kept_bytes(data).filter(|_| configs.contains(&own) || (keep && is_safe_path(own))) {
            Some(data) => kept.push(SourceFile { path: own.to_owned(), data }),
            None => losses.push(Loss::FileLeft { path: path.to_owned() }),
        }
    }
    (kept, losses)
}
