use serde_json::Value;
use std::cmp::Ordering;

/// The canonical form of a JSON value by RFC 8785: no white space, keys in order of their UTF-16 code units,
/// ECMAScript's number form, the shortest escapes.
///
/// Numbers are written as the IEEE double that they are; an integer beyond 2⁵³ changes by that, which is how the
/// reader finds out.
pub fn to_canonical(value: &Value) -> String {
    let mut out = String::new();
    write_value(value, &mut out);
    out
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => {
            let double = number.as_f64().expect("a parsed number is finite");
            out.push_str(ryu_js::Buffer::new().format_finite(double));
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|(a, _), (b, _)| utf16_order(a, b));
            out.push('{');
            for (index, (key, item)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write_value(item, out);
            }
            out.push('}');
        }
    }
}

/// The order of UTF-16 code units; that of bytes is the same up to U+D7FF, and far cheaper.
fn utf16_order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() || b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    if !text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => {
                out.push_str("\\u00");
                for shift in [4, 0] {
                    let digit = (u32::from(control) >> shift) & 0xf;
                    out.push(char::from_digit(digit, 16).expect("a nibble is a hexadecimal digit"));
                }
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::to_canonical;
    use crate::json::parse;

    fn canonical(text: &str) -> String {
        to_canonical(&parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn numbers_take_the_ecmascript_form() {
        let numbers = "[1e21, 1E-7, 5e-324, 2.0, 0.1, -0, 1e20, 9007199254740992, 333333333.33333329]";
        assert_eq!(
            canonical(numbers),
            "[1e+21,1e-7,5e-324,2,0.1,0,100000000000000000000,9007199254740992,333333333.3333333]"
        );
    }

    #[test]
    fn keys_sort_by_utf16_units() {
        // U+10000 is D800 DC00 in UTF-16 and so comes before U+E000, unlike in UTF-8.
        assert_eq!(
            canonical("{\"\u{e000}\":1,\"\u{10000}\":2,\"a\":3}"),
            "{\"a\":3,\"\u{10000}\":2,\"\u{e000}\":1}"
        );
    }

    #[test]
    fn only_needed_escapes_are_written() {
        assert_eq!(canonical(r#"["\u0041\/\u001f\u00e9\n"]"#), "[\"A/\\u001fé\\n\"]");
    }
}
