//! What findings look like, for people and for machines. Pure functions to text; the command line prints it.
//!
//! JSON, SARIF and the GitHub form are stable contracts; the text is not.

mod github;
mod json;
mod sarif;
mod text;

pub use github::github;
pub use json::{JSON_VERSION, json};
pub use sarif::sarif;
pub use text::{Style, failing, text};

use crate::codes;
use crate::outcome::Outcome;
use fitment_core::finding::Finding;

/// Text for one line: control characters, which names in hostile files may hold, written as escapes.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// The file that a finding is about: one inside the folder where that is known, else what the caller named.
fn artifact(outcome: &Outcome, finding: Option<&Finding>) -> String {
    let name = slashed(&outcome.name);
    let is_file = |file: &&String| name == **file || name.ends_with(&format!("/{file}"));
    let files = || outcome.files.iter().filter(|file| !is_file(file));
    let named = |file: &&String| {
        let place = finding.map_or("", |finding| finding.place.as_str());
        place.strip_prefix(file.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let section = finding.and_then(|finding| codes::of(finding.code)).map_or("", |rule| rule.section);
    let end = match section {
        "PEFT: config" | "PEFT: selection" | "PEFT: methods" => "adapter_config.json",
        _ => ".safetensors",
    };
    let of_kind = || files().find(|file| file.ends_with(end));
    match files().find(named).or_else(of_kind) {
        Some(file) => format!("{}/{file}", name.trim_end_matches('/')),
        None => name,
    }
}

/// A path as the machines that read a report want it: forward slashes, nothing before a relative one.
fn slashed(path: &str) -> String {
    let path = path.replace('\\', "/");
    path.strip_prefix("./").unwrap_or(&path).to_owned()
}

/// Place and message of a finding, as one sentence in one line.
fn sentence(finding: &Finding) -> String {
    match finding.place.is_empty() {
        true => one_line(&finding.message),
        false => format!("{}: {}", one_line(&finding.place), one_line(&finding.message)),
    }
}
