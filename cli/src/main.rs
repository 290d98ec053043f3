//! The `fitment` command line: arguments in, calls, exit codes out.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod console;
mod device;
mod interrupt;
mod progress;
mod weighted;

use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use console::{Console, Exit, Failure, Run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let json = cli.global.json || matches!(&cli.verb, Verb::Validate(args) if args.is_json());
    let console = Console { json, quiet: cli.global.quiet, verbose: cli.global.verbose };
    let exit = run(&cli.verb, console).unwrap_or_else(|failure: Failure| {
        console.fail(&failure);
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Help and version, or what is wrong with the command line: with `--json` as a document too.
fn misused(error: &clap::Error) -> ExitCode {
    let exit = if error.use_stderr() { Exit::Unusable } else { Exit::Done };
    if exit == Exit::Unusable && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let message: Vec<&str> = message.lines().map(str::trim).collect();
        Console::error_document(&message.join(" "), Some("`fitment --help` lists what there is"), exit);
    }
    // A closed stream leaves nobody to tell.
    let _ = error.print();
    ExitCode::from(exit as u8)
}

fn run(verb: &Verb, console: Console) -> Run {
    match verb {
        Verb::Convert(args) => commands::convert::run(args, console),
        Verb::Validate(args) => commands::validate::run(args, console),
        Verb::Inspect(args) => commands::inspect::run(args, console),
        Verb::Apply(args) => commands::apply::run(args, console),
        Verb::Diff(args) => commands::diff::run(args, console),
        Verb::Merge(args) => commands::merge::run(args, console),
        Verb::Completions(args) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "fitment", &mut text);
            console.data(&String::from_utf8_lossy(&text))?;
            Ok(Exit::Done)
        }
        Verb::Man(_) => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            console.data(&String::from_utf8_lossy(&text))?;
            Ok(Exit::Done)
        }
    }
}
