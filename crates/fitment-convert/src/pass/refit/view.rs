//! A base under both names: what it has as one also in parts, and what it has in parts also as one.

use super::fusing::{FUSINGS, Fusing, QkvRows, Rows, heads, qkv_rows, rows_of_model, sizes};
use crate::conv1d::is_conv1d;
use crate::error::Error;
use crate::pass::experts::{Part as OfExpert, parts};
use crate::pass::gather::gathered;
use crate::pass::stacks::Stacks;
use fitment_core::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use fitment_core::limits::MAX_EXPERTS;
use fitment_core::model::IndexRange;
use fitment_core::tensor::{Bytes, Shape, Tensor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A base with the tensors that it has in another form besides.
pub(super) struct View<'b> {
    base: &'b dyn Checkpoint,
    tensors: BTreeMap<String, TensorInfo>,
    /// What is not there but can be made of what is, by name.
    made: BTreeMap<String, Made>,
    /// Modules whose parts cannot be told apart, and why.
    undecided: BTreeMap<String, Undecided>,
    /// The order that was said.
    said: Option<QkvRows>,
}

/// Why the rows of a fused layer are not known.
#[derive(Clone, Copy, Debug)]
enum Undecided {
    /// The base has the whole or the parts, and nothing says the order.
    Order { has_whole: bool },
    /// Nothing says how many heads there are.
    Heads { has_whole: bool },
    /// They do not come out even by the heads of the config.
    Uneven { has_whole: bool },
    /// Another order was said than the base's config has.
    Contradicted { of_config: QkvRows, said: QkvRows },
}

impl Undecided {
    fn error(self, module: &str, (said, has_config): (Option<QkvRows>, bool)) -> Error {
        let form = |has_whole| if has_whole { "fused with others" } else { "in parts" };
        let config = if has_config { "" } else { ", and put config.json beside the base" };
        let (reason, hint) = match self {
            Self::Contradicted { of_config, said } => {
                let (known, said) = (of_config.name(), said.name());
                return Error::Option {
                    option: format!("--qkv-rows {said}"),
                    reason: format!(
                        "contradicts the base, which by its config.json has the rows of {module} {known}"
                    ),
                    hint: "leave it out".to_owned(),
                };
            }
            Self::Order { has_whole } => {
                let order = if has_whole {
                    "the order of the rows there is not known"
                } else {
                    "in which order the adapter has their rows is not known"
                };
                let names = QkvRows::ALL.map(|rows| format!("--qkv-rows {}", rows.name())).join(", ");
                (
                    format!("the base has it {}, and {order}", form(has_whole)),
                    format!("say the order: {names}{config}"),
                )
            }
            Self::Heads { has_whole } => (
                format!("the base has it {}, and nothing says how many heads there are", form(has_whole)),
                "put config.json with the numbers of heads beside the base".to_owned(),
            ),
            Self::Uneven { has_whole } => (
                format!(
                    "the base has it {}, and its rows do not come out even by the heads of its config",
                    form(has_whole)
                ),
                match said {
                    Some(said) => format!(
                        "check the heads in the base's config.json, and whether --qkv-rows {} is right",
                        said.name()
                    ),
                    None => "check the heads in the base's config.json".to_owned(),
                },
            ),
        };
        Error::Ambiguous { what: module.to_owned(), reason, hint }
    }
}

/// A tensor that a base has in another form.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// Rows of one of its tensors.
    Part(Part),
    /// Several of its tensors, one behind the other or in turns.
    Whole(Vec<Part>),
}

/// Rows of a whole that are a part.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The tensor of the base: the whole for a part, the part for a whole.
    pub(super) name: String,
    /// The rows of the whole, in the order of those of the part.
    pub(super) rows: Vec<IndexRange>,
    /// The base's tensor is stored `[in, out]`.
    pub(super) transposed: bool,
    /// Of a stack of experts, which of them.
    pub(super) expert: Option<u64>,
}

impl Part {
    /// The rows as indices.
    pub(super) fn indices(&self) -> Option<Vec<usize>> {
        self.rows.iter().flat_map(IndexRange::indices).map(|row| usize::try_from(row).ok()).collect()
    }

