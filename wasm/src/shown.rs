//! What is computed of an adapter, and drawn: by the crate that the command line draws with.

use crate::error::{Result, error};
use crate::files::outcome;
use crate::opened::Opened;
use crate::tensors::moved;
use fitment_report::{Analysis, Measure, Report, Summary, analyse, compare, modules, picture};
use serde_json::{Value, json};
use wasm_bindgen::prelude::wasm_bindgen;

/// The measures of heat maps: `[{name, title}]`.
#[wasm_bindgen]
pub fn measures() -> String {
    let line = |measure: Measure| json!({"name": measure.name(), "title": measure.title()});
    json!(Measure::ALL.map(line)).to_string()
}

#[wasm_bindgen]
impl Opened {
    /// One sentence that says what it is.
    #[must_use]
    pub fn sentence(&self) -> String {
        self.summary("").sentence()
    }

    /// The JSON of `fitment inspect`.
    ///
    /// # Errors
    /// None that is known: every field is text or a number.
    #[wasm_bindgen(js_name = summary)]
    pub fn summary_json(&self, name: &str) -> Result<String> {
        json_of(&self.summary(name))
    }

    /// Its edits as layers × modules.
    ///
    /// # Errors
    /// As [`Opened::summary_json`].
    pub fn modules(&self) -> Result<String> {
        json_of(&modules(&self.converted.adapter))
    }

    /// Analyses an edit, and keeps the result for pictures and reports. Of files whose values are not at hand, `bytes` are those
    /// of its places, one behind the other.
    ///
    /// # Errors
    /// When there is no such edit, bytes are missing, or nothing can be computed with them.
    pub fn analyse(&mut self, edit: usize, bytes: Option<Vec<u8>>) -> Result<String> {
        let found = match &bytes {
            Some(bytes) => {
                let moved = moved(self.edit(edit)?, bytes);
                analyse(
                    &moved.ok_or_else(|| error("other bytes came than those of the edit's tensors", None))?,
                )
            }
            None if self.is_partial => return Err(error("the values of the tensors are not at hand", None)),
            None => analyse(self.edit(edit)?),
        };
        let found = found.map_err(|failed| error(&failed.to_string(), None))?;
        let text = json_of(&found)?;
        self.analyses.insert(edit, found);
        Ok(text)
    }

    /// Layers × modules as SVG, of what was analysed so far.
    ///
    /// # Errors
    /// When there is no such measure.
    #[wasm_bindgen(js_name = heatMap)]
    pub fn heat_map(&self, measure: &str) -> Result<String> {
        let measure =
            Measure::find(measure).ok_or_else(|| error(&format!("there is no measure {measure:?}"), None))?;
        let modules = modules(&self.converted.adapter);
        let analyses: Vec<Option<Analysis>> =
            modules.iter().map(|module| self.analyses.get(&module.edit).cloned()).collect();
        Ok(picture::heat_map(&modules, &analyses, measure))
    }

    /// The singular values of an edit as SVG; nothing before it was analysed.
    ///
    /// # Errors
    /// When there is no such edit.
    pub fn spectrum(&self, edit: usize) -> Result<Option<String>> {
        let label = self.edit(edit)?.label().unwrap_or_default();
        Ok(self.analyses.get(&edit).map(|analysis| picture::spectrum(&label, analysis)))
    }

    /// A report as `html`, `markdown` or `json`, with what was analysed so far.
    ///
    /// # Errors
    /// When there is no such kind, or the verdict asks for more to be said.
    pub fn report(&self, kind: &str, name: &str, said: Option<String>) -> Result<String> {
        let outcome = outcome((name, &self.blobs(), self.is_partial), said.as_deref(), None)?;
        let adapter = &self.converted.adapter;
        let mut report = Report::new(adapter, self.summary(name).with_tensors(adapter), Vec::new());
        report.analyses =
            report.modules.iter().map(|module| self.analyses.get(&module.edit).cloned()).collect();
        report.losses = self.converted.losses.iter().map(ToString::to_string).collect();
        report.manifest = self.manifest();
        match kind {
            "json" => {
                let verdict: Value = serde_json::from_str(&fitment_validate::output::json(&[outcome]))
                    .map_err(|fault| error(&fault.to_string(), None))?;
                let parts = json!({
                    "fitment_report": 1,
                    "sentence": report.summary.sentence(),
                    "summary": report.summary,
                    "verdict": verdict["files"][0],
                    "losses": report.losses,
                    "modules": report.modules,
                    "analyses": report.analyses,
                });
                serde_json::to_string_pretty(&parts).map_err(|fault| error(&fault.to_string(), None))
            }
            "html" | "markdown" => {
                report.outcome = Some(outcome);
                Ok(if kind == "html" { report.html() } else { report.markdown() })
            }
            _ => Err(error(&format!("there is no report {kind:?}"), None)),
        }
    }

    /// How near its updates are to those of another adapter, target by target.
    ///
    /// # Errors
    /// When values are not at hand, or nothing can be computed with them.
    pub fn compare(&self, other: &Opened) -> Result<String> {
        crate::files::whole(self.is_partial || other.is_partial)?;
        let found = compare(&self.converted.adapter, &other.converted.adapter);
        json_of(&found.map_err(|failed| error(&failed.to_string(), None))?)
    }
}

impl Opened {
    fn summary(&self, name: &str) -> Summary {
        Summary::of(&self.converted.adapter, name, &self.format(), self.id())
    }

    /// The content id that a Fitment file records.
    fn id(&self) -> Option<String> {
        let manifest: Value = serde_json::from_str(&self.manifest()?).ok()?;
        manifest["id"].as_str().map(str::to_owned)
    }
}

fn json_of(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|fault| error(&fault.to_string(), None))
}
