//! What a caller says beside the files, as JSON.

use crate::error::{Result, error};
use fitment_convert::ReadOptions;
use serde::Deserialize;

/// The options of the command line that decide how files are read, by the same names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Said {
    from: Option<String>,
    adapter: Option<String>,
    positions: Option<String>,
    activation: Option<String>,
    formula: Option<String>,
    alpha: Option<String>,
    moe_layout: Option<String>,
    moe_b_layout: Option<String>,
    keep_files: bool,
}

impl Said {
    /// Reads the JSON; nothing is no option.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let said = text.map_or_else(|| Ok(Self::default()), serde_json::from_str);
        said.map_err(|fault| error(&format!("options: {fault}"), None))
    }

    /// The same for a reader.
    pub(crate) fn options(&self) -> Result<ReadOptions<'_>> {
        let from = self.from.as_deref().map(str::parse).transpose();
        Ok(ReadOptions {
            from: from.map_err(|fault: fitment_convert::NoSuchFormat| error(&fault.to_string(), None))?,
            adapter_name: self.adapter.as_deref(),
            positions: self.positions.as_deref(),
            activation: self.activation.as_deref(),
            formula: self.formula.as_deref(),
            alpha: self.alpha.as_deref(),
            moe_layout: self.moe_layout.as_deref(),
            moe_b_layout: self.moe_b_layout.as_deref(),
            keep_files: self.keep_files,
            ..ReadOptions::default()
        })
    }
}
