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
pub use text::{Style, text};

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
