//! What an adapter is, as numbers and words: the JSON contract of `fitment inspect`, from which the text is drawn.

mod effect;
mod sentence;

pub(crate) use effect::tokens;
pub use effect::{Effect, Fold, Reason};

use crate::modules::{rank, scale};
use fitment_core::model::{Adapter, Edit, Layout};
use fitment_validate::coverage;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that `inspect` says. Field names are a stable contract.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Version of this contract.
    pub fitment_inspect: u32,
    /// Path of the file or folder, as it was named.
    pub path: String,
    /// Format of the file that was read.
    pub format: String,
    /// Content id; absent for foreign files, which have none.
    pub id: Option<String>,
    /// `weight-space low-rank`, `representation-space`, `full-weight`.
    pub families: Vec<&'static str>,
    /// `LoRA`, `DoRA`, `intervention` …
    pub methods: Vec<&'static str>,
    /// How many edits there are.
    pub edits: usize,
    /// Edits of each kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Module paths that a low-rank edit hits.
    pub modules: usize,
    /// Layers or blocks in which it acts: names up to their number.
    pub layers: usize,
    /// Ranks that occur, ascending.
    pub ranks: Vec<u64>,
    /// Multipliers that occur, ascending.
    pub scales: Vec<f64>,
    /// Stored weights, source and digests not counted.
    pub parameters: u64,
    /// Dtypes of the stored weights.
    pub dtypes: Vec<&'static str>,
    /// What changes, for which tokens, at what cost.
    #[serde(flatten)]
    pub effect: Effect,
    /// The base that it was made for.
    pub base: BaseSummary,
    /// What it was converted from.
    pub source: Option<SourceSummary>,
    /// What people say about it.
    pub about: Option<AboutSummary>,
    /// Edits of one sort on one kind of module, over the layers.
    pub groups: Vec<Group>,
    /// Every stored tensor, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorLine>>,
}

/// The base, as the adapter records it.
#[derive(Debug, Serialize)]
pub struct BaseSummary {
    /// Name on a hub, or of a folder.
    pub name: Option<String>,
    /// Revision of that name.
    pub revision: Option<String>,
    /// `LlamaForCausalLM` and the like.
    pub architecture: Option<String>,
    /// Naming of its tensors: `hf`, `diffusers` …
    pub layout: String,
    /// Digests of the touched tensors are recorded.
    pub bound: bool,
    /// How many of its tensors the adapter changes.
    pub touched_tensors: usize,
    /// Tensors that are recorded as unchanged.
    pub unchanged_tensors: usize,
    /// Elements of the touched tensors, when all shapes are known.
    pub touched_parameters: Option<u64>,
    /// Elements of the whole base, when it was given.
    pub parameters: Option<u64>,
    /// Its bytes.
    pub bytes: Option<u64>,
}

/// Where it came from.
#[derive(Debug, Serialize)]
pub struct SourceSummary {
    /// Format of the source.
    pub format: String,
    /// Version of the tool that wrote it.
    pub version: Option<String>,
    /// Paths of the files that are kept as they were.
    pub files: Vec<String>,
    /// How many tensors without effect are kept.
    pub kept_tensors: usize,
}

/// What people say about it.
#[derive(Debug, Serialize)]
pub struct AboutSummary {
    /// One line.
    pub title: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// As its author wrote it.
    pub license: Option<String>,
    /// Words in a prompt that call for it.
    pub triggers: Vec<String>,
    /// Free words.
    pub tags: Vec<String>,
}

/// Edits of one sort on one kind of module.
#[derive(Debug, Serialize)]
pub struct Group {
    /// Part of a pipeline.
    pub component: Option<String>,
    /// Target with its layer number as `*`.
    pub target: String,
    /// The layers, such as `0-21`; empty where the name has none.
    pub layers: String,
    /// Kind of edit, with what marks it off.
    pub edit: String,
    /// Rank, of what has one.
    pub rank: Option<u64>,
    /// The multiplier, of what has one.
    pub scale: Option<f64>,
    /// Dtypes of its weights.
    pub dtype: String,
    /// How many edits.
    pub count: usize,
}

/// One stored tensor.
#[derive(Debug, Serialize)]
pub struct TensorLine {
    /// Target or site of its edit.
    pub target: String,
    /// Kind of the edit.
    pub kind: &'static str,
    /// Its role in the edit.
    pub role: &'static str,
    /// Its dtype.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
}

