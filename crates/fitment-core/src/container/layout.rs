//! The canonical form of a header: what it is, and what departs from it.

use super::{Container, Entry};
use crate::finding::{Finding, Severity, rules};
use crate::json::{to_canonical, write_text};
use crate::tensor::{Dtype, Shape};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::io::{self, Write};

/// The order of tensors in a canonical file: element bits descending, then name bytes. It aligns every tensor.
pub fn canonical_order(a: (Dtype, &str), b: (Dtype, &str)) -> Ordering {
    b.0.bits().cmp(&a.0.bits()).then_with(|| a.1.as_bytes().cmp(b.1.as_bytes()))
}

/// Where everything lies in a canonical file: the header's bytes and the tensors' places.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Length field and padded header: the bytes before the data.
    pub head: Vec<u8>,
    /// Tensors in data order.
    pub entries: Vec<Entry>,
    /// Bytes of data.
    pub data_len: u64,
}

impl Layout {
    /// Lays tensors out in canonical order, under the given metadata (sorted by key; absent when empty).
    ///
    /// Shapes must be able to fill whole bytes, as those of a [`crate::tensor::Tensor`] do.
    pub fn canonical<'m>(
        metadata: impl IntoIterator<Item = (&'m str, &'m str)>,
        tensors: impl IntoIterator<Item = (String, Dtype, Shape)>,
    ) -> Self {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by(|a, b| canonical_order((a.1, &a.0), (b.1, &b.0)));
        let mut at = 0u64;
        let mut entries = Vec::with_capacity(tensors.len());
        for (name, dtype, shape) in tensors {
            let len = shape.byte_len(dtype).expect("a stored tensor fills whole bytes");
            let end = at.checked_add(len).expect("tensors in memory or on disk end below 2^64");
            entries.push(Entry { name, dtype, shape, start: at, end });
            at = end;
        }
        let metadata: Map<String, Value> =
            metadata.into_iter().map(|(key, text)| (key.to_owned(), text.into())).collect();
        let metadata = (!metadata.is_empty()).then_some(Value::Object(metadata));
        let mut text = header_text(metadata.as_ref(), &entries);
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut head = (text.len() as u64).to_le_bytes().to_vec();
        head.extend_from_slice(&text);
        Self { head, entries, data_len: at }
    }
}

/// The canonical header text, without padding.
fn header_text(metadata: Option<&Value>, entries: &[Entry]) -> Vec<u8> {
    let mut text = Vec::new();
    write_header(&mut text, metadata, entries).expect("writing to memory does not fail");
    text
}

/// Whether a text is the canonical header, without padding; nothing is built but what goes to the comparison.
pub(super) fn is_header(text: &str, metadata: Option<&Value>, entries: &[Entry]) -> bool {
    let mut rest = Same(text.as_bytes());
    write_header(&mut rest, metadata, entries).is_ok() && rest.0.is_empty()
}

/// Takes only what goes on as the text does, and keeps what is still to come.
struct Same<'t>(&'t [u8]);

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_header(out: &mut impl Write, metadata: Option<&Value>, entries: &[Entry]) -> io::Result<()> {
    out.write_all(b"{")?;
    if let Some(metadata) = metadata {
        out.write_all(b"\"__metadata__\":")?;
        write_metadata(out, metadata)?;
    }
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 || metadata.is_some() {
            out.write_all(b",")?;
        }
        write_text(out, &entry.name)?;
        write!(out, ":{{\"dtype\":\"{}\",\"shape\":[", entry.dtype)?;
        for (axis, dim) in entry.shape.dims().iter().enumerate() {
            out.write_all(if axis > 0 { b"," } else { b"" })?;
            write!(out, "{dim}")?;
        }
        write!(out, "],\"data_offsets\":[{},{}]}}", entry.start, entry.end)?;
    }
    out.write_all(b"}")
}

/// A manifest alone, which may be long, goes out as it is read.
fn write_metadata(out: &mut impl Write, metadata: &Value) -> io::Result<()> {
    let fields = metadata.as_object().filter(|fields| fields.len() == 1);
    match fields.and_then(|fields| fields.iter().next()) {
        Some((key, Value::String(text))) => {
            out.write_all(b"{")?;
            write_text(out, key)?;
            out.write_all(b":")?;
            write_text(out, text)?;
            out.write_all(b"}")
        }
        _ => out.write_all(to_canonical(metadata).as_bytes()),
    }
}

