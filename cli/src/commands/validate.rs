//! `fitment validate`.

use super::open::{self, of_io};
use crate::args::{FailOn, ReportFormat, Validate};
use crate::console::{Console, Exit, Failure, Run};
use anyhow::anyhow;
use clap::ValueEnum;
use fitment_convert::{Files, ReadOptions};
use fitment_core::Severity;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::finding::Code;
use fitment_io::AdapterFiles;
use fitment_validate::output::{self, Style};
use fitment_validate::{Input, Options, Outcome, Verdict, codes, servers};

pub(crate) fn run(args: &Validate, console: Console) -> Run {
    if let Some(format) = args.format.filter(|_| console.json && !args.is_json()) {
        let error = anyhow!("--json and --format {} ask for two forms", name_of(format));
        return Err(Failure::from(error).hint("leave one of them out"));
    }
    if let Some(code) = &args.explain {
        return explain(code, console);
    }
    let servers = args.servers.iter().filter_map(|name| servers::find(name)).collect();
    let options =
        Options { allow: rules(&args.allow)?, deny: rules(&args.deny)?, servers, ..Options::default() };
    let from = args.from.as_deref().map(open::format).transpose()?;
    let base = args.base.as_deref().map(open::base).transpose()?;
    let files: Vec<AdapterFiles> =
        args.paths.iter().map(|path| AdapterFiles::load(path).map_err(of_io)).collect::<Result<_, _>>()?;
    let formats: Vec<_> = files.iter().map(|files| from.or_else(|| open::detected(files))).collect();
    let told = open::Said::each(&args.said, &formats);
    let mut outcomes = Vec::with_capacity(args.paths.len());
    for ((path, files), said) in args.paths.iter().zip(&files).zip(told) {
        let files: Files<'_> = files.iter().collect();
        let name = path.display().to_string();
        let adapter_name = args.adapter.as_deref();
        let input = Input {
            name: &name,
            files: &files,
            options: ReadOptions { from, adapter_name, ..said.options() },
        };
        outcomes.push(open::validated(&input, base.as_ref().map(|base| base as &dyn Checkpoint), &options)?);
    }
    print(&outcomes, args, console)?;
    Ok(exit_of(&outcomes, args.fail_on))
}

fn name_of(format: ReportFormat) -> String {
    format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn explain(code: &str, console: Console) -> Run {
    let text = codes::explain(code).ok_or_else(|| {
        Failure::new(Exit::Unusable, anyhow!("no finding has the code {code:?}")).hint(CODES)
    })?;
    if console.json {
        let rule = codes::find(code);
        console.document(&serde_json::json!({
            "fitment_explain": 1,
            "code": code,
            "severity": rule.map(|rule| rule.severity),
            "meaning": rule.map(|rule| rule.meaning),
            "section": rule.map(|rule| rule.section),
            "remedy": rule.map(|rule| rule.remedy),
        }))?;
    } else {
        console.data(&text)?;
    }
    Ok(Exit::Done)
}

const CODES: &str = "codes look like C011, M014, E003, P010 or B001; the specification lists them";

fn rules(names: &[String]) -> Result<Vec<Code>, Failure> {
    let rule = |name: &String| {
        let rule = codes::find(name).map(|rule| rule.code);
        rule.ok_or_else(|| Failure::from(anyhow!("no finding has the code {name:?}")).hint(CODES))
    };
    names.iter().map(rule).collect()
}

fn print(outcomes: &[Outcome], args: &Validate, console: Console) -> Result<(), Failure> {
    let format = match args.format {
        Some(format) => format,
        None if console.json => ReportFormat::Json,
        None => ReportFormat::Text,
    };
    let text = match format {
        ReportFormat::Json => output::json(outcomes),
        ReportFormat::Github => output::github(outcomes),
        ReportFormat::Sarif => output::sarif(outcomes),
        ReportFormat::Text if console.quiet => output::failing(outcomes, severity(args.fail_on), &COLOURS),
        ReportFormat::Text => output::text(outcomes, &COLOURS),
    };
    console.data(&text)
}

/// Escapes of a terminal; the stream takes them out where there is none.
const COLOURS: Style = Style {
    error: ("\u{1b}[1;31m", "\u{1b}[0m"),
    warning: ("\u{1b}[1;33m", "\u{1b}[0m"),
    note: ("\u{1b}[1;34m", "\u{1b}[0m"),
    help: ("\u{1b}[36m", "\u{1b}[0m"),
    summary: ("\u{1b}[1m", "\u{1b}[0m"),
};

/// Findings weigh more than what could not be checked, which weighs more than a clean file.
fn exit_of(outcomes: &[Outcome], fail_on: FailOn) -> Exit {
    let fail_on = severity(fail_on);
    let verdicts: Vec<Verdict> = outcomes.iter().map(|outcome| outcome.verdict(fail_on)).collect();
    if verdicts.contains(&Verdict::Findings) {
        Exit::Findings
    } else if verdicts.contains(&Verdict::Unchecked) {
        Exit::Unchecked
    } else {
        Exit::Done
    }
}

fn severity(fail_on: FailOn) -> Severity {
    match fail_on {
        FailOn::Error => Severity::Error,
        FailOn::Warning => Severity::Warning,
        FailOn::Note => Severity::Note,
    }
}