impl Summary {
    /// The summary of an adapter. `id` is the content id, of a file that has one.
    pub fn of(adapter: &Adapter<'_>, path: &str, format: &str, id: Option<String>) -> Self {
        let mut kinds = BTreeMap::new();
        for edit in &adapter.edits {
            *kinds.entry(edit.kind()).or_insert(0) += 1;
        }
        let scales: BTreeMap<u64, f64> = scales(adapter).map(|scale| (order_of(scale), scale)).collect();
        Self {
            fitment_inspect: 1,
            path: path.to_owned(),
            format: format.to_owned(),
            id,
            families: families(adapter),
            methods: methods(adapter),
            edits: adapter.edits.len(),
            kinds,
            modules: modules(adapter),
            layers: layers(adapter),
            ranks: ranks(adapter).collect::<BTreeSet<_>>().into_iter().collect(),
            scales: scales.into_values().collect(),
            parameters: parameters(adapter),
            dtypes: dtypes(adapter),
            effect: Effect::of(adapter, None),
            base: base(adapter),
            source: adapter.source.as_ref().map(|source| SourceSummary {
                format: source.format.clone(),
                version: source.version.clone(),
                files: source.files.iter().map(|file| file.path.clone()).collect(),
                kept_tensors: source.kept.len(),
            }),
            about: (!adapter.about.is_empty()).then(|| AboutSummary {
                title: adapter.about.title.clone(),
                description: adapter.about.description.clone(),
                license: adapter.about.license.clone(),
                triggers: adapter.about.triggers.clone(),
                tags: adapter.about.tags.clone(),
            }),
            groups: groups(adapter),
            tensors: None,
        }
    }

    /// The same with every stored tensor.
    pub fn with_tensors(mut self, adapter: &Adapter<'_>) -> Self {
        let lines = adapter.edits.iter().flat_map(|edit| {
            let target = edit.label().unwrap_or_default();
            let kind = edit.kind();
            edit.tensors().into_iter().map(move |(role, tensor)| TensorLine {
                target: target.clone(),
                kind,
                role,
                dtype: tensor.dtype().name(),
                shape: tensor.dims().to_vec(),
            })
        });
        self.tensors = Some(lines.collect());
        self
    }
}

