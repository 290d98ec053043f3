//! The edits of an adapter as a table: layers down, modules across.

use crate::analysis::Analysis;
use fitment_core::model::{Adapter, Edit, Intervention, Site};
use fitment_validate::coverage;
use serde::Serialize;

/// One edit and its place in the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Module {
    /// Index of the edit in the adapter.
    pub edit: usize,
    /// Target or site.
    pub label: String,
    /// Part of a pipeline.
    pub component: Option<String>,
    /// The name up to the number of its layer or block; empty for one without a number.
    pub row: String,
    /// The rest of the name, without `.weight`.
    pub column: String,
    /// Kind of the edit.
    pub kind: &'static str,
    /// Rank, of what has one.
    pub rank: Option<u64>,
    /// The multiplier, of what has one.
    pub scale: Option<f64>,
    /// Stored weights.
    pub parameters: u64,
    /// Part of the target's elements that the edit changes, where the target's shape is known.
    pub share: Option<f64>,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Bytes of the whole target, where its dtype and shape are known.
    pub target_bytes: Option<u64>,
    /// Has a magnitude beside its factors (DoRA).
    pub magnitude: bool,
    /// Of an intervention: the tokens it acts on.
    pub positions: Option<String>,
}

/// What a cell of a heat map shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Measure {
    /// `‖ΔW‖`.
    Norm,
    /// `‖ΔW‖² / σ₁²`.
    StableRank,
    /// The multiplier.
    Scale,
    /// Rank.
    Rank,
    /// Part of the elements that change.
    Share,
}

impl Measure {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Measure; 5] =
        [Measure::Norm, Measure::StableRank, Measure::Scale, Measure::Rank, Measure::Share];

    /// Its name, as in links and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Norm => "norm",
            Measure::StableRank => "stable-rank",
            Measure::Scale => "scale",
            Measure::Rank => "rank",
            Measure::Share => "share",
        }
    }

    /// The measure of a name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// What it is, for a heading.
    pub fn title(self) -> &'static str {
        match self {
            Measure::Norm => "Norm of the update, ‖ΔW‖",
            Measure::StableRank => "Stable rank of the update, ‖ΔW‖² / σ₁²",
            Measure::Scale => "Scale",
            Measure::Rank => "Rank",
            Measure::Share => "Share of elements that change",
        }
    }

    /// Its value for a module; `None` where it has none, or where it is not computed yet.
    pub fn of(self, module: &Module, analysis: Option<&Analysis>) -> Option<f64> {
        match self {
            Measure::Norm => analysis?.norm,
            Measure::StableRank => analysis?.stable_rank,
            Measure::Scale => module.scale,
            Measure::Rank => module.rank.map(|rank| rank as f64),
            Measure::Share => module.share,
        }
    }
}

/// Every edit but those of the config, in the adapter's order.
pub fn modules(adapter: &Adapter<'_>) -> Vec<Module> {
    let named: Vec<(usize, &Edit<'_>, String)> = adapter
        .edits
        .iter()
        .enumerate()
        .filter_map(|(index, edit)| Some((index, edit, edit.label()?)))
        .collect();
    let places = coverage::places(named.iter().map(|(_, edit, label)| name_in_table(edit, label)));
    let module = |((index, edit, label), place): ((usize, &Edit<'_>, String), coverage::Place)| Module {
        edit: index,
        component: place.component,
        row: place.row,
        column: column(edit, place.column),
        kind: edit.kind(),
        rank: rank(edit),
        scale: scale(edit),
        parameters: parameters(edit),
        share: share(adapter, edit),
        bytes: edit.tensors().iter().map(|(_, tensor)| tensor.bytes().len() as u64).sum(),
        target_bytes: target_bytes(adapter, edit),
        magnitude: matches!(edit, Edit::Lora(edit) if edit.magnitude.is_some()),
        positions: match edit {
            Edit::Intervention(edit) => Some(crate::summary::tokens(&edit.positions)),
            _ => None,
        },
        label,
    };
    named.into_iter().zip(places).map(module).collect()
}

/// As a path: a layer's site as `layer.15.block_output`.
fn name_in_table(edit: &Edit<'_>, label: &str) -> String {
    match edit {
        Edit::Intervention(Intervention { site: Site::Layer { layer, component }, .. }) => {
            let prefix = label.split_once('/').map(|(component, _)| format!("{component}/"));
            format!("{}layer.{layer}.{}", prefix.unwrap_or_default(), component.name())
        }
        _ => label.replacen('@', "", 1),
    }
}

/// Of an intervention, with the tokens it acts on: sites of one layer may differ in nothing else.
fn column(edit: &Edit<'_>, column: String) -> String {
    match edit {
        Edit::Intervention(edit) => format!("{column}, {}", crate::summary::tokens(&edit.positions)),
        _ => column,
    }
}

fn target_bytes(adapter: &Adapter<'_>, edit: &Edit<'_>) -> Option<u64> {
    let target = edit.target()?;
    let (base, _) = adapter.base.find(target.component.as_ref(), target.name.as_str())?;
    let bytes = base.shape.as_ref()?.byte_len(base.dtype?).ok()?;
    bytes.checked_mul(target.experts.map_or(1, |range| range.end - range.start))
}

/// The rank, of what has one.
pub(crate) fn rank(edit: &Edit<'_>) -> Option<u64> {
    match edit {
        Edit::Lora(edit) => Some(edit.rank()),
        Edit::Intervention(edit) => edit.rank(),
        _ => None,
    }
}

/// The multiplier, of what has one.
pub(crate) fn scale(edit: &Edit<'_>) -> Option<f64> {
    match edit {
        Edit::Lora(edit) => Some(edit.scale),
        Edit::Add(edit) => Some(edit.scale),
        Edit::SparseAdd(edit) => Some(edit.scale),
        Edit::Intervention(edit) => Some(edit.scale),
        Edit::Set(_) | Edit::SparseSet(_) | Edit::Bits(_) | Edit::Remove(_) | Edit::Config(_) => None,
    }
}

fn parameters(edit: &Edit<'_>) -> u64 {
    let weights = edit.tensors().into_iter().filter(|(_, tensor)| tensor.dtype().is_weight());
    match edit {
        Edit::Bits(edit) => edit.changed,
        _ => weights.map(|(_, tensor)| tensor.elements()).sum(),
    }
}

/// Of what replaces or adds single elements or rows.
fn share(adapter: &Adapter<'_>, edit: &Edit<'_>) -> Option<f64> {
    let changed = match edit {
        Edit::SparseSet(edit) => edit.value.elements(),
        Edit::SparseAdd(edit) => edit.value.elements(),
        Edit::Bits(edit) => edit.changed,
        Edit::Set(edit) if !edit.create => edit.value.elements(),
        _ => return None,
    };
    let target = edit.target()?;
    let (base, _) = adapter.base.find(target.component.as_ref(), target.name.as_str())?;
    let whole = base.shape.as_ref()?.elements();
    (whole > 0).then(|| changed as f64 / whole as f64)
}
