use super::folder::{self, CONFIG, Folder, SPELLING, WEIGHTS};
use super::names::{Module, Split, module};
use super::rules;
use crate::error::Error;
use crate::factors::{Factors, Model, Place, adapter};
use crate::files::Files;
use crate::pairs::{Pair, Role};
use crate::pass::experts::{Part, WORDS, parts};
use crate::pass::gather::gathered;
use crate::pass::stacks::Stacks;
use crate::read::{Converted, ReadOptions};
use crate::several;
use crate::tying::{find_tied, model_type};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{AxisSlice, IndexRange, Origin, Source};
use fitment_core::tensor::Tensor;
use fitment_core::{Finding, Severity};

/// Reads an adapter: a `lora` for each module, of experts one for all of them.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for modules that are not known; [`Error::Ambiguous`] where only a base, or its config,
/// can tell; those of a base that does not fit.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let folder = folder::open(files, options.adapter_name)?;
    let (errors, mut findings): (Vec<_>, Vec<_>) =
        folder.findings.iter().cloned().partition(|finding| finding.severity == Severity::Error);
    let (rank, alpha) = match (folder.rank, folder.alpha, errors.first()) {
        (Some(rank), Some(alpha), None) => (rank, alpha),
        (_, _, Some(first)) if first.code == rules::K_UNSUPPORTED.code => {
            return Err(Error::Unsupported {
                what: first.place.clone(),
                reason: first.message.clone(),
                hint: rules::K_UNSUPPORTED.remedy.to_owned(),
            });
        }
        _ => return Err(Error::Malformed { findings: errors }),
    };
    let mut factors = Vec::with_capacity(folder.pairs.len());
    for (path, pair) in &folder.pairs {
        let keys = [("up", Role::B), ("down", Role::A)].map(|(name, role)| {
            (name.to_owned(), format!("base_model.model.{}", SPELLING.key_of(path, role)))
        });
        let origin = Origin { alpha: Some(alpha), rank: Some(rank), keys: keys.into(), ..Origin::default() };
        let placing = Placing { folder: &folder, base: options.base };
        let (place, up, down) = placing.place(path, pair)?;
        // Ranks are extents of tensors in memory: far below 2^53.
        let scale = alpha / rank as f64;
        factors.push(Factors { place, up, down, magnitude: None, scale, origin });
    }
    findings.extend(options.base.and_then(|base| tied_head(&folder, base)));
    let place = (&*folder.prefix, &*folder.others);
    let (kept, mut losses) = several::beside(files, place, WEIGHTS, &[CONFIG], options.keep_files);
    let source = Source { format: "tinker".to_owned(), files: kept, ..Source::default() };
    let model = Model { name: folder.base_name.clone(), is_tied: None };
    let (adapter, assumed) = adapter(factors, source, model, options)?;
    losses.extend(assumed);
    Ok(Converted { adapter, losses, findings, id: None })
}

/// What is to be said of a head that the base ties.
fn tied_head(folder: &Folder<'_>, base: &dyn Checkpoint) -> Option<Finding> {
    let is_head = |path: &&String| module(path) == Some(Module::Linear("lm_head".to_owned()));
    let path = folder.pairs.keys().find(is_head)?;
    let tied = find_tied(base.tensors(), base.config());
    let owner = &tied.iter().find(|tied| tied.head.is_some())?.owner;
    Some(Finding::new(&rules::K_TIED, path, format!("the base ties its head to {owner}")))
}

struct Placing<'p, 'a> {
    folder: &'p Folder<'a>,
    base: Option<&'p dyn Checkpoint>,
}

type Placed<'a> = (Place, Tensor<'a>, Tensor<'a>);