/// An order of finite doubles as integers, for sets of scales.
fn order_of(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn scales(adapter: &Adapter<'_>) -> impl Iterator<Item = f64> {
    adapter.edits.iter().filter_map(scale)
}

fn ranks(adapter: &Adapter<'_>) -> impl Iterator<Item = u64> {
    adapter.edits.iter().filter_map(rank)
}

fn families(adapter: &Adapter<'_>) -> Vec<&'static str> {
    let has = |test: fn(&Edit<'_>) -> bool| adapter.edits.iter().any(test);
    let families = [
        (has(|edit| matches!(edit, Edit::Lora(_))), "weight-space low-rank"),
        (has(|edit| matches!(edit, Edit::Intervention(_))), "representation-space"),
        (has(is_full_weight), "full-weight"),
    ];
    families.into_iter().filter(|(used, _)| *used).map(|(_, name)| name).collect()
}

fn is_full_weight(edit: &Edit<'_>) -> bool {
    match edit {
        Edit::Set(_)
        | Edit::Add(_)
        | Edit::Remove(_)
        | Edit::SparseSet(_)
        | Edit::SparseAdd(_)
        | Edit::Bits(_) => true,
        Edit::Lora(_) | Edit::Config(_) | Edit::Intervention(_) => false,
    }
}

fn methods(adapter: &Adapter<'_>) -> Vec<&'static str> {
    let method = |edit: &Edit<'_>| match edit {
        Edit::Lora(edit) if edit.magnitude.is_some() => "DoRA",
        Edit::Lora(edit) if edit.origin.rslora => "rsLoRA",
        Edit::Lora(_) => "LoRA",
        Edit::Set(edit) if edit.rows.is_some() => "replaced rows",
        Edit::Set(edit) if edit.create => "new tensors",
        Edit::Set(_) => "replaced tensors",
        Edit::Remove(_) => "removed tensors",
        Edit::Add(_) => "dense update",
        Edit::Config(_) => "config",
        Edit::Intervention(_) => "intervention",
        Edit::SparseSet(_) => "replaced elements",
        Edit::SparseAdd(_) => "sparse update",
        Edit::Bits(_) => "bit-exact diff",
    };
    adapter.edits.iter().map(method).collect::<BTreeSet<_>>().into_iter().collect()
}

fn modules(adapter: &Adapter<'_>) -> usize {
    let lora = adapter.edits.iter().filter(|edit| matches!(edit, Edit::Lora(_)));
    lora.filter_map(Edit::target).map(|target| target.label()).collect::<BTreeSet<_>>().len()
}

fn layers(adapter: &Adapter<'_>) -> usize {
    let rows = crate::modules(adapter).into_iter().filter(|module| !module.row.is_empty());
    rows.map(|module| (module.component, module.row)).collect::<BTreeSet<_>>().len()
}

fn parameters(adapter: &Adapter<'_>) -> u64 {
    let tensors = adapter.edits.iter().flat_map(Edit::tensors);
    let stored =
        tensors.filter(|(_, tensor)| tensor.dtype().is_weight()).map(|(_, tensor)| tensor.elements());
    // Of a compressed change, the elements that it changes.
    let changed = adapter.edits.iter().filter_map(|edit| match edit {
        Edit::Bits(edit) => Some(edit.changed),
        _ => None,
    });
    stored.chain(changed).sum()
}

fn dtypes(adapter: &Adapter<'_>) -> Vec<&'static str> {
    let tensors = adapter.edits.iter().flat_map(Edit::tensors);
    let weights = tensors.filter(|(_, tensor)| tensor.dtype().is_weight());
    weights.map(|(_, tensor)| tensor.dtype().name()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn base(adapter: &Adapter<'_>) -> BaseSummary {
    let base = &adapter.base;
    let touched: Vec<_> = base.tensors.iter().filter(|tensor| !tensor.unchanged).collect();
    let elements = touched.iter().map(|tensor| {
        let count = tensor.experts.map_or(1, fitment_core::model::ExpertRange::count);
        tensor.shape.as_ref().map(|shape| shape.elements().saturating_mul(count))
    });
    BaseSummary {
        name: base.name.clone(),
        revision: base.revision.clone(),
        architecture: base.architecture.clone(),
        layout: Layout::to_text(&base.layout),
        bound: base.is_bound(),
        touched_tensors: touched.len(),
        unchanged_tensors: base.tensors.len() - touched.len(),
        touched_parameters: elements.sum::<Option<u64>>().filter(|sum| *sum > 0),
        parameters: None,
        bytes: None,
    }
}

/// What makes two edits stand in one row of the table.
type RowKey = (String, Option<u64>, Option<u64>, String);

fn groups(adapter: &Adapter<'_>) -> Vec<Group> {
    let mut rows: BTreeMap<RowKey, (Option<f64>, Vec<String>)> = BTreeMap::new();
    for edit in &adapter.edits {
        let Some(label) = edit.label() else { continue };
        let (rank, scale) = (rank(edit), scale(edit));
        let tensors = edit.tensors();
        let dtypes: BTreeSet<_> = tensors
            .iter()
            .filter(|(_, tensor)| tensor.dtype().is_weight())
            .map(|(_, tensor)| tensor.dtype().name())
            .collect();
        let dtype = dtypes.into_iter().collect::<Vec<_>>().join("+");
        let key = (edit_name(edit), rank, scale.map(order_of), dtype);
        rows.entry(key).or_insert_with(|| (scale, Vec::new())).1.push(label);
    }
    let mut groups = Vec::new();
    for ((edit, rank, _, dtype), (scale, names)) in rows {
        for group in coverage::group(names.iter().map(String::as_str)) {
            groups.push(Group {
                component: group.component,
                target: group.kind,
                layers: group.layers,
                edit: edit.clone(),
                rank,
                scale,
                dtype: dtype.clone(),
                count: group.count,
            });
        }
    }
    groups.sort_by(|a, b| (&a.component, &a.target, &a.edit).cmp(&(&b.component, &b.target, &b.edit)));
    groups
}

fn edit_name(edit: &Edit<'_>) -> String {
    let timed = edit.target().is_some_and(|target| target.when.is_some());
    format!("{}{}", kind_name(edit), if timed { " (some tokens)" } else { "" })
}

fn kind_name(edit: &Edit<'_>) -> String {
    match edit {
        Edit::Lora(edit) => {
            let mut name = "lora".to_owned();
            name.push_str(if edit.magnitude.is_some() { "+magnitude" } else { "" });
            name.push_str(if edit.mid.is_some() { "+mid" } else { "" });
            name.push_str(if edit.transposed { " (transposed)" } else { "" });
            name
        }
        Edit::Set(edit) => match &edit.rows {
            Some(rows) => format!("set {} rows", rows.elements()),
            None if edit.create => "set (new)".to_owned(),
            None => "set".to_owned(),
        },
        Edit::Add(_)
        | Edit::Remove(_)
        | Edit::Config(_)
        | Edit::Intervention(_)
        | Edit::SparseSet(_)
        | Edit::SparseAdd(_)
        | Edit::Bits(_) => edit.kind().to_owned(),
    }
}
