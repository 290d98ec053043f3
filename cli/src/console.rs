//! What a run prints and how it ends: data on stdout, messages on stderr, one line for an error and one for its hint.

use anstyle::{AnsiColor, Style};
use std::fmt::Display;
use std::io::Write;

/// Exit codes of the contract in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Findings = 1,
    Unusable = 2,
    Unchecked = 3,
    Interrupted = 130,
}

/// Why a verb stopped.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Anything without an exit code of its own is unusable input.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::new(Exit::Unusable, error)
    }
}

pub(crate) type Run = Result<Exit, Failure>;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();

/// How much is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}

impl Console {
    /// Data: what the user asked for. That the reader stopped early (`| head`) is no error; a full disk is.
    pub(crate) fn data(self, text: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::from(error).context("standard output").into())
            }
            _ => Ok(()),
        }
    }

    /// A JSON document on stdout.
    pub(crate) fn document(self, value: &serde_json::Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)?;
        self.data(&format!("{text}\n"))
    }

    /// A line about what happened; not with `--quiet`.
    pub(crate) fn say(self, message: impl Display) {
        if !self.quiet {
            line("", Style::new(), &message);
        }
    }

    /// A line that only `--verbose` shows.
    pub(crate) fn detail(self, message: impl Display) {
        if self.verbose {
            line("", Style::new(), &message);
        }
    }

    /// A line about something that may be wrong.
    pub(crate) fn warn(self, message: impl Display) {
        if !self.quiet {
            line("warning: ", WARNING, &message);
        }
    }

    /// An error for those who read standard output alone: `{"fitment_error": 1, "error": {message, hint, exit}}`, a stable
    /// contract.
    pub(crate) fn error_document(message: &str, hint: Option<&str>, exit: Exit) {
        let error = serde_json::json!({ "message": message, "hint": hint, "exit": exit as u8 });
        let document = serde_json::json!({ "fitment_error": 1, "error": error });
        let mut out = anstream::stdout().lock();
        // The error stands on standard error too: that this output fails changes nothing.
        let _ = writeln!(out, "{document:#}");
    }

    /// The error line and its hint; with `--json` the document too.
    pub(crate) fn fail(self, failure: &Failure) {
        let message = with_causes(&failure.error);
        if self.json {
            Console::error_document(&message, failure.hint.as_deref(), failure.exit);
        }
        line("error: ", ERROR, &one_line(&message));
        if let Some(hint) = &failure.hint {
            line("hint: ", HINT, &one_line(hint));
        }
    }
}

fn line(label: &str, style: Style, message: &dyn Display) {
    let mut err = anstream::stderr().lock();
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(err, "{style}{label}{style:#}{message}");
}

/// An error and its causes, without those that a message before them has told already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let is_told = text.strip_suffix(&cause).is_some_and(|head| head.is_empty() || head.ends_with(": "));
        if !is_told {
            text.extend([if text.is_empty() { "" } else { ": " }, cause.as_str()]);
        }
    }
    text
}

/// Messages quote names from files: what would break the line or drive the terminal is escaped.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control();
            let escape = escaped.then(|| c.escape_default());
            escape.into_iter().flatten().chain((!escaped).then_some(c))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\nb\u{1b}[31mc é"), "a\\nb\\u{1b}[31mc é");
    }
}