    /// The axis of the base's tensor that has its rows.
    pub(super) fn axis(&self) -> usize {
        usize::from(self.transposed) + usize::from(self.expert.is_some())
    }
}

/// A module's tensor: the path of the module without its last word, that word, and the parameter.
type Names<'n> = (&'n str, &'n str, &'n str);

fn split(name: &str) -> Option<Names<'_>> {
    let (module, parameter) = name.rsplit_once('.')?;
    let (path, word) = module.rsplit_once('.').unwrap_or(("", module));
    ["weight", "bias"].contains(&parameter).then_some((path, word, parameter))
}

fn joined(path: &str, word: &str) -> String {
    if path.is_empty() { word.to_owned() } else { format!("{path}.{word}") }
}

fn named(path: &str, word: &str, parameter: &str) -> String {
    format!("{}.{parameter}", joined(path, word))
}

impl<'b> View<'b> {
    /// Looks for everything that a base has in one form and not in the other.
    pub(super) fn of(base: &'b dyn Checkpoint, said: Option<QkvRows>) -> Self {
        let tensors = base.tensors().clone();
        let mut view = View { base, tensors, made: BTreeMap::new(), undecided: BTreeMap::new(), said };
        let stacks = Stacks::of(base.config());
        for name in base.tensors().keys() {
            view.take_experts(name, &stacks);
            view.take_router(name, &stacks);
            let Some(names) = split(name) else { continue };
            for fusing in FUSINGS {
                if fusing.wholes.contains(&names.1) {
                    view.take_apart(fusing, names, said);
                }
                for parts in fusing.parts.iter().filter(|parts| parts[0] == names.1) {
                    view.put_together(fusing, parts, names, said);
                }
            }
        }
        view
    }

    /// Whether there is nothing in another form.
    pub(super) fn is_plain(&self) -> bool {
        self.made.is_empty()
    }

    /// What is made of other tensors, by name.
    pub(super) fn made(&self, name: &str) -> Option<&Made> {
        self.made.get(name)
    }

