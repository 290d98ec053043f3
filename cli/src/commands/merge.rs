//! `fitment merge`.

use super::merge_weights;
use super::open::{self, How, of_io};
use crate::args::{AtOneSite, Merge};
use crate::console::{Console, Exit, Failure, Run};
use crate::weighted::Weighted;
use anyhow::anyhow;
use fitment_convert::Converted;
use fitment_convert::each::each;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::tensor::Bytes;
use fitment_core::{Draft, encode_checked_each};
use fitment_io::{AdapterFiles, CheckpointDir, Room};
use fitment_merge::{
    Culprit, Error, Input, Limit, Merged, Method, Options, Params, SiteRule, Truncated, method,
};
use serde_json::json;
use std::path::Path;

pub(crate) fn run(args: &Merge, console: Console) -> Run {
    if let Some(method) = args.explain_method.as_deref().and_then(method) {
        return explain(method, console);
    }
    let Some(output) = &args.output else {
        return Err(Failure::new(Exit::Unusable, anyhow!("no output named")).hint("name one with -o OUT"));
    };
    let weighted = args
        .adapters
        .iter()
        .map(|text| Weighted::parse(text, Path::exists))
        .collect::<Result<Vec<_>, _>>()?;
    if output.exists() && !args.force {
        let error = anyhow!("{} exists already", output.display());
        return Err(Failure::new(Exit::Unusable, error).hint("--force replaces it"));
    }
    let paths: Vec<&Path> = weighted.iter().map(|adapter| adapter.path.as_path()).collect();
    let weights = args.weights.as_deref().map(|path| merge_weights::read(path, &paths)).transpose()?;
    let weights = weights.unwrap_or_default();
    let base = args.base.as_deref().map(open::base).transpose()?;
    let files = weighted
        .iter()
        .map(|adapter| AdapterFiles::load(&adapter.path).map_err(of_io))
        .collect::<Result<Vec<_>, _>>()?;
    let converted = read(args, (&weighted, &files), base.as_ref(), console)?;
    let inputs: Vec<Input<'_>> = weighted
        .iter()
        .zip(&converted)
        .map(|(weighted, converted)| Input {
            adapter: &converted.adapter,
            weight: weighted.weight,
            name: weighted.path.display().to_string(),
            id: converted.id.clone(),
        })
        .collect();
    let base = base.as_ref().map(|base| base as &dyn Checkpoint);
    let most = args.rank.map(u64::from);
    let dynamic = args.dynamic.map(|(rule, value)| Limit::Dynamic { rule, value, most });
    let limit = dynamic.or(most.map(Limit::Rank)).or(args.max_error.map(Limit::Error));
    let method = args.method.as_deref().and_then(method);
    if let Some(warning) = method.and_then(|method| method.warning) {
        console.warn(warning);
    }
    let options = Options {
        method,
        params: params(args),
        limit,
        base,
        weights: &weights,
        site_rule: match args.at_one_site {
            AtOneSite::Sequential => SiteRule::Sequential,
            AtOneSite::Sum => SiteRule::Sum,
        },
        subspace: args.subspace.as_ref().map(|directions| &directions.0[..]),
        allow_base_mismatch: args.allow_base_mismatch,
    };
    let room = Kept(Room::beside(output));
    let mut merged =
        fitment_merge::merge_into(&inputs, &options, &room).map_err(|error| refused(error, console))?;
    for note in &merged.notes {
        console.say(format_args!("note: {note}"));
    }
    if let Some(base) = base {
        if args.allow_base_mismatch {
            merged.adapter.base.tensors.iter_mut().for_each(|tensor| tensor.digests.clear());
        }
        let bound = fitment_convert::bind(&mut merged.adapter, base);
        bound.map_err(|error| open::of_convert(error, args.base.as_deref().unwrap_or(Path::new("base"))))?;
    }
    let len = write((args, output), &weighted, &merged)?;
    report((args, output), &merged, len, console)?;
    Ok(Exit::Done)
}

/// All adapters, in one form.
fn read<'f>(
    args: &Merge,
    (weighted, files): (&[Weighted], &'f [AdapterFiles]),
    base: Option<&CheckpointDir>,
    console: Console,
) -> Result<Vec<Converted<'f>>, Failure> {
    let mut converted: Vec<Converted<'_>> = Vec::new();
    for (weighted, files) in weighted.iter().zip(files) {
        let foreign = base.and_then(|base| open::foreign_base(files, base));
        let how = How { from: args.from.as_deref(), base: foreign, refit: true, ..How::default() };
        converted.push(open::adapter(&weighted.path, files, how)?.1);
    }
    for Converted { losses, findings, .. } in &converted {
        findings.iter().for_each(|finding| console.say(finding));
        open::say_losses(&open::without_carrying(losses), console);
    }
    level(&mut converted).map_err(|error| open::of_convert(error.into(), Path::new("merge")))?;
    Ok(converted)
}