impl<'a> Placing<'_, 'a> {
    fn place(&self, path: &str, pair: &Pair<'a>) -> Result<Placed<'a>, Error> {
        let unfit = || Error::Unsupported {
            what: path.to_owned(),
            reason: "its factors are no matrices".to_owned(),
            hint: rules::K_SHAPE.remedy.to_owned(),
        };
        let (down, up) = pair.factors().ok_or_else(unfit)?;
        let (out, input) = extents(pair).ok_or_else(unfit)?;
        let linear = |module: &str, rows: Vec<IndexRange>, all: u64| {
            (Place::linear(module, [all, input], rows), up.clone(), down.clone())
        };
        match module(path).ok_or_else(unfit)? {
            Module::Linear(module) => Ok(linear(&module, Vec::new(), out)),
            Module::Split(parent, split) => match self.rows_of(&parent, split) {
                None if self.has(&parent, ".in_proj_qkv.weight").is_none() => {
                    Ok(linear(&format!("{parent}.{}", split.name()), Vec::new(), out))
                }
                Some((rows, all)) => Ok(linear(&format!("{parent}.in_proj_qkv"), vec![rows], all)),
                None => Err(Error::Unsupported {
                    what: path.to_owned(),
                    reason: "the base has queries, keys and values as one, and the rows of this one follow from the others, which are missing".to_owned(),
                    hint: "train all three".to_owned(),
                }),
            },
            Module::Experts(experts, part) => {
                let count = up.dims().first().max(down.dims().first()).copied().unwrap_or(0);
                let every = |tensor: &Tensor<'a>| match tensor.dims().first() == Some(&count) {
                    true => Some(tensor.clone()),
                    // What they share, for each of them.
                    false => gathered(tensor, 0, &vec![Some(0); usize::try_from(count).ok()?]),
                };
                let place = self.experts(&experts, part, [count, out, input])?;
                Ok((place, every(up).ok_or_else(unfit)?, every(down).ok_or_else(unfit)?))
            }
        }
    }

    /// A tensor of the base below a module, whatever stands before its list of layers.
    fn has(&self, module: &str, name: &str) -> Option<&[u64]> {
        let tail = module.find("layers.").map_or(module, |at| &module[at..]);
        let end = format!("{tail}{name}");
        let fits = |known: &str| {
            known.strip_suffix(&*end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let found = self.base?.tensors().iter().find(|(known, _)| fits(known));
        found.map(|(_, info)| info.shape.dims())
    }

    /// The rows of a part of what the base has as one, and how many there are in all; `None` where it has them apart.
    fn rows_of(&self, parent: &str, split: Split) -> Option<(IndexRange, u64)> {
        let apart = format!(".{}.weight", split.name());
        if self.base.is_some() && self.has(parent, &apart).is_some() {
            return None;
        }
        let len = |split: Split| {
            let pair = self.folder.pairs.get(&format!("{parent}.{}", split.name()))?;
            Some(extents(pair)?.0)
        };
        let mut start = 0u64;
        for other in Split::ALL.into_iter().take_while(|other| *other != split) {
            start = start.checked_add(len(other)?)?;
        }
        let end = start.checked_add(len(split)?)?;
        let fused = self.has(parent, ".in_proj_qkv.weight").and_then(|dims| dims.first().copied());
        let all = || Split::ALL.into_iter().try_fold(0u64, |sum, split| sum.checked_add(len(split)?));
        Some((IndexRange { start, end, step: 1 }, fused.or_else(all)?))
    }

    /// Where a part of the experts is: `count` of them, each `[out, input]`.
    fn experts(&self, experts: &str, part: Part, [count, out, input]: [u64; 3]) -> Result<Place, Error> {
        let own = WORDS[0].of(part);
        let fused = if part == Part::Down { own } else { "gate_up_proj" };
        let Some(dims) = self.has(experts, &format!(".{fused}")) else {
            return Ok(Place {
                name: format!("{experts}.{{e}}.{own}.weight"),
                dims: vec![out, input],
                slice: Vec::new(),
                experts: Some(count),
                is_stacked: false,
                transposed: false,
            });
        };
        let all = if part == Part::Down { out } else { out.saturating_mul(2) };
        let (straight, turned) = ([count, all, input], [count, input, all]);
        let kind = self.base.and_then(|base| base.config()).and_then(model_type);
        let transposed = match (*dims == straight, *dims == turned) {
            (true, true) => match kind {
                Some("gpt_oss") => true,
                Some("qwen3_5_moe") => false,
                _ => return Err(either(&format!("{experts}.{fused}"), dims)),
            },
            (_, turned) => turned,
        };
        let held = parts(fused);
        let at = held.iter().position(|held| *held == part).unwrap_or(0) as u64;
        let stacks = Stacks::of(self.base.and_then(|base| base.config()));
        let (start, end, step) = stacks
            .outputs(at, held.len() as u64, all)
            .ok_or_else(|| either(&format!("{experts}.{fused}"), dims))?;
        let axis = if transposed { 2 } else { 1 };
        let slice = AxisSlice { axis, ranges: vec![IndexRange { start, end, step }] };
        Ok(Place {
            name: format!("{experts}.{fused}"),
            dims: (if transposed { turned } else { straight }).to_vec(),
            slice: if held.len() > 1 { vec![slice] } else { Vec::new() },
            experts: None,
            is_stacked: true,
            transposed,
        })
    }
}

/// `out` and `in` of a module, of one expert where there are several.
fn extents(pair: &Pair<'_>) -> Option<(u64, u64)> {
    let (a, b) = pair.factors()?;
    Some((b.dims().iter().rev().nth(1).copied()?, a.dims().last().copied()?))
}

/// A stack of square matrices.
fn either(name: &str, dims: &[u64]) -> Error {
    Error::Ambiguous {
        what: name.to_owned(),
        reason: format!("it is {dims:?} in the base, which may be its experts' matrices or their transposes"),
        hint: "give the base as a folder with its config.json, of a model_type that is known: gpt_oss, qwen3_5_moe"
            .to_owned(),
    }
}
