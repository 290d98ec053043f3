use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Why a text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// Not JSON: syntax, a number out of a double's range, nesting over 128 levels, text after the value.
    #[error("{message} (line {line}, column {column})")]
    Syntax {
        /// What the parser says.
        message: String,
        /// One-based line.
        line: usize,
        /// One-based column, in bytes.
        column: usize,
    },
    /// One object holds one key twice.
    #[error("key {key:?} stands twice in {path}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// The object that holds it, as a JSON path (`$` is the whole).
        path: String,
    },
}

/// Parses JSON, refusing duplicate keys at any depth. Objects keep the order of their keys.
///
/// # Errors
/// [`JsonFault`].
pub fn parse(bytes: &[u8]) -> Result<Value, JsonFault> {
    let mut state = State { duplicate: None };
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let result = AnyValue(&mut state).deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    result.map_err(|error| match state.duplicate {
        Some((key, path)) => {
            let path: String = path.into_iter().rev().collect();
            JsonFault::DuplicateKey { key, path: format!("${path}") }
        }
        None => {
            let (line, column) = (error.line(), error.column());
            let mut message = error.to_string();
            if let Some(at) = message.rfind(" at line ") {
                message.truncate(at);
            }
            JsonFault::Syntax { message, line, column }
        }
    })
}

/// The first duplicate key, and the steps to the object that holds it, innermost first: they are only collected on the
/// way out, so that a text without duplicates costs nothing.
struct State {
    duplicate: Option<(String, Vec<String>)>,
}

impl State {
    fn step(&mut self, step: impl FnOnce() -> String) {
        if let Some((_, path)) = &mut self.duplicate {
            path.push(step());
        }
    }
}

struct AnyValue<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            match seq.next_element_seed(AnyValue(self.0)) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return Ok(Value::Array(items)),
                Err(error) => {
                    self.0.step(|| format!("[{}]", items.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                self.0.duplicate = Some((key, Vec::new()));
                return Err(A::Error::custom("duplicate key"));
            }
            match map.next_value_seed(AnyValue(self.0)) {
                Ok(value) => fields.insert(key, value),
                Err(error) => {
                    self.0.step(|| format!(".{key}"));
                    return Err(error);
                }
            };
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::{JsonFault, parse};

    #[test]
    fn duplicate_is_found_at_any_depth() {
        let fault = parse(br#"{"a":[1,{"b":2,"c":{"d":1,"d":2}}]}"#).unwrap_err();
        assert_eq!(fault, JsonFault::DuplicateKey { key: "d".into(), path: "$.a[1].c".into() });
    }

    #[test]
    fn escaped_spelling_of_a_key_is_the_same_key() {
        assert!(matches!(parse(br#"{"a":1,"\u0061":2}"#), Err(JsonFault::DuplicateKey { .. })));
    }

    #[test]
    fn deep_nesting_is_refused_not_overflowed() {
        let deep = "[".repeat(200_000);
        assert!(matches!(parse(deep.as_bytes()), Err(JsonFault::Syntax { .. })));
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert!(matches!(parse(b"{} x"), Err(JsonFault::Syntax { .. })));
    }
}
