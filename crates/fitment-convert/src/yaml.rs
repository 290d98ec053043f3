//! YAML of other tools' configs, as JSON's values. Aliases are refused: what they stand for can be far larger than the file.

use fitment_core::limits::MAX_CONFIG_BYTES;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Levels of lists and maps. Configs have a handful.
const MAX_DEPTH: usize = 32;

/// A list or a map that is not at its end.
enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

/// Reads one document. Numbers, booleans and nulls are those of YAML 1.2's core schema; tags are passed over.
///
/// # Errors
/// What is wrong, in words, without the name of the file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(format!("{} bytes, at most {MAX_CONFIG_BYTES} are read", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let (mut stack, mut root) = (Vec::new(), None);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|fault| format!("is no YAML: {fault}"))?;
        let done = match event {
            Event::Alias(_) => return Err("has an alias (*NAME), which is not followed".to_owned()),
            Event::Scalar(text, ScalarStyle::Plain, ..) => Some(plain(&text)),
            Event::Scalar(text, ..) => Some(Value::String(text.into_owned())),
            Event::SequenceStart(..) => {
                stack.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                stack.push(Open::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Open::List(items)) => Some(Value::Array(items)),
                Some(Open::Map(fields, _)) => Some(Value::Object(fields)),
                None => None,
            },
            Event::DocumentStart(_) if root.is_some() => {
                return Err("holds several documents".to_owned());
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd => None,
            Event::Nothing => None,
        };
        if stack.len() > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} levels deep"));
        }
        if let Some(value) = done {
            place(&mut stack, &mut root, value)?;
        }
    }
    root.ok_or_else(|| "is empty".to_owned())
}

/// Puts a value where it belongs.
fn place(stack: &mut [Open], root: &mut Option<Value>, value: Value) -> Result<(), String> {
    match (stack.last_mut(), value) {
        (None, value) => *root = Some(value),
        (Some(Open::List(items)), value) => items.push(value),
        (Some(Open::Map(_, key @ None)), Value::String(text)) => *key = Some(text),
        (Some(Open::Map(_, key @ None)), value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => {
            *key = Some(value.to_string());
        }
        (Some(Open::Map(_, None)), _) => return Err("has a list or a map for a key".to_owned()),
        (Some(Open::Map(fields, key)), value) => {
            let key = key.take().unwrap_or_default();
            if fields.contains_key(&key) {
                return Err(format!("has the key {} twice", crate::error::one_line(&key)));
            }
            fields.insert(key, value);
        }
    }
    Ok(())
}

/// A scalar without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let whole = || text.parse::<u64>().ok().map(Number::from).or(text.parse::<i64>().ok().map(Number::from));
    // Rust's words for what is not finite are words here.
    let is_numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && text.contains(|c: char| c.is_ascii_digit());
    let number = whole().or_else(|| Number::from_f64(text.parse().ok()?)).filter(|_| is_numeric);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::{any, proptest};
    use serde_json::json;

    #[test]
    fn maps_lists_and_scalars_are_read() {
        let text = b"# said\na: 5\nb: 2.5e-1\nc: 'true'\nd:\n  - true\n  - ~\n  - out/x y\ne: {f: -3, 7: \"\"}\ng:\n";
        let value = json!({"a": 5, "b": 0.25, "c": "true", "d": [true, null, "out/x y"], "e": {"f": -3, "7": ""}, "g": null});
        assert_eq!(parse(text).unwrap(), value);
    }

    #[test]
    fn what_is_no_plain_document_is_refused() {
        let deep = "[".repeat(40);
        for text in ["a: &x 1\nb: *x", "a: 1\na: 2", "{", "[a]: 1", "a: 1\n---\nb: 2", "", &deep, "a: b: c"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_result(text in "[-:,?#&*!|>'\"%@`{}\\[\\] \n\ta1.~]{0,60}", more in any::<String>()) {
            let _ = parse(text.as_bytes());
            let _ = parse(more.as_bytes());
        }
    }
}
