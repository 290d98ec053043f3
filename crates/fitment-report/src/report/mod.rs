//! Everything about an adapter on one page.

mod html;
mod markdown;

use crate::analysis::Analysis;
use crate::error::Error;
use crate::modules::{Measure, Module, modules};
use crate::summary::Summary;
use fitment_core::model::Adapter;
use fitment_validate::Outcome;

/// What a report shows. [`Report::html`] and [`Report::markdown`] draw it.
#[derive(Debug)]
pub struct Report {
    /// What is in the adapter, with its tensors where they are to be listed.
    pub summary: Summary,
    /// What the validator says; `None` where it was not asked.
    pub outcome: Option<Outcome>,
    /// What reading it dropped or assumed.
    pub losses: Vec<String>,
    /// Its edits as layers × modules.
    pub modules: Vec<Module>,
    /// One entry for each module; `None` where it could not be computed.
    pub analyses: Vec<Option<Analysis>>,
    /// Why some could not.
    pub problems: Vec<String>,
    /// The manifest of a Fitment file, as it stands there, with line breaks.
    pub manifest: Option<String>,
    /// Texts of the source that are kept as they were written: path and text.
    pub sources: Vec<(String, String)>,
}

/// Longer texts of a source are cut in a report.
const MOST_TEXT: usize = 64 * 1024;

impl Report {
    /// A report of an adapter. `analyses` has the result of [`crate::analyse`] for each edit of the adapter.
    pub fn new(adapter: &Adapter<'_>, summary: Summary, analyses: Vec<Result<Analysis, Error>>) -> Self {
        let modules = modules(adapter);
        let mut problems = Vec::new();
        let mut by_edit: Vec<Option<Analysis>> = Vec::with_capacity(analyses.len());
        for result in analyses {
            match result {
                Ok(analysis) => by_edit.push(Some(analysis)),
                Err(error) => {
                    problems.push(error.to_string());
                    by_edit.push(None);
                }
            }
        }
        let of = |module: &Module| by_edit.get(module.edit).cloned().flatten();
        Self {
            analyses: modules.iter().map(of).collect(),
            sources: sources(adapter),
            summary,
            outcome: None,
            losses: Vec::new(),
            modules,
            problems,
            manifest: None,
        }
    }

    /// The measures of which more than one value is worth a picture.
    pub fn measures(&self) -> Vec<Measure> {
        let of = |measure: Measure| {
            let analyses = self.analyses.iter().map(Option::as_ref);
            let mut values: Vec<f64> = self
                .modules
                .iter()
                .zip(analyses)
                .filter_map(|(module, analysis)| measure.of(module, analysis))
                .collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            // One scale and one rank for all are said in a word.
            let least = if matches!(measure, Measure::Scale | Measure::Rank) { 2 } else { 1 };
            values.len() >= least
        };
        Measure::ALL.into_iter().filter(|measure| of(*measure)).collect()
    }
}

fn sources(adapter: &Adapter<'_>) -> Vec<(String, String)> {
    let files = adapter.source.iter().flat_map(|source| &source.files);
    files
        .map(|file| {
            let bytes = file.data.bytes();
            let text = match std::str::from_utf8(bytes) {
                Ok(text) if text.len() <= MOST_TEXT => text.to_owned(),
                Ok(text) => {
                    let end = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                    format!("{} … ({} bytes in all)", &text[..end], text.len())
                }
                Err(_) => format!("{} bytes that are no text", bytes.len()),
            };
            (file.path.clone(), text)
        })
        .collect()
}
