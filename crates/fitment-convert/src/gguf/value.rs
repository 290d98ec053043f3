//! Metadata values of GGUF (specification of ggml, versions 2 and 3).

use std::fmt;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7: one byte, 0 or 1.
    Bool(bool),
    /// Type 8: UTF-8 behind its length.
    Text(String),
    /// Type 9: values of one type, none of them a list.
    List(Vec<Value>),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

impl Value {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is an integer that is not negative: writers disagree about widths and signs.
    pub fn as_count(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::Text(_) | Value::List(_) => None,
        }
    }
}

impl Value {
    /// Its type on disk.
    fn kind(&self) -> ValueType {
        ValueType(match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::List(_) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        })
    }

    /// Writes type and value.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.kind().0.to_le_bytes());
        self.encode_bare(out);
    }

    /// Writes the value. A list has the type of its first; an empty one says that it is of bytes.
    fn encode_bare(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(n) => out.extend(n.to_le_bytes()),
            Value::I8(n) => out.extend(n.to_le_bytes()),
            Value::U16(n) => out.extend(n.to_le_bytes()),
            Value::I16(n) => out.extend(n.to_le_bytes()),
            Value::U32(n) => out.extend(n.to_le_bytes()),
            Value::I32(n) => out.extend(n.to_le_bytes()),
            Value::F32(n) => out.extend(n.to_le_bytes()),
            Value::Bool(n) => out.push(u8::from(*n)),
            Value::Text(text) => encode_text(text, out),
            Value::List(values) => {
                out.extend(values.first().map_or(0, |value| value.kind().0).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.encode_bare(out));
            }
            Value::U64(n) => out.extend(n.to_le_bytes()),
            Value::I64(n) => out.extend(n.to_le_bytes()),
            Value::F64(n) => out.extend(n.to_le_bytes()),
        }
    }
}

/// Writes a text behind its length.
pub(super) fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Type of a metadata value on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueType(pub(super) u32);

impl ValueType {
    pub(super) const LIST: ValueType = ValueType(9);

    /// Bytes of one value; of a text or a list the least it can take. `None` for a type that GGUF does not have.
    pub(super) fn least_bytes(self) -> Option<u64> {
        match self.0 {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            8 | 10..=12 => Some(8),
            9 => Some(12),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(n) => write!(f, "{n}"),
            Value::I8(n) => write!(f, "{n}"),
            Value::U16(n) => write!(f, "{n}"),
            Value::I16(n) => write!(f, "{n}"),
            Value::U32(n) => write!(f, "{n}"),
            Value::I32(n) => write!(f, "{n}"),
            Value::F32(n) => write!(f, "{n}"),
            Value::Bool(n) => write!(f, "{n}"),
            Value::Text(text) => f.write_str(&crate::error::one_line(text)),
            Value::List(values) => write!(f, "a list of {}", values.len()),
            Value::U64(n) => write!(f, "{n}"),
            Value::I64(n) => write!(f, "{n}"),
            Value::F64(n) => write!(f, "{n}"),
        }
    }
}