    /// Dtype and shape of any tensor, made or not.
    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Why a missing tensor is not made of what there is, where that is for want of knowledge.
    pub(super) fn undecided(&self, missing: &str) -> Option<Error> {
        let module = missing.rsplit_once('.').map_or(missing, |(module, _)| module);
        let ends = |known: &str| {
            // Adapters and checkpoints may differ by what stands in front of the layers.
            let same = |a: &str, b: &str| {
                a.strip_suffix(b).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            same(known, module) || same(module, known)
        };
        let (_, why) = self.undecided.iter().find(|(known, _)| ends(known))?;
        Some(why.error(module, (self.said, self.base.config().is_some())))
    }

    fn add(&mut self, name: String, info: TensorInfo, made: Made) {
        if !self.tensors.contains_key(&name) {
            self.tensors.insert(name.clone(), info);
            self.made.insert(name, made);
        }
    }

    /// A whole that the base has, as parts of every name.
    fn take_apart(&mut self, fusing: &Fusing, (path, word, parameter): Names<'_>, said: Option<QkvRows>) {
        let name = named(path, word, parameter);
        let Some(info) = self.base.tensors().get(&name).cloned() else { return };
        let transposed = parameter == "weight" && is_conv1d(word, self.base.config());
        let axis = usize::from(transposed);
        let (Some(rows), true) = (info.shape.dims().get(axis), info.shape.dims().len() <= 2) else { return };
        let config = self.base.config();
        let order = match fusing.rows {
            Rows::Equal => Some(QkvRows::Together),
            Rows::Qkv => qkv_rows(word, true, config, said),
        };
        let heads = config.and_then(heads);
        let of_config = config.and_then(rows_of_model).filter(|_| fusing.rows == Rows::Qkv);
        let contradicted = of_config.zip(said).filter(|(of_config, said)| of_config != said);
        let found = order.filter(|_| contradicted.is_none()).and_then(|order| {
            let sizes = sizes(*rows, fusing.parts[0].len(), fusing.rows, heads)?;
            order.places(&sizes, heads)
        });
        for parts in fusing.parts {
            for (at, part) in parts.iter().enumerate() {
                let Some(rows) = found.as_ref().map(|found| &found[at]) else {
                    let why = match (contradicted, order, heads) {
                        (Some((of_config, said)), ..) => Undecided::Contradicted { of_config, said },
                        (_, None, _) => Undecided::Order { has_whole: true },
                        (_, _, None) => Undecided::Heads { has_whole: true },
                        _ => Undecided::Uneven { has_whole: true },
                    };
                    self.undecided.insert(joined(path, part), why);
                    continue;
                };
                let count = rows.iter().map(IndexRange::len).sum();
                let mut dims = vec![count];
                // Made as a linear layer's, whatever the whole is.
                dims.extend(info.shape.dims().get(1 - axis).filter(|_| info.shape.dims().len() == 2));
                let Ok(shape) = Shape::new(&dims) else { continue };
                let part_of = Part { name: name.clone(), rows: rows.clone(), transposed, expert: None };
                let made = TensorInfo { dtype: info.dtype, shape };
                self.add(named(path, part, parameter), made, Made::Part(part_of));
            }
        }
    }

    /// Mixtral's router by the name that it has in transformers 5, and the other way round.
    fn take_router(&mut self, name: &str, stacks: &Stacks) {
        const OLD: &str = ".block_sparse_moe.gate.weight";
        const NEW: &str = ".mlp.gate.weight";
        let other = match (name.strip_suffix(OLD), name.strip_suffix(NEW)) {
            (Some(block), _) => format!("{block}{NEW}"),
            (_, Some(block)) if stacks.sparse_blocks => format!("{block}{OLD}"),
            _ => return,
        };
        let Some(info) = self.base.tensors().get(name).cloned() else { return };
        let Some(rows) = info.shape.dims().first() else { return };
        let rows = vec![IndexRange { start: 0, end: *rows, step: 1 }];
        let part = Part { name: name.to_owned(), rows, transposed: false, expert: None };
        self.add(other, info, Made::Part(part));
    }

    /// The matrices of each expert of a stack, as models of transformers 4 call them.
    fn take_experts(&mut self, name: &str, stacks: &Stacks) {
        let Some(info) = self.base.tensors().get(name).cloned() else { return };
        let parts = parts(name.rsplit('.').next().unwrap_or(name));
        let &[experts, first, second] = info.shape.dims() else { return };
        if parts.is_empty() || experts > MAX_EXPERTS {
            return;
        }
        let transposed = stacks.is_stored_transposed(parts == [OfExpert::Down], first, second);
        let (all, inputs) = if transposed { (second, first) } else { (first, second) };
        for (at, part) in parts.iter().enumerate() {
            let outputs = stacks.outputs(at as u64, parts.len() as u64, all);
            let (Some((start, end, step)), Some(bundle)) = (outputs, stacks.bundle(name, *part)) else {
                continue;
            };
            let rows = IndexRange { start, end, step };
            let Ok(shape) = Shape::new(&[rows.len(), inputs]) else { continue };
            for expert in 0..experts {
                let part = Part { name: name.to_owned(), rows: vec![rows], transposed, expert: Some(expert) };
                let made = TensorInfo { dtype: info.dtype, shape: shape.clone() };
                self.add(bundle.replacen("{e}", &expert.to_string(), 1), made, Made::Part(part));
            }
        }
    }

    /// Parts that the base has, as a whole of every name.
    fn put_together(
        &mut self,
        fusing: &Fusing,
        words: &[&str],
        (path, _, parameter): Names<'_>,
        said: Option<QkvRows>,
    ) {
        let names: Vec<String> = words.iter().map(|word| named(path, word, parameter)).collect();
        let infos: Option<Vec<&TensorInfo>> =
            names.iter().map(|name| self.base.tensors().get(name)).collect();
        let Some(infos) = infos else { return };
        let behind = |info: &TensorInfo| info.shape.dims().get(1..).map(<[u64]>::to_vec);
        let alike = |info: &&TensorInfo| info.dtype == infos[0].dtype && behind(info) == behind(infos[0]);
        let sizes: Option<Vec<u64>> = infos.iter().map(|info| info.shape.dims().first().copied()).collect();
        let (Some(sizes), Some(inner), true) = (sizes, behind(infos[0]), infos.iter().all(alike)) else {
            return;
        };
        let (dtype, config) = (infos[0].dtype, self.base.config());
        for whole in fusing.wholes {
            let order = match fusing.rows {
                Rows::Equal => Some(QkvRows::Together),
                Rows::Qkv => qkv_rows(whole, false, config, said),
            };
            let heads = config.and_then(heads);
            let Some(found) = order.and_then(|order| order.places(&sizes, heads)) else {
                let why = match (order, heads) {
                    (None, _) => Undecided::Order { has_whole: false },
                    (_, None) => Undecided::Heads { has_whole: false },
                    _ => Undecided::Uneven { has_whole: false },
                };
                self.undecided.insert(joined(path, whole), why);
                continue;
            };
            let rows = sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size));
            let Some(Ok(shape)) = rows.map(|rows| Shape::new(&[&[rows][..], &inner[..]].concat())) else {
                continue;
            };
            let part = |(name, rows): (&String, Vec<IndexRange>)| Part {
                name: name.clone(),
                rows,
                transposed: false,
                expert: None,
            };
            let parts = names.iter().zip(found).map(part).collect();
            self.add(named(path, whole, parameter), TensorInfo { dtype, shape }, Made::Whole(parts));
        }
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'_>, CheckpointError> {
        let info = self.base.tensors().get(name).ok_or_else(|| CheckpointError::missing(name))?;
        let bytes = match self.base.read(name)? {
            Cow::Borrowed(bytes) => Bytes::Borrowed(bytes),
            Cow::Owned(bytes) => Bytes::Shared(bytes.into()),
        };
        Tensor::new(info.dtype, info.shape.clone(), bytes).map_err(|_| unfit(name))
    }

    fn make(&self, name: &str, made: &Made) -> Result<Vec<u8>, CheckpointError> {
        match made {
            Made::Part(part) => {
                let whole = self.tensor(&part.name)?;
                let whole = match part.expert {
                    Some(expert) => whole.at(expert).ok_or_else(|| unfit(name))?,
                    None => whole,
                };
                let axis = usize::from(part.transposed);
                let rows: Option<Vec<_>> = part.indices().map(|rows| rows.into_iter().map(Some).collect());
                let taken = rows.and_then(|rows| gathered(&whole, axis, &rows)).ok_or_else(|| unfit(name))?;
                let taken =
                    if part.transposed { taken.transposed().ok_or_else(|| unfit(name))? } else { taken };
                Ok(taken.bytes().to_vec())
            }
            Made::Whole(parts) => {
                let info = self.tensors.get(name).ok_or_else(|| unfit(name))?;
                let len = info.shape.byte_len(info.dtype).ok().and_then(|len| usize::try_from(len).ok());
                let mut bytes = vec![0; len.ok_or_else(|| unfit(name))?];
                let rows = info.shape.dims().first().and_then(|rows| usize::try_from(*rows).ok());
                let width = rows.and_then(|rows| bytes.len().checked_div(rows)).filter(|width| *width > 0);
                let width = width.ok_or_else(|| unfit(name))?;
                for part in parts {
                    let tensor = self.tensor(&part.name)?;
                    let rows = part.indices().ok_or_else(|| unfit(name))?;
                    for (row, from) in rows.into_iter().zip(tensor.bytes().chunks_exact(width)) {
                        let to = bytes.get_mut(row * width..(row + 1) * width).ok_or_else(|| unfit(name))?;
                        to.copy_from_slice(from);
                    }
                }
                Ok(bytes)
            }
        }
    }
}

fn unfit(name: &str) -> CheckpointError {
    CheckpointError { name: name.to_owned(), reason: "its rows cannot be taken".to_owned(), source: None }
}

impl Checkpoint for View<'_> {
    fn config(&self) -> Option<&Map<String, Value>> {
        self.base.config()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        match self.made.get(name) {
            Some(made) => self.make(name, made).map(Cow::Owned),
            None => self.base.read(name),
        }
    }

    fn quantised(&self, name: &str) -> Option<&'static str> {
        match self.made.get(name) {
            Some(Made::Part(part)) => self.base.quantised(&part.name),
            Some(Made::Whole(parts)) => parts.iter().find_map(|part| self.base.quantised(&part.name)),
            None => self.base.quantised(name),
        }
    }
}
