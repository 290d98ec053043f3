//! The `fitment` command line: arguments in, calls, exit codes out.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod console;
mod progress;
mod weighted;

use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use console::{Console, Exit, Failure, Run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console { json: cli.global.json, quiet: cli.global.quiet, verbose: cli.global.verbose };
    let exit = run(&cli.verb, console).unwrap_or_else(|failure: Failure| {
        console.fail(&failure);
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(verb: &Verb, console: Console) -> Run {
    match verb {
        Verb::Convert(args) => commands::convert::run(args, console),
        Verb::Validate(args) => commands::validate::run(args, console),
        Verb::Inspect(args) => commands::inspect::run(args, console),
        Verb::Apply(args) => commands::apply::run(args, console),
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
