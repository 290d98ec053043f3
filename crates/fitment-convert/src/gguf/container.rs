//! The container: header and tensor table, with checked arithmetic and counts bounded by the bytes that are there.

use super::ggml::TensorType;
use super::rules;
use super::value::{Value, ValueType};
use fitment_core::Finding;
use fitment_core::finding::Rule;
use fitment_core::limits::{MAX_CONFIG_BYTES, MAX_FOREIGN_HEADER_BYTES};
use fitment_core::tensor::Dtype;
use std::collections::BTreeSet;

/// A GGUF file whose parts were checked: every range lies inside it.
#[derive(Clone, Debug)]
pub struct Container<'a> {
    /// Everything before the tensor data, padding included.
    pub head: &'a [u8],
    /// Metadata in the order of the file.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in the order of the file.
    pub tensors: Vec<Entry<'a>>,
    /// Zeros behind the last tensor.
    pub tail: &'a [u8],
}

/// One tensor.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// Plain float type.
    pub dtype: Dtype,
    /// Axes, slowest first: GGUF's own order (`ne`) the other way round.
    pub dims: Vec<u64>,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Alignment where the metadata do not say (ggml: `GGUF_DEFAULT_ALIGNMENT`).
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// ggml's `GGML_MAX_NAME`, less its closing zero.
const MAX_NAME_BYTES: u64 = 63;

/// Bytes of metadata and tensor table: an adapter's are a few thousand, and a list in memory takes 32 times its bytes.
const MAX_HEADER_BYTES: usize = MAX_CONFIG_BYTES;

/// Bound of the specification.
const MAX_KEY_BYTES: u64 = 65_535;

impl<'a> Container<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// The first breach, in the order of the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Finding> {
        let Head { metadata, alignment, lines, len } = Head::parse(bytes)?;
        let head_len =
            aligned(len, alignment)
                .filter(|end| lines.is_empty() || *end <= bytes.len() as u64)
                .ok_or_else(|| breach(&rules::G_TRUNCATED, "", "the file ends before its tensor data"))?;
        let head = &bytes[..usize_of(head_len.min(bytes.len() as u64))];
        let padding = &head[usize_of(len)..];
        if padding.iter().any(|byte| *byte != 0) {
            return Err(breach(&rules::G_COVER, "", "the padding before the tensor data is not zero"));
        }
        let (tensors, tail) = place(&bytes[head.len()..], lines, alignment)?;
        Ok(Container { head, metadata, tensors, tail })
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// What stands before the tensor data.
pub(super) struct Head {
    /// Metadata in the order of the file.
    pub(super) metadata: Vec<(String, Value)>,
    /// Tensors start at its multiples.
    pub(super) alignment: u64,
    /// The table of tensors.
    pub(super) lines: Vec<Line>,
    /// Bytes up to the padding.
    len: u64,
}

impl Head {
    /// Reads as much of a file.
    ///
    /// # Errors
    /// As [`Container::parse`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Finding> {
        Self::within(bytes, MAX_HEADER_BYTES, Lists::Kept)
    }

    /// Reads as much of a model's file: its vocabulary is passed over.
    ///
    /// # Errors
    /// As [`Container::parse`].
    pub(super) fn of_model(bytes: &[u8]) -> Result<Self, Finding> {
        Self::within(bytes, usize::try_from(MAX_FOREIGN_HEADER_BYTES).unwrap_or(usize::MAX), Lists::Empty)
    }

    /// Where the tensor data start.
    pub(super) fn data_start(&self) -> Option<u64> {
        aligned(self.len, self.alignment)
    }

    fn within(bytes: &[u8], limit: usize, lists: Lists) -> Result<Self, Finding> {
        let limited = &bytes[..bytes.len().min(limit)];
        let mut cursor = Cursor { bytes: limited, at: 0, limit, lists };
        let (tensor_count, metadata_count) = preamble(&mut cursor)?;
        let metadata = metadata(&mut cursor, metadata_count)?;
        let alignment = alignment(&metadata)?;
        let lines = table(&mut cursor, tensor_count)?;
        Ok(Self { metadata, alignment, lines, len: cursor.at })
    }

    /// The value of a metadata key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// What becomes of lists in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    Kept,
    /// They are checked and forgotten: a vocabulary would fill the memory.
    Empty,
}

fn breach(rule: &Rule, place: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding::new(rule, place, message)
}

/// Whether bytes claim to be GGUF.
pub(super) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}

