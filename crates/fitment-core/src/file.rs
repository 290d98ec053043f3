//! Whole files: bytes to model and back.

use crate::check::{self, Depth, Report};
use crate::container::{self, Container};
use crate::draft::layout;
use crate::error::{Error, Result};
use crate::finding::{Finding, Severity};
use crate::manifest::{self, Encoded};
use crate::model::Adapter;
use crate::tensor::{Bytes, Tensor};
use std::collections::BTreeMap;
use std::io::Write;

/// Reads a Fitment file. Tensors borrow from `bytes`; digests and weights are not looked at ([`crate::check()`] does).
///
/// # Errors
/// [`Error::Malformed`] with the first breach of spec sections 2 to 9; [`Error::NotFitment`] when the file is sound
/// safetensors without a manifest.
pub fn read(bytes: &[u8]) -> Result<Adapter<'_>> {
    read_checked(bytes, check::check(bytes, Depth::Structure))
}

/// The adapter of a file that was checked already; the same errors as [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_checked(bytes: &[u8], report: Report) -> Result<Adapter<'_>> {
    if let Some(error) = first_error(report.findings) {
        let foreign = container::read_foreign(bytes);
        return Err(match foreign {
            Ok(container) if container.metadata_text("fitment").is_none() => Error::NotFitment,
            _ => error,
        });
    }
    let (Some(container), Some(manifest)) = (report.container, report.manifest) else {
        return Err(Error::NotFitment);
    };
    manifest::decode(&manifest, &stored(bytes, &container)?)
}

/// Whether the bytes are a safetensors file whose metadata hold a manifest, sound or not.
pub fn is_fitment(prefix: &[u8], file_len: u64) -> bool {
    // How every canonical file starts: no need to read the header twice.
    if prefix.get(8..).is_some_and(|header| header.starts_with(b"{\"__metadata__\":{\"fitment\":")) {
        return true;
    }
    container::read_header(prefix, file_len, container::Profile::Foreign).is_ok_and(|(container, _)| {
        container.metadata().is_some_and(|fields| fields.get("fitment").is_some())
    })
}

fn stored<'c, 'a>(bytes: &'a [u8], container: &'c Container) -> Result<BTreeMap<&'c str, Tensor<'a>>> {
    let tensor = |entry: &'c container::Entry| {
        let data = bytes.get(container.data_range(entry)).unwrap_or_default();
        let tensor = Tensor::new(entry.dtype, entry.shape.clone(), Bytes::Borrowed(data));
        tensor
            .map(|tensor| (entry.name.as_str(), tensor))
            .map_err(|source| Error::Shape { name: entry.name.clone(), source })
    };
    container.entries().iter().map(tensor).collect()
}

fn first_error(findings: Vec<Finding>) -> Option<Error> {
    let mut errors = findings.into_iter().filter(|finding| finding.severity == Severity::Error);
    let first = errors.next()?;
    Some(Error::Malformed { first: Box::new(first), more: errors.count() })
}

/// Writes a Fitment file in its one canonical form: the same adapter gives the same bytes, everywhere.
///
/// # Errors
/// [`Error::Malformed`] when the adapter breaks a rule of the format; [`Error::Write`] when the sink fails. Nothing is
/// written in the first case.
pub fn write(adapter: &Adapter<'_>, out: &mut dyn Write) -> Result<()> {
    let encoded = encode_checked(adapter)?;
    let metadata = BTreeMap::from([("fitment".to_owned(), encoded.text())]);
    container::write_container(&metadata, encoded.tensors.iter().map(|(name, t)| (name.clone(), t)), out)
}

/// [`write()`] into memory.
///
/// # Errors
/// As [`write()`].
pub fn to_bytes(adapter: &Adapter<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(adapter, &mut bytes)?;
    Ok(bytes)
}

/// A header that no reader would take is not written either.
fn header_fault(encoded: &Encoded<'_>) -> Option<Finding> {
    let layout = layout(&encoded.text(), &encoded.tensors);
    let (found, limit) = (layout.head.len() as u64 - 8, crate::limits::MAX_HEADER_BYTES);
    let message = || format!("the header would have {found} bytes, at most {limit} are allowed");
    (found > limit).then(|| Finding::new(&crate::finding::rules::C_HEADER_LIMIT, "", message()))
}

/// The stored form of an adapter that keeps every structural rule.
///
/// # Errors
/// [`Error::Malformed`] with the first breach.
pub fn encode_checked<'a>(adapter: &Adapter<'a>) -> Result<Encoded<'a>> {
    encode_checked_each(adapter, &check::in_order)
}

/// [`encode_checked`], with the passes over tensors run by `each`.
///
/// # Errors
/// As [`encode_checked`].
pub fn encode_checked_each<'a>(adapter: &Adapter<'a>, each: check::Each<'_>) -> Result<Encoded<'a>> {
    checked(manifest::encode_each(adapter, each))
}

/// The same, when it keeps every structural rule.
///
/// # Errors
/// [`Error::Malformed`] with the first breach.
pub(crate) fn checked(encoded: Encoded<'_>) -> Result<Encoded<'_>> {
    let stored = check::stored_of(&encoded);
    let mut findings = check::check_manifest(&encoded.manifest, &stored, Depth::Structure, &check::in_order);
    drop(stored);
    findings.extend(header_fault(&encoded));
    match first_error(findings) {
        Some(error) => Err(error),
        None => Ok(encoded),
    }
}
