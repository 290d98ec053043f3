use super::{canonical, entries, layout};
use crate::finding::{Finding, Rule, Severity, rules};
use crate::json::{self, JsonFault};
use crate::limits;
use crate::tensor::{Dtype, Shape};
use serde_json::{Map, Value};
use std::ops::Range;

/// One tensor of a header. Offsets count from the start of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tensor name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub shape: Shape,
    /// First byte.
    pub start: u64,
    /// One past the last byte; `end - start` is what dtype and shape ask for.
    pub end: u64,
}

/// A container's header: metadata and tensors, each inside the data, without hole or overlap.
#[derive(Clone, Debug)]
pub struct Container {
    data_start: u64,
    metadata: Option<Value>,
    entries: Vec<Entry>,
}

impl Container {
    /// Offset of the data in the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// `__metadata__` as it stands.
    pub fn metadata(&self) -> Option<&Value> {
        self.metadata.as_ref()
    }

    /// The string under a metadata key.
    pub fn metadata_text(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key)?.as_str()
    }

    /// The tensors, in data order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The tensor of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Where an entry's bytes lie in the whole file.
    ///
    /// Fits in `usize` whenever the whole file is in memory, which is the only use of it.
    pub fn data_range(&self, entry: &Entry) -> Range<usize> {
        let offset = |at: u64| usize::try_from(self.data_start.saturating_add(at)).unwrap_or(usize::MAX);
        offset(entry.start)..offset(entry.end)
    }
}

/// What a header says.
pub(super) struct Header {
    pub(super) metadata: Option<Value>,
    /// In the order in which they are listed.
    pub(super) entries: Vec<Entry>,
}

/// Which rules a header must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Spec section 2: canonical bytes.
    Fitment,
    /// Any safetensors file: departures from the canonical form are no breach, or a warning where readers differ.
    Foreign,
}

/// The number of header bytes that the first 8 bytes of a file announce, for readers that fetch only the header.
pub fn header_len(prefix: [u8; 8]) -> u64 {
    u64::from_le_bytes(prefix)
}

/// Reads a header from the first bytes of a file of `file_len` bytes. The data need not be in `prefix`.
///
/// Returns the container and what is not canonical about it.
///
/// # Errors
/// The one finding that makes reading on pointless.
pub fn read_header(
    prefix: &[u8],
    file_len: u64,
    profile: Profile,
) -> Result<(Container, Vec<Finding>), Finding> {
    let text = header_text(prefix, file_len, profile)?;
    let data_start = 8 + text.len() as u64;
    let data_len = file_len - data_start;
    if let Some(Header { metadata, entries }) = canonical::read(text, data_len, profile) {
        return Ok((Container { data_start, metadata, entries }, Vec::new()));
    }
    let mut findings = Vec::new();
    check_start(text, profile, &mut findings)?;
    let trimmed = text.trim_end_matches([' ', '\t', '\r', '\n']);
    let fields = parse(trimmed)?;
    let count = fields.len() - usize::from(fields.contains_key("__metadata__"));
    if count > limits::MAX_TENSORS {
        let message = format!("{count} tensors, at most {} are allowed", limits::MAX_TENSORS);
        return Err(Finding::new(&rules::C_COUNT, "", message));
    }
    let metadata = fields.get("__metadata__").cloned();
    let listed = entries::read(&fields)?;
    let mut ordered = listed.clone();
    // Zero-size tensors share their start with the next one: the shorter first, then in canonical order.
    ordered.sort_by(|a, b| {
        let canonical = || layout::canonical_order((a.dtype, &a.name), (b.dtype, &b.name));
        (a.start, a.end).cmp(&(b.start, b.end)).then_with(canonical)
    });
    entries::check_cover(&ordered, data_len)?;
    let container = Container { data_start, metadata, entries: ordered };
    match profile {
        Profile::Fitment => layout::check_canonical(&container, &fields, text, &listed, &mut findings),
        Profile::Foreign => layout::check_tolerable(&container, text, trimmed, &mut findings),
    }
    Ok((container, findings))
}

fn header_text(prefix: &[u8], file_len: u64, profile: Profile) -> Result<&str, Finding> {
    let truncated = |message: String| Finding::new(&rules::C_TRUNCATED_HEADER, "", message);
    let Some(length) = prefix.first_chunk::<8>().map(|bytes| header_len(*bytes)) else {
        return Err(truncated(format!("{} bytes: too short for a safetensors file", prefix.len())));
    };
    let limit = match profile {
        Profile::Fitment => limits::MAX_HEADER_BYTES,
        Profile::Foreign => limits::MAX_FOREIGN_HEADER_BYTES,
    };
    if length > limit {
        let message = format!("the header claims {length} bytes, at most {limit} are allowed");
        return Err(Finding::new(&rules::C_HEADER_LIMIT, "", message));
    }
    let room = file_len.saturating_sub(8);
    let available = prefix.get(8..).unwrap_or_default();
    let bytes = usize::try_from(length).ok().and_then(|length| available.get(..length));
    let Some(bytes) = bytes.filter(|_| length <= room) else {
        return Err(truncated(format!(
            "the header claims {length} bytes, the file has {room} after the length"
        )));
    };
    std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("not UTF-8 at header byte {}", error.valid_up_to());
        Finding::new(&rules::C_HEADER_UTF8, "", message)
    })
}

fn check_start(text: &str, profile: Profile, findings: &mut Vec<Finding>) -> Result<(), Finding> {
    if text.starts_with('{') {
        return Ok(());
    }
    let found = text.chars().next().map_or("nothing".to_owned(), |c| format!("{c:?}"));
    let mut finding =
        Finding::new(&rules::C_HEADER_START, "", format!("the header starts with {found}, expected '{{'"));
    if profile == Profile::Foreign && text.trim_start().starts_with('{') {
        finding.severity = Severity::Warning;
        findings.push(finding);
        return Ok(());
    }
    Err(finding)
}

fn parse(text: &str) -> Result<Map<String, Value>, Finding> {
    let broken = |message: String| Finding::new(&rules::C_HEADER_JSON, "", message);
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(broken("the header is not a JSON object".to_owned())),
        Err(fault) => Err(duplicate_or(&rules::C_DUPLICATE_KEY, fault, broken)),
    }
}

/// Duplicate keys have a rule of their own; any other fault of a JSON text is `other`.
pub(crate) fn duplicate_or(rule: &Rule, fault: JsonFault, other: impl FnOnce(String) -> Finding) -> Finding {
    match &fault {
        JsonFault::DuplicateKey { key, .. } => Finding::new(rule, key.clone(), fault.to_string()),
        JsonFault::Syntax { .. } => other(format!("not JSON: {fault}")),
    }
}