/// The next multiple.
pub(super) fn aligned(at: u64, alignment: u64) -> Option<u64> {
    at.checked_next_multiple_of(alignment)
}

/// Numbers that were compared with the length of a slice in memory.
fn usize_of(number: u64) -> usize {
    usize::try_from(number).expect("at most the length of a slice")
}

/// Tensor and metadata counts.
fn preamble(cursor: &mut Cursor<'_>) -> Result<(u64, u64), Finding> {
    if !is_gguf(cursor.bytes) {
        return Err(breach(&rules::G_MAGIC, "", "the file does not start with `GGUF`"));
    }
    cursor.at = 4;
    let version = cursor.u32()?;
    if version.swap_bytes() <= 0xffff && version > 0xffff {
        let message = format!("the file is big-endian (version {})", version.swap_bytes());
        return Err(breach(&rules::G_MAGIC, "", message));
    }
    if !matches!(version, 2 | 3) {
        return Err(breach(&rules::G_MAGIC, "", format!("version {version}, read are 2 and 3")));
    }
    Ok((cursor.u64()?, cursor.u64()?))
}

fn metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<(String, Value)>, Finding> {
    // A key's length, its type and one byte of value.
    cursor.expect_items(count, 13, "metadata")?;
    let mut metadata = Vec::new();
    let mut seen = BTreeSet::new();
    for number in 0..count {
        let key = cursor.text(MAX_KEY_BYTES, &rules::G_METADATA, || format!("metadata key {number}"))?;
        if !seen.insert(key.clone()) {
            return Err(breach(&rules::G_METADATA, key, "the key stands twice"));
        }
        let kind = ValueType(cursor.u32()?);
        let value = if kind == ValueType::LIST { list(cursor, &key)? } else { scalar(cursor, kind, &key)? };
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn list(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, Finding> {
    let kind = ValueType(cursor.u32()?);
    if kind == ValueType::LIST {
        return Err(breach(&rules::G_METADATA, key, "a list of lists"));
    }
    let least = kind.least_bytes().ok_or_else(|| unknown_type(kind, key))?;
    let count = cursor.u64()?;
    cursor.expect_items(count, least, key)?;
    let mut values = Vec::new();
    for _ in 0..count {
        let value = scalar(cursor, kind, key)?;
        values.extend((cursor.lists == Lists::Kept).then_some(value));
    }
    Ok(Value::List(values))
}

fn unknown_type(kind: ValueType, key: &str) -> Finding {
    breach(&rules::G_METADATA, key, format!("value type {}, known are 0 to 12", kind.0))
}

fn scalar(cursor: &mut Cursor<'_>, kind: ValueType, key: &str) -> Result<Value, Finding> {
    Ok(match kind.0 {
        0 => Value::U8(u8::from_le_bytes(cursor.array()?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        4 => Value::U32(cursor.u32()?),
        5 => Value::I32(i32::from_le_bytes(cursor.array()?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        7 => match cursor.array::<1>()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [byte] => return Err(breach(&rules::G_METADATA, key, format!("a bool of {byte}"))),
        },
        8 => Value::Text(cursor.string(u64::MAX, &rules::G_METADATA, || key.to_owned())?),
        10 => Value::U64(cursor.u64()?),
        11 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(unknown_type(kind, key)),
    })
}

fn alignment(metadata: &[(String, Value)]) -> Result<u64, Finding> {
    const KEY: &str = "general.alignment";
    match metadata.iter().find(|(key, _)| key == KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok(u64::from(*alignment)),
        Some((_, value)) => {
            Err(breach(&rules::G_ALIGNMENT, KEY, format!("{value}, a power of two is asked for, as u32")))
        }
    }
}

/// A line of the tensor table.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) kind: TensorType,
    pub(super) dims: Vec<u64>,
    pub(super) len: u64,
    pub(super) offset: u64,
}

fn table(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Line>, Finding> {
    // A name's length and byte, the number of axes, one axis, type, offset.
    cursor.expect_items(count, 33, "tensors")?;
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    for number in 0..count {
        let name = cursor.text(MAX_NAME_BYTES, &rules::G_TENSOR, || format!("tensor {number}"))?;
        if !seen.insert(name.clone()) {
            return Err(breach(&rules::G_TENSOR, name, "the name stands twice"));
        }
        let axes = cursor.u32()?;
        if !(1..=4).contains(&axes) {
            return Err(breach(&rules::G_TENSOR, name, format!("{axes} axes, 1 to 4 are allowed")));
        }
        let mut dims = (0..axes).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>()?;
        dims.reverse();
        let number = cursor.u32()?;
        let kind = TensorType::of(number)
            .ok_or_else(|| breach(&rules::G_TYPE, &*name, format!("ggml type {number} is not known here")))?;
        let len = kind.byte_len(&dims).ok_or_else(|| {
            let message = format!("{dims:?} of {} is too large, or of no whole blocks", kind.name);
            breach(&rules::G_TENSOR, &*name, message)
        })?;
        let offset = cursor.u64()?;
        lines.push(Line { name, kind, dims, len, offset });
    }
    Ok(lines)
}

/// The tensors, and the padding behind the last.
fn place<'a>(
    data: &'a [u8],
    table: Vec<Line>,
    alignment: u64,
) -> Result<(Vec<Entry<'a>>, &'a [u8]), Finding> {
    let mut at = 0u64;
    let mut entries = Vec::new();
    for Line { name, kind, dims, len, offset } in table {
        let dtype = kind.float().ok_or_else(|| {
            let message = format!("{} is not a plain float (F32, F16, BF16, F64)", kind.name);
            breach(&rules::G_TYPE, &*name, message)
        })?;
        if offset % alignment != 0 {
            let message = format!("its data start at {offset}, no multiple of {alignment}");
            return Err(breach(&rules::G_ALIGNMENT, name, message));
        }
        if Some(offset) != aligned(at, alignment) {
            let message = format!("its data start at {offset}, those before it end at {at}");
            return Err(breach(&rules::G_COVER, name, message));
        }
        let end = offset.checked_add(len).filter(|end| *end <= data.len() as u64).ok_or_else(|| {
            let message =
                format!("its {len} bytes start at {offset}, the file has {} bytes of data", data.len());
            breach(&rules::G_TRUNCATED, &*name, message)
        })?;
        check_zero(&data[usize_of(at)..usize_of(offset)], &name)?;
        entries.push(Entry { name, dtype, dims, bytes: &data[usize_of(offset)..usize_of(end)] });
        at = end;
    }
    // Writers differ in whether they pad behind the last tensor.
    let rest = &data[usize_of(at)..];
    if rest.len() as u64 >= alignment {
        let message = format!("{} bytes follow the last tensor", rest.len());
        return Err(breach(&rules::G_COVER, "", message));
    }
    check_zero(rest, "")?;
    Ok((entries, rest))
}

fn check_zero(padding: &[u8], name: &str) -> Result<(), Finding> {
    if padding.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(breach(&rules::G_COVER, name, "the padding around its data is not zero"))
}

/// A place in the header. `at` never passes the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: u64,
    /// Bytes that a header may have.
    limit: usize,
    lists: Lists,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        self.bytes.len() as u64 - self.at
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Finding> {
        if len > self.left() {
            return Err(self.short("", &format!("{len} bytes are announced at byte {}", self.at)));
        }
        let begin = usize_of(self.at);
        self.at += len;
        Ok(&self.bytes[begin..usize_of(self.at)])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Finding> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    fn u32(&mut self) -> Result<u32, Finding> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Finding> {
        self.array().map(u64::from_le_bytes)
    }

    /// A lying count must not allocate or loop: each item takes some bytes of what is left.
    fn expect_items(&self, count: u64, least: u64, what: &str) -> Result<(), Finding> {
        if count <= self.left() / least {
            return Ok(());
        }
        Err(self.short(what, &format!("{count} items of at least {least} bytes are announced")))
    }

    fn short(&self, place: &str, announced: &str) -> Finding {
        let limit = if self.bytes.len() == self.limit { " of the most that a header may have" } else { "" };
        breach(&rules::G_TRUNCATED, place, format!("{announced}, {} are left{limit}", self.left()))
    }

    fn string(&mut self, limit: u64, rule: &Rule, place: impl Fn() -> String) -> Result<String, Finding> {
        let len = self.u64()?;
        if len > limit {
            return Err(breach(rule, place(), format!("a text of {len} bytes, at most {limit} are allowed")));
        }
        let bytes = self.take(len)?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| breach(rule, place(), "a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }

    /// A name: a text of at least one byte.
    fn text(&mut self, limit: u64, rule: &Rule, place: impl Fn() -> String) -> Result<String, Finding> {
        let text = self.string(limit, rule, &place)?;
        if text.is_empty() {
            return Err(breach(rule, place(), "the empty name"));
        }
        Ok(text)
    }
}
