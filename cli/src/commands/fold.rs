//! The part of `apply` that puts interventions into weights, and what is left of them into a file of its own.

use super::open::{self, of_io};
use crate::args::Apply;
use crate::console::{Console, Exit, Failure};
use crate::weighted::Weighted;
use anyhow::anyhow;
use fitment_apply::Input;
use fitment_convert::fold::{self, Folded, Kept};
use fitment_core::Adapter;
use fitment_core::model::{About, Base, Edit};
use fitment_io::{Access, CheckpointDir, CheckpointOutput, Finished};
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;

/// The adapters as weight edits alone.
pub(crate) struct Split<'a> {
    /// Each file without what is folded or left.
    files: Vec<Adapter<'a>>,
    /// What the interventions came to, with strength 1.
    folded: Adapter<'a>,
    /// How many were folded.
    pub(crate) count: usize,
    /// What `--rest` takes.
    rest: Adapter<'a>,
    pub(crate) kept: Vec<Kept>,
}

impl<'a> Split<'a> {
    /// Folds what can be folded.
    pub(crate) fn new(
        adapters: &[&Adapter<'a>],
        weighted: &[Weighted],
        base: &CheckpointDir,
        takes_rest: bool,
    ) -> Result<Self, Failure> {
        let weights = weighted.iter().map(|weighted| weighted.weight);
        let files: Vec<fold::File<'_>> =
            adapters.iter().zip(weights).map(|(adapter, weight)| fold::File { adapter, weight }).collect();
        let has_interventions = adapters.iter().any(|adapter| adapter.edits.iter().any(is_intervention));
        let folded = match has_interventions {
            true => fold::fold(&files, base, fold::Into::Checkpoint)
                .map_err(|error| open::with_hint(Failure::new(Exit::Unusable, error), None))?,
            false => Folded::default(),
        };
        let mut split = Self {
            files: Vec::new(),
            folded: Adapter { edits: folded.edits, ..Adapter::default() },
            count: folded.folded,
            rest: Adapter::default(),
            kept: folded.kept,
        };
        for (file, (adapter, weighted)) in adapters.iter().zip(weighted).enumerate() {
            split.take(file, adapter, weighted.weight, takes_rest);
        }
        Ok(split)
    }

    /// Sorts a file's edits into those that are applied and those that are left. Interventions come last in the rest, as in every file.
    fn take(&mut self, file: usize, adapter: &Adapter<'a>, weight: f64, takes_rest: bool) {
        let mut stays = Vec::new();
        let (mut timed, mut left) = (Vec::new(), Vec::new());
        for (index, edit) in adapter.edits.iter().enumerate() {
            if is_intervention(edit) {
                if self.kept.iter().any(|kept| (kept.file, kept.edit) == (file, index)) {
                    left.push(scaled(edit, weight));
                }
            } else if takes_rest && is_timed_sum(edit, adapter) {
                timed.push(scaled(edit, weight));
            } else {
                stays.push(edit.clone());
            }
        }
        self.files.push(Adapter { edits: stays, ..adapter.clone() });
        let interventions = self.rest.edits.iter().position(is_intervention).unwrap_or(self.rest.edits.len());
        self.rest.edits.splice(interventions..interventions, timed);
        self.rest.edits.extend(left);
    }

    /// What is to be applied: files of which nothing is left to apply are left out.
    pub(crate) fn inputs<'s>(&'s self, adapters: &[&Adapter<'a>], weighted: &[Weighted]) -> Vec<Input<'s>>
    where
        'a: 's,
    {
        let name = |weighted: &Weighted| weighted.path.display().to_string();
        let mut inputs: Vec<Input<'s>> = Vec::new();
        for ((adapter, whole), weighted) in self.files.iter().zip(adapters).zip(weighted) {
            if !adapter.edits.is_empty() || whole.edits.is_empty() {
                inputs.push(Input { adapter, weight: weighted.weight, name: name(weighted) });
            }
        }
        if !self.folded.edits.is_empty() {
            let source = adapters.iter().position(|adapter| adapter.edits.iter().any(is_intervention));
            let name = source.and_then(|source| weighted.get(source)).map(name).unwrap_or_default();
            inputs.push(Input { adapter: &self.folded, weight: 1.0, name });
        }
        inputs
    }

    /// Whether there is something for `--rest`.
    pub(crate) fn has_rest(&self) -> bool {
        !self.rest.edits.is_empty()
    }

    /// Refuses what cannot be folded, unless `--rest` takes it.
    pub(crate) fn check(&self, args: &Apply, weighted: &[Weighted], console: Console) -> Result<(), Failure> {
        const SHOWN: usize = 50;
        let line = |kept: &Kept| {
            let file =
                weighted.get(kept.file).map(|file| file.path.display().to_string()).unwrap_or_default();
            format!(
                "{}: {file} acts on hidden states there, which cannot be folded into weights: {}",
                kept.site, kept.obstacle
            )
        };
        if let Some(rest) = &args.rest {
            // That it can be written is known before anything is.
            fitment_core::to_bytes(&self.rest)?;
            if *rest == args.output {
                let error = anyhow!("{}: both the result and the rest are to go there", rest.display());
                return Err(Failure::new(Exit::Unusable, error).hint("name another file with --rest"));
            }
            if self.has_rest() && rest.exists() && !args.force {
                let error = anyhow!("{}: exists already", rest.display());
                return Err(Failure::new(Exit::Unusable, error).hint("--force replaces it"));
            }
            for kept in self.kept.iter().take(SHOWN) {
                console.detail(line(kept));
            }
            return Ok(());
        }
        let [first, rest @ ..] = &self.kept[..] else { return Ok(()) };
        if !rest.is_empty() {
            for kept in self.kept.iter().take(SHOWN) {
                console.say(line(kept));
            }
            if self.kept.len() > SHOWN {
                console.say(format_args!("… and {} more", self.kept.len() - SHOWN));
            }
        }
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        let failure = Failure::new(Exit::Unusable, anyhow!("{}{more}", line(first)));
        Err(failure.hint("--rest FILE writes what cannot be folded as a Fitment file, for a program that changes hidden states while the model runs"))
    }

    /// Puts the checkpoint in its place, and what is left of the interventions in that of `--rest`: both or neither.
    pub(crate) fn finish(&self, output: CheckpointOutput<'_>, args: &Apply) -> Result<Finished, Failure> {
        let Some(rest) = args.rest.as_ref().filter(|_| self.has_rest()) else {
            return output.finish().map_err(of_io);
        };
        // A folder that is there only when the output is.
        if rest.starts_with(&args.output) {
            let finished = output.finish().map_err(of_io)?;
            let encoded = self.bound_rest(rest, &args.output)?;
            write_rest(rest, args, &encoded, &|| true)?;
            return Ok(finished);
        }
        let encoded = self.bound_rest(rest, output.path())?;
        let (waiting, finished) = (RefCell::new(Some(output)), RefCell::new(None));
        let finish = || {
            let done = waiting.take().map(CheckpointOutput::finish);
            let is_there = matches!(done, Some(Ok(_)));
            finished.replace(done);
            is_there
        };
        let written = write_rest(rest, args, &encoded, &finish);
        match finished.take() {
            Some(Err(error)) => Err(of_io(error)),
            Some(Ok(finished)) => written.map(|()| finished),
            None => Err(written
                .err()
                .unwrap_or_else(|| Failure::new(Exit::Unusable, anyhow!("nothing was written")))),
        }
    }

    /// The rest, bound to the checkpoint at `path`.
    fn bound_rest(&self, rest: &Path, path: &Path) -> Result<Vec<u8>, Failure> {
        let base = CheckpointDir::open(path, Access::Map).map_err(of_io)?;
        let mut adapter = Adapter { base: Base::default(), about: About::default(), ..self.rest.clone() };
        fitment_convert::bind(&mut adapter, &base).map_err(|error| open::of_convert(error, rest))?;
        Ok(fitment_core::to_bytes(&adapter)?)
    }

    /// Edits of the rest.
    pub(crate) fn rest_len(&self) -> usize {
        self.rest.edits.len()
    }
}

/// Writes the rest. Before it appears, `ready` is called: it does not appear when that fails.
fn write_rest(path: &Path, args: &Apply, encoded: &[u8], ready: &dyn Fn() -> bool) -> Result<(), Failure> {
    let inputs: &[&Path] = &[&args.base];
    let write = |out: &mut dyn Write| {
        out.write_all(encoded)?;
        out.flush()?;
        if ready() { Ok(()) } else { Err("the checkpoint beside it was not written".into()) }
    };
    fitment_io::write_file_atomic(path, encoded.len() as u64, (args.force, inputs), &write).map_err(of_io)
}

fn is_intervention(edit: &Edit<'_>) -> bool {
    matches!(edit, Edit::Intervention(_))
}

/// An edit for some tokens only, where all edits of its tensor are sums: then their order does not matter, and it can act on the result of
/// the others.
fn is_timed_sum(edit: &Edit<'_>, adapter: &Adapter<'_>) -> bool {
    let is_sum = |edit: &Edit<'_>| match edit {
        Edit::Lora(lora) => lora.magnitude.is_none(),
        Edit::Add(add) => add.exceptions.is_none(),
        _ => false,
    };
    let Some(target) = edit.target().filter(|target| target.when.is_some()) else { return false };
    let same =
        adapter.edits.iter().filter(|other| other.target().is_some_and(|other| other.name == target.name));
    same.into_iter().all(is_sum)
}

/// The edit with a strength of its own.
fn scaled<'a>(edit: &Edit<'a>, weight: f64) -> Edit<'a> {
    let mut edit = edit.clone();
    match &mut edit {
        Edit::Intervention(edit) => edit.scale *= weight,
        Edit::Lora(edit) => edit.scale *= weight,
        Edit::Add(edit) => edit.scale *= weight,
        _ => {}
    }
    edit
}
