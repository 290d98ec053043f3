//! The tensor entries of a header and the exact cover of the data.

use super::Entry;
use crate::finding::{Finding, rules};
use crate::limits::MAX_NAME_BYTES;
use crate::tensor::{Dtype, Shape, ShapeFault};
use serde_json::{Map, Value};

/// Every entry but `__metadata__`, in the order in which the header lists them.
pub(super) fn read(fields: &Map<String, Value>) -> Result<Vec<Entry>, Finding> {
    fields
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, value)| entry(name, value))
        .collect()
}

fn entry(name: &str, value: &Value) -> Result<Entry, Finding> {
    check_name(name)?;
    let malformed = |message: String| Finding::new(&rules::C_ENTRY, name, message);
    let fields = value.as_object().ok_or_else(|| malformed("the entry is not an object".to_owned()))?;
    if let Some(key) = fields.keys().find(|key| !matches!(key.as_str(), "dtype" | "shape" | "data_offsets")) {
        return Err(malformed(format!("unknown field {key:?}")));
    }
    let field = |key: &str| fields.get(key).ok_or_else(|| malformed(format!("no field {key:?}")));
    let dtype = field("dtype")?.as_str().ok_or_else(|| malformed("dtype is not a string".to_owned()))?;
    let dims = integers(field("shape")?)
        .ok_or_else(|| malformed("shape is not a list of non-negative integers".to_owned()))?;
    let offsets = integers(field("data_offsets")?);
    let Some([start, end]) = offsets.as_deref().and_then(|o| <[u64; 2]>::try_from(o).ok()) else {
        return Err(malformed("data_offsets is not a pair of non-negative integers".to_owned()));
    };
    let dtype = Dtype::from_name(dtype)
        .ok_or_else(|| Finding::new(&rules::C_DTYPE, name, format!("unknown dtype {dtype:?}")))?;
    let shape_fault = |fault: ShapeFault| Finding::new(&rules::C_SHAPE, name, fault.to_string());
    let shape = Shape::new(&dims).map_err(shape_fault)?;
    let needed = shape.byte_len(dtype).map_err(shape_fault)?;
    if end.checked_sub(start) != Some(needed) {
        let message =
            format!("shape {shape} of {dtype} needs {needed} bytes, data_offsets give [{start}, {end}]");
        return Err(Finding::new(&rules::C_BYTES, name, message));
    }
    Ok(Entry { name: name.to_owned(), dtype, shape, start, end })
}

pub(super) fn check_name(name: &str) -> Result<(), Finding> {
    let message = if name.is_empty() {
        "a tensor has the empty name".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("a tensor name of {} bytes, at most {MAX_NAME_BYTES} are allowed", name.len())
    } else if name.chars().any(char::is_control) {
        format!("the tensor name {name:?} holds a control character")
    } else {
        return Ok(());
    };
    Err(Finding::new(&rules::C_NAME, name.escape_debug().take(80).collect::<String>(), message))
}

fn integers(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(Value::as_u64).collect()
}

/// Entries sorted by offset must cover the data exactly.
pub(super) fn check_cover(entries: &[Entry], data_len: u64) -> Result<(), Finding> {
    let mut at = 0u64;
    let mut last = "";
    for entry in entries {
        if entry.end > data_len {
            let message =
                format!("its data end at byte {}, the file has {data_len} bytes of data", entry.end);
            return Err(Finding::new(&rules::C_TRUNCATED_DATA, &entry.name, message));
        }
        if entry.start < at {
            let message =
                format!("its data start at byte {}, inside {last:?} which ends at {at}", entry.start);
            return Err(Finding::new(&rules::C_OVERLAP, &entry.name, message));
        }
        if entry.start > at {
            let message = format!("{} bytes before it belong to no tensor", entry.start - at);
            return Err(Finding::new(&rules::C_HOLE, &entry.name, message));
        }
        at = entry.end;
        last = &entry.name;
    }
    if at < data_len {
        let message = format!("{} bytes after the last tensor belong to none", data_len - at);
        return Err(Finding::new(&rules::C_TRAILING, "", message));
    }
    Ok(())
}
