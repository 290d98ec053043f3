//! Which adapter of a folder is meant that holds several.

use crate::error::Error;
use std::collections::BTreeSet;

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
