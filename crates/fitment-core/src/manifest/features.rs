use super::v1::{Edit, LoraForm};
use std::collections::BTreeSet;

/// Every feature that this reader knows: edit kinds, and options that change the function (spec section 3.2).
pub const FEATURES: &[&str] = &[
    "add",
    "add.exceptions",
    "bits",
    "component",
    "config",
    "experts",
    "intervention",
    "intervention.activation",
    "intervention.dims",
    "intervention.input_site",
    "lora",
    "lora.conv",
    "lora.magnitude",
    "lora.mid",
    "lora.stacked",
    "lora.transposed",
    "remove",
    "set",
    "set.create",
    "set.reshape",
    "set.rows",
    "slice",
    "sparse_add",
    "sparse_set",
    "uses",
    "when",
];

/// The features that edits use.
pub fn requires(edits: &[Edit]) -> BTreeSet<&'static str> {
    let mut features = BTreeSet::new();
    for edit in edits {
        features.insert(edit.kind());
        if let Some(target) = edit.target() {
            let options = [
                (target.component.is_some(), "component"),
                (target.experts.is_some(), "experts"),
                (!target.slice.is_empty(), "slice"),
                (!target.uses.is_empty(), "uses"),
                (target.when.is_some(), "when"),
            ];
            features.extend(options.into_iter().filter(|(used, _)| *used).map(|(_, name)| name));
        }
        features.extend(options_of(edit).into_iter().filter(|(used, _)| *used).map(|(_, name)| name));
    }
    features
}

fn options_of(edit: &Edit) -> Vec<(bool, &'static str)> {
    match edit {
        Edit::Lora(edit) => vec![
            (edit.form == LoraForm::Conv, "lora.conv"),
            (edit.form == LoraForm::Stacked, "lora.stacked"),
            (edit.magnitude.is_some(), "lora.magnitude"),
            (edit.tensors.contains_key("mid"), "lora.mid"),
            (edit.transposed, "lora.transposed"),
        ],
        Edit::Set(edit) => {
            let has_rows = edit.tensors.contains_key("rows");
            vec![(edit.create, "set.create"), (edit.reshape, "set.reshape"), (has_rows, "set.rows")]
        }
        Edit::Add(edit) => vec![(edit.tensors.contains_key("exc_index"), "add.exceptions")],
        Edit::Config(edit) => vec![(edit.component.is_some(), "component")],
        Edit::Intervention(edit) => vec![
            (edit.component.is_some(), "component"),
            (edit.activation.is_some(), "intervention.activation"),
            (edit.dims.is_some(), "intervention.dims"),
            (edit.input_site.is_some(), "intervention.input_site"),
        ],
        Edit::Remove(_) | Edit::SparseSet(_) | Edit::SparseAdd(_) | Edit::Bits(_) => vec![],
    }
}
