//! Sets values in a JSON text and leaves every other byte as it is.

use super::ConfigEdit;
use serde_json::Value;
use std::ops::Range;

/// The text with every edit made.
///
/// # Errors
/// What stands in the way: a path that runs through something else than an object.
pub(super) fn edit(text: &str, edits: &[ConfigEdit]) -> Result<String, String> {
    let mut text = text.to_owned();
    for (path, value) in edits {
        text = set(&text, path, value)?;
    }
    Ok(text)
}

fn set(text: &str, path: &[String], value: &Value) -> Result<String, String> {
    let fault = || format!("cannot set {}: no such object", path.join("."));
    let (key, parents) = path.split_last().ok_or_else(fault)?;
    let mut object = Scan::new(text, 0).skip_space();
    for parent in parents {
        let members = members(text, object).ok_or_else(fault)?;
        object = members.iter().find(|member| member.key == *parent).ok_or_else(fault)?.value.start;
    }
    let members = members(text, object).ok_or_else(fault)?;
    let value = serde_json::to_string(value).expect("a JSON value serialises");
    let Some(member) = members.iter().find(|member| member.key == *key) else {
        return Ok(insert(text, (object, members.last()), key, &value));
    };
    let Range { start, end } = member.value;
    Ok([&text[..start], &value, &text[end..]].concat())
}

/// A new last member, set apart as the first one is.
fn insert(text: &str, (object, last): (usize, Option<&Member>), key: &str, value: &str) -> String {
    let key = serde_json::to_string(key).expect("a string serialises");
    let first = Scan::new(text, object + 1).skip_space();
    let Some(last) = last else {
        return [&text[..=object], &key, ": ", value, &text[first..]].concat();
    };
    let (before, end) = (&text[object + 1..first], last.value.end);
    [&text[..end], ",", before, &key, ": ", value, &text[end..]].concat()
}

struct Member {
    key: String,
    value: Range<usize>,
}

/// The members of the object that starts at `at`; `None` when something else starts there.
fn members(text: &str, at: usize) -> Option<Vec<Member>> {
    let mut scan = Scan::new(text, at);
    scan.take(b'{')?;
    let mut members = Vec::new();
    loop {
        match scan.peek()? {
            b'}' => return Some(members),
            b',' => scan.at += 1,
            _ => {
                let start = scan.skip_space();
                scan.skip_value()?;
                let key = serde_json::from_str(&text[start..scan.at]).ok()?;
                scan.take(b':')?;
                let start = scan.skip_space();
                scan.skip_value()?;
                members.push(Member { key, value: start..scan.at });
            }
        }
    }
}

/// Walks over JSON that was parsed before, so that only its extent matters.
struct Scan<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl<'t> Scan<'t> {
    fn new(text: &'t str, at: usize) -> Self {
        Self { bytes: text.as_bytes(), at }
    }

    /// Moves to the next byte that is not white space, and says where that is.
    fn skip_space(&mut self) -> usize {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.at
    }

    fn peek(&mut self) -> Option<u8> {
        let at = self.skip_space();
        self.bytes.get(at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    /// Moves behind the value that starts here.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                b',' | b':' => return None,
                _ => {
                    let word = |byte: &u8| !byte.is_ascii_whitespace() && !b",:{}[]\"".contains(byte);
                    while self.bytes.get(self.at).is_some_and(word) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::edit;
    use serde_json::json;

    fn set(text: &str, path: &[&str], value: serde_json::Value) -> String {
        edit(text, &[(path.iter().map(|key| (*key).to_owned()).collect(), value)]).unwrap()
    }

    #[test]
    fn only_the_value_changes() {
        let text = "{\n  \"a\": [1, {\"tie\": 0}],\n  \"tie\" :  true ,\n  \"z\": \"}\\\"\"\n}\n";
        let expected = text.replace("true", "false");
        assert_eq!(set(text, &["tie"], json!(false)), expected);
    }

    #[test]
    fn a_new_key_is_indented_as_the_others() {
        assert_eq!(
            set("{\n  \"a\": 1\n}\n", &["vocab_size"], json!(7)),
            "{\n  \"a\": 1,\n  \"vocab_size\": 7\n}\n"
        );
        assert_eq!(set("{}", &["b"], json!("x")), "{\"b\": \"x\"}");
        assert_eq!(set("{\"a\":1}", &["b"], json!(2)), "{\"a\":1,\"b\": 2}");
    }

    #[test]
    fn nested_and_escaped_keys_are_found() {
        let text = r#"{"text_config": {"vocab\u005fsize": 3, "x": {}}, "vocab_size": 9}"#;
        assert_eq!(
            set(text, &["text_config", "vocab_size"], json!(5)),
            r#"{"text_config": {"vocab\u005fsize": 5, "x": {}}, "vocab_size": 9}"#
        );
    }

    #[test]
    fn a_path_through_a_number_is_refused() {
        let edits = [(vec!["a".to_owned(), "b".to_owned()], json!(1))];
        assert!(edit("{\"a\": 1}", &edits).is_err());
        assert!(edit("{}", &edits).is_err());
    }

    proptest::proptest! {
        #[test]
        fn the_edited_text_parses_to_the_edited_value(
            keys in proptest::collection::btree_map("[a-e\\\\\"]{1,3}", "[ -~]{0,6}", 0..5),
            key in "[a-e\\\\\"]{1,3}",
            pretty in proptest::bool::ANY,
        ) {
            let mut object: serde_json::Map<String, serde_json::Value> =
                keys.into_iter().map(|(key, text)| (key, json!([text, {"k": text}]))).collect();
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let edited = set(&text.unwrap(), &[&key], json!({"new": 1}));
            object.insert(key, json!({"new": 1}));
            let parsed: serde_json::Value = serde_json::from_str(&edited).unwrap();
            proptest::prop_assert_eq!(parsed, serde_json::Value::Object(object));
        }
    }
}