/// Bundles of experts come apart where another adapter has them so; each stays known by the id that it had.
fn level(converted: &mut [Converted<'_>]) -> Result<(), fitment_core::Error> {
    let Some(leveled) = fitment_merge::level(&converted.iter().map(|one| &one.adapter).collect::<Vec<_>>())
    else {
        return Ok(());
    };
    for (one, leveled) in converted.iter_mut().zip(leveled) {
        if one.id.is_none() {
            one.id = Some(encode_checked_each(&one.adapter, &each)?.manifest.id);
        }
        one.adapter = leveled;
    }
    Ok(())
}

fn write(
    (args, output): (&Merge, &Path),
    weighted: &[Weighted],
    merged: &Merged<'_>,
) -> Result<u64, Failure> {
    let draft = Draft::of(&merged.adapter).map_err(|error| open::of_convert(error.into(), output))?;
    let inputs: Vec<&Path> = weighted.iter().map(|adapter| adapter.path.as_path()).collect();
    open::save(&draft, output, (args.force, &inputs))
}

/// Room on disk as the engine asks for it.
struct Kept(Room);

impl fitment_merge::Room for Kept {
    fn keep(&self, bytes: Vec<u8>) -> std::io::Result<Bytes<'_>> {
        self.0.keep(bytes).map(Bytes::Borrowed).map_err(std::io::Error::other)
    }
}

fn params(args: &Merge) -> Params {
    Params {
        density: args.density,
        lambda: args.lambda,
        epsilon: args.epsilon,
        gamma: args.gamma,
        t: args.t,
        beta: args.beta,
        eta: args.eta,
        seed: args.seed,
    }
}

/// What a method is, as its line of the table says.
fn explain(method: &Method, console: Console) -> Run {
    let params: Vec<String> = method.params.iter().map(ToString::to_string).collect();
    if console.json {
        console.document(&json!({
            "name": method.name,
            "what": method.what,
            "formula": method.formula,
            "source": method.source,
            "warning": method.warning,
            "params": params,
        }))?;
        return Ok(Exit::Done);
    }
    let works = if method.is_dense() {
        "element by element on the dense update of each target; --rank makes low-rank updates of the result"
    } else if method.takes_any() {
        "on the factors of low-rank updates, whose dense matrix is never formed, and on dense updates where there are none"
    } else {
        "on the factors of low-rank updates; the dense matrix is never formed"
    };
    let params = if params.is_empty() { "none".to_owned() } else { params.join(", ") };
    let mut text = format!("{}: {}\n\n  {}\n\n", method.name, method.what, method.formula);
    text.push_str(&format!("Parameters: {params}\nWorks {works}.\nSource: {}\n", method.source));
    if let Some(warning) = method.warning {
        text.push_str(&format!("Warning: {warning}\n"));
    }
    console.data(&text)?;
    Ok(Exit::Done)
}

/// All culprits, a line each, before the error line that names the first.
fn refused(error: Error, console: Console) -> Failure {
    const SHOWN: usize = 50;
    let hint = error.hint().map(str::to_owned);
    let mut exit = Exit::Unusable;
    if let Error::Refused { culprits } = &error {
        if culprits.len() > 1 {
            culprits.iter().take(SHOWN).for_each(|culprit| console.say(culprit));
            if culprits.len() > SHOWN {
                console.say(format_args!("… and {} more", culprits.len() - SHOWN));
            }
        }
        let is_misfit =
            |culprit: &Culprit| matches!(culprit, Culprit::OtherBase { .. } | Culprit::BaseAtHand { .. });
        if culprits.iter().all(is_misfit) {
            exit = Exit::Findings;
        }
    }
    open::with_hint(Failure::new(exit, error), hint)
}

fn report(
    (args, output): (&Merge, &Path),
    merged: &Merged<'_>,
    len: u64,
    console: Console,
) -> Result<(), Failure> {
    let output = output.display();
    if console.json {
        let truncated = merged.truncated.iter().map(|cut| {
            json!({"target": cut.target, "from": cut.from, "to": cut.to, "relative_error": cut.relative_error})
        });
        return console.document(&json!({
            "fitment_merge": 1,
            "adapters": args.adapters,
            "output": output.to_string(),
            "edits": merged.adapter.edits.len(),
            "bytes": len,
            "bound": merged.adapter.base.is_bound(),
            "truncated": truncated.collect::<Vec<_>>(),
            "notes": merged.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    for Truncated { target, from, to, relative_error } in &merged.truncated {
        console.detail(format_args!("{target}: rank {from} to {to}, relative error {relative_error:.3e}"));
    }
    if let Some(worst) = worst(&merged.truncated) {
        let ranks = |of: fn(&Truncated) -> u64| {
            let ranks = || merged.truncated.iter().map(of);
            let (least, most) = (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0));
            if least == most { least.to_string() } else { format!("{least}–{most}") }
        };
        let (from, to) = (ranks(|cut| cut.from), ranks(|cut| cut.to));
        console.say(format_args!(
            "{} targets: rank {from} to {to}; relative error {:.3e} at most ({})",
            merged.truncated.len(),
            worst.relative_error,
            worst.target
        ));
    }
    let bound = if merged.adapter.base.is_bound() { ", bound to the base" } else { ", not bound to a base" };
    let edits = merged.adapter.edits.len();
    console.say(format_args!("wrote {output} (fitment, {edits} edits{bound}, {len} bytes)"));
    Ok(())
}

fn worst(truncated: &[Truncated]) -> Option<&Truncated> {
    truncated.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error))
}