/// What departs from the canonical form in a Fitment file. Each departure has its own code; the catch-all comes only
/// when none of the others explains the difference.
pub(super) fn check_canonical(
    container: &Container,
    fields: &Map<String, Value>,
    text: &str,
    listed: &[Entry],
    findings: &mut Vec<Finding>,
) {
    let before = findings.len();
    check_metadata(container.metadata(), findings);
    // Canonical order aligns every tensor: a misaligned one is out of order too, and is reported once.
    if !check_alignment(container, findings) {
        let mut sorted: Vec<&Entry> = container.entries().iter().collect();
        sorted.sort_by(|a, b| canonical_order((a.dtype, &a.name), (b.dtype, &b.name)));
        let out_of_order = sorted.iter().zip(container.entries()).find(|(a, b)| a.name != b.name);
        if let Some((expected, found)) = out_of_order {
            let message =
                format!("its data stand where those of {:?} belong (element bits, then name)", expected.name);
            findings.push(Finding::new(&rules::C_DATA_ORDER, &found.name, message));
        }
    }
    check_header_order(container, fields, listed, findings);
    let body = text.trim_end_matches(' ');
    let padding = text.len() - body.len();
    if body.ends_with(|c: char| c.is_ascii_whitespace()) || padding > 7 {
        let message = "the header ends with more than seven spaces or other white space".to_owned();
        findings.push(Finding::new(&rules::C_PADDING, "", message));
    }
    if findings.len() == before && !is_header(body, container.metadata(), listed) {
        let message = "the header holds white space, needless escapes or fields in another order".to_owned();
        findings.push(Finding::new(&rules::C_HEADER_FORM, "", message));
    }
}

fn check_metadata(metadata: Option<&Value>, findings: &mut Vec<Finding>) {
    let Some(Value::Object(fields)) = metadata else {
        let message = "no `__metadata__` object".to_owned();
        findings.push(Finding::new(&rules::C_METADATA, "__metadata__", message));
        return;
    };
    let others: Vec<&str> = fields.keys().map(String::as_str).filter(|key| *key != "fitment").collect();
    if !others.is_empty() {
        let message = format!("holds other keys beside `fitment`: {}", others.join(", "));
        findings.push(Finding::new(&rules::C_METADATA, "__metadata__", message));
    } else if !fields.get("fitment").is_some_and(Value::is_string) {
        let message = "`fitment` is not a string".to_owned();
        findings.push(Finding::new(&rules::C_METADATA, "__metadata__.fitment", message));
    }
}

fn check_header_order(
    container: &Container,
    fields: &Map<String, Value>,
    listed: &[Entry],
    findings: &mut Vec<Finding>,
) {
    if fields.keys().position(|key| key == "__metadata__").is_some_and(|at| at != 0) {
        let message = "is not the first key of the header".to_owned();
        findings.push(Finding::new(&rules::C_HEADER_ORDER, "__metadata__", message));
        return;
    }
    let found = listed.iter().zip(container.entries()).find(|(a, b)| a.name != b.name);
    if let Some((found, _)) = found {
        let message = "is listed out of data order".to_owned();
        findings.push(Finding::new(&rules::C_HEADER_ORDER, &found.name, message));
    }
}

/// Gives whether a tensor is misaligned.
fn check_alignment(container: &Container, findings: &mut Vec<Finding>) -> bool {
    if !container.data_start().is_multiple_of(8) {
        let message = format!("the data start at byte {}, not at a multiple of 8", container.data_start());
        findings.push(Finding::new(&rules::C_ALIGNMENT, "", message));
        return false;
    }
    let misaligned = container.entries().iter().find(|entry| {
        let size = entry.dtype.bytes().unwrap_or(1) as u64;
        entry.start < entry.end && !entry.start.is_multiple_of(size)
    });
    if let Some(entry) = misaligned {
        let message = format!(
            "its data start at byte {}, not at a multiple of {}",
            entry.start,
            entry.dtype.bits() / 8
        );
        findings.push(Finding::new(&rules::C_ALIGNMENT, &entry.name, message));
    }
    misaligned.is_some()
}

/// What a foreign file does that some readers do not take: warnings.
pub(super) fn check_tolerable(container: &Container, text: &str, trimmed: &str, findings: &mut Vec<Finding>) {
    let mut warn = |rule, place: &str, message: String| {
        let mut finding = Finding::new(rule, place, message);
        finding.severity = Severity::Warning;
        findings.push(finding);
    };
    if text[trimmed.len()..].chars().any(|c| c != ' ') {
        warn(&rules::C_PADDING, "", "the header is padded with other characters than spaces".to_owned());
    }
    let metadata_is_text =
        |value: &Value| value.as_object().is_some_and(|fields| fields.values().all(Value::is_string));
    // `null` is what MLX writes and every reader takes for none.
    if container.metadata().is_some_and(|value| !value.is_null() && !metadata_is_text(value)) {
        warn(&rules::C_METADATA, "__metadata__", "is not a map of strings".to_owned());
    }
    let mut alignment = Vec::new();
    check_alignment(container, &mut alignment);
    // An odd header length alone is common and harmless; misaligned tensors are what readers refuse or copy.
    if let Some(finding) = alignment.into_iter().find(|f| !f.place.is_empty()) {
        warn(&rules::C_ALIGNMENT, &finding.place, finding.message);
    }
}
