//! A header in canonical form, read in one pass without a tree of values: the usual case. Any other header is left to
//! the careful way, which says what departs.

use super::header::Header;
use super::layout::{canonical_order, is_header};
use super::{Entry, Profile, entries};
use crate::limits;
use crate::tensor::{Dtype, Shape};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The header, if it keeps every rule of the profile and its text is the one that a writer would make of it.
pub(super) fn read(text: &str, data_len: u64, profile: Profile) -> Option<Header> {
    let body = text.trim_end_matches(' ');
    if !text.len().is_multiple_of(8) || text.len() - body.len() > 7 {
        return None;
    }
    let header: Header = serde_json::from_str(body).ok()?;
    let keeps = header.entries.len() <= limits::MAX_TENSORS
        && metadata_keeps(header.metadata.as_ref(), profile)
        && covers(&header.entries, data_len)
        && names_differ(&header.entries)
        && is_header(body, header.metadata.as_ref(), &header.entries);
    keeps.then_some(header)
}

fn metadata_keeps(metadata: Option<&Value>, profile: Profile) -> bool {
    match (metadata, profile) {
        (None, Profile::Foreign) => true,
        (Some(Value::Object(fields)), Profile::Foreign) => fields.values().all(Value::is_string),
        (Some(Value::Object(fields)), Profile::Fitment) => {
            fields.len() == 1 && fields.get("fitment").is_some_and(Value::is_string)
        }
        _ => false,
    }
}

/// In canonical order, without hole, overlap or rest. That order aligns every tensor.
fn covers(entries: &[Entry], data_len: u64) -> bool {
    let starts = [0].into_iter().chain(entries.iter().map(|entry| entry.end));
    entries.iter().zip(starts).all(|(entry, start)| entry.start == start)
        && entries.last().map_or(0, |entry| entry.end) == data_len
        && entries.is_sorted_by(|a, b| canonical_order((a.dtype, &a.name), (b.dtype, &b.name)).is_lt())
}

fn names_differ(entries: &[Entry]) -> bool {
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    names.is_sorted_by(|a, b| a < b)
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEntry<'t> {
    dtype: &'t str,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Visitor<'de> for Fields {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { metadata: None, entries: Vec::new() };
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                header.metadata = Some(Value::Object(map.next_value::<Map<String, Value>>()?));
            } else {
                let entry = entry(name, &map.next_value()?);
                header.entries.push(entry.ok_or_else(|| A::Error::custom("not canonical"))?);
            }
        }
        Ok(header)
    }
}

fn entry(name: String, wire: &WireEntry<'_>) -> Option<Entry> {
    entries::check_name(&name).ok()?;
    let dtype = Dtype::from_name(wire.dtype)?;
    let shape = Shape::new(&wire.shape).ok()?;
    let [start, end] = wire.data_offsets;
    let fits = end.checked_sub(start) == Some(shape.byte_len(dtype).ok()?);
    fits.then_some(Entry { name, dtype, shape, start, end })
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::container::Profile;

    const ENTRY: &str = r#""a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#;

    fn takes(body: &str, profile: Profile) -> bool {
        let padding = " ".repeat(body.len().next_multiple_of(8) - body.len());
        read(&format!("{body}{padding}"), 2, profile).is_some()
    }

    #[test]
    fn takes_the_canonical_form_and_nothing_else() {
        assert!(takes(&format!(r#"{{"__metadata__":{{"fitment":"{{}}"}},{ENTRY}}}"#), Profile::Fitment));
        assert!(takes(&format!("{{{ENTRY}}}"), Profile::Foreign));
        assert!(takes(&format!(r#"{{"__metadata__":{{"format":"pt"}},{ENTRY}}}"#), Profile::Foreign));
        for body in [
            format!("{{{ENTRY}}}"),
            format!(r#"{{"__metadata__":{{"fitment":"{{}}","format":"pt"}},{ENTRY}}}"#),
            format!(r#"{{{ENTRY},"__metadata__":{{"fitment":"{{}}"}}}}"#),
            format!(r#"{{"__metadata__":{{"fitment":"\u0041"}},{ENTRY}}}"#),
            format!(r#"{{"__metadata__":{{"fitment":"{{}}"}}, {ENTRY}}}"#),
        ] {
            assert!(!takes(&body, Profile::Fitment), "{body}");
        }
    }

    #[test]
    fn a_name_of_two_dtypes_is_a_duplicate() {
        let body = r#"{"a":{"dtype":"U16","shape":[1],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}"#;
        assert!(!takes(body, Profile::Foreign));
        assert!(takes(&body.replace(r#","a":"#, r#","b":"#), Profile::Foreign));
    }
}
