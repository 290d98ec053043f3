//! A Fitment file: the rules of the format, and the adapter when they are kept.

use fitment_convert::each;
use fitment_convert::fitment;
use fitment_core::check::check_each;
use fitment_core::{Adapter, Depth, Finding};

/// What a look at a file gives.
#[derive(Debug, Default)]
pub(crate) struct Look<'a> {
    pub(crate) findings: Vec<Finding>,
    /// The adapter, when it could be read; also from a file that only lost its canonical form, or whose values are damaged.
    pub(crate) adapter: Option<Adapter<'a>>,
}

/// Checks every rule of spec sections 2 to 9, as deep as values are at hand.
pub(crate) fn check(bytes: &[u8], depth: Depth) -> Look<'_> {
    let report = check_each(bytes, depth, &each::each);
    let findings = report.findings.clone();
    let adapter = fitment::adapter_of(bytes, report).ok().map(|(adapter, _)| adapter);
    Look { findings, adapter }
}
