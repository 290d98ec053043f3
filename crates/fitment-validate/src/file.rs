//! A Fitment file: the rules of the format, and the adapter when they are kept.

use crate::each;
use fitment_convert::{Files, FormatId, ReadOptions, read};
use fitment_core::check::check_each;
use fitment_core::{Adapter, Depth, Finding};

/// What a look at a file gives.
#[derive(Debug, Default)]
pub(crate) struct Look<'a> {
    pub(crate) findings: Vec<Finding>,
    /// The adapter, when it could be read; also from a file that only lost its canonical form.
    pub(crate) adapter: Option<Adapter<'a>>,
}

/// Checks every rule of spec sections 2 to 9.
pub(crate) fn check<'a>(files: &Files<'a>, bytes: &[u8]) -> Look<'a> {
    let findings = check_each(bytes, Depth::Values, &each::each).findings;
    let options = ReadOptions { from: Some(FormatId::Fitment), ..ReadOptions::default() };
    let adapter = read(files, &options).ok().map(|converted| converted.adapter);
    Look { findings, adapter }
}
