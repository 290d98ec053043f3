use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use std::cmp::Ordering;
use std::io::{self, Write};

/// The canonical form of a JSON value by RFC 8785: no white space, keys in order of their UTF-16 code units,
/// ECMAScript's number form, the shortest escapes.
///
/// Numbers are written as the IEEE double that they are; an integer beyond 2⁵³ changes by that, which is how the
/// reader finds out.
pub fn to_canonical<T: Serialize + ?Sized>(value: &T) -> String {
    to_canonical_sized(value, 0)
}

/// [`to_canonical`], when the length of the text can be guessed.
pub(crate) fn to_canonical_sized<T: Serialize + ?Sized>(value: &T, len: usize) -> String {
    let mut form = Canonical { out: Vec::with_capacity(len), ..Canonical::default() };
    let mut serializer = Serializer::with_formatter(io::sink(), Form(&mut form));
    value.serialize(&mut serializer).expect("wire types and JSON values serialise");
    String::from_utf8(form.out).expect("made of strings and ASCII")
}

/// Writes one string in its canonical form, piece by piece: serde_json escapes what RFC 8785 asks for and in its way,
/// the two-letter forms, else lower-case `\u00xx`.
pub(crate) fn write_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    Ok(serde_json::to_writer(out, text)?)
}

/// The text so far, and the fields of the objects that are not closed yet.
///
/// Fields are written as they come and put in order when their object ends, so no tree of values is built.
#[derive(Default)]
struct Canonical {
    out: Vec<u8>,
    /// Of all open objects, innermost last.
    fields: Vec<Field>,
    /// Where the fields of each open object begin.
    objects: Vec<usize>,
    scratch: Vec<u8>,
}

/// Where a field stands in the text; the key with its quotes.
#[derive(Clone, Copy)]
struct Field {
    start: usize,
    key_end: usize,
    end: usize,
}

impl Canonical {
    fn number(&mut self, double: f64) {
        self.out.extend_from_slice(ryu_js::Buffer::new().format_finite(double).as_bytes());
    }

    fn close_object(&mut self) {
        let first = self.objects.pop().expect("an object that ends has begun");
        let fields = &mut self.fields[first..];
        let key = |field: &Field| &self.out[field.start + 1..field.key_end - 1];
        if !fields.is_sorted_by(|a, b| key_order(key(a), key(b)) == Ordering::Less) {
            let start = fields[0].start;
            fields.sort_by(|a, b| key_order(key(a), key(b)));
            self.scratch.clear();
            for (index, field) in fields.iter().enumerate() {
                // As in a map, the last of equal keys stays.
                if fields.get(index + 1).is_some_and(|next| key(next) == key(field)) {
                    continue;
                }
                if !self.scratch.is_empty() {
                    self.scratch.push(b',');
                }
                self.scratch.extend_from_slice(&self.out[field.start..field.end]);
            }
            self.out.truncate(start);
            self.out.extend_from_slice(&self.scratch);
        }
        self.fields.truncate(first);
        self.out.push(b'}');
    }
}

/// The order of keys as they stand in JSON, by UTF-16 code units; that of bytes is the same for plain ASCII.
fn key_order(a: &[u8], b: &[u8]) -> Ordering {
    let is_plain = |key: &[u8]| key.iter().all(|byte| byte.is_ascii() && *byte != b'\\');
    if is_plain(a) && is_plain(b) { a.cmp(b) } else { utf16(a).cmp(&utf16(b)) }
}

fn utf16(key: &[u8]) -> Vec<u16> {
    let quoted = [b"\"", key, b"\""].concat();
    let key: String = serde_json::from_slice(&quoted).expect("a key that was just written");
    key.encode_utf16().collect()
}

/// The form as serde_json's formatter. Everything goes to the buffer of [`Canonical`], nothing to the writer.
struct Form<'f>(&'f mut Canonical);

/// The doubles that integers are.
macro_rules! integers {
    ($($name:ident $type:ty;)*) => {$(
        fn $name<W: ?Sized + Write>(&mut self, _: &mut W, value: $type) -> io::Result<()> {
            self.0.number(value as f64);
            Ok(())
        }
    )*};
}

/// What every value of some place is written as.
macro_rules! texts {
    ($($name:ident $text:literal;)*) => {$(
        fn $name<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
            self.0.out.extend_from_slice($text);
            Ok(())
        }
    )*};
}

impl Formatter for Form<'_> {
    integers! {
        write_i8 i8; write_i16 i16; write_i32 i32; write_i64 i64; write_i128 i128;
        write_u8 u8; write_u16 u16; write_u32 u32; write_u64 u64; write_u128 u128;
        write_f32 f32; write_f64 f64;
    }

    texts! {
        write_null b"null"; begin_string b"\""; end_string b"\""; begin_array b"["; end_array b"]";
        begin_object_value b":";
    }

    fn write_bool<W: ?Sized + Write>(&mut self, _: &mut W, value: bool) -> io::Result<()> {
        self.0.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn write_number_str<W: ?Sized + Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_raw_fragment<W: ?Sized + Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, _: &mut W, text: &str) -> io::Result<()> {
        self.0.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, _: &mut W, escape: CharEscape) -> io::Result<()> {
        // As [`write_text`] says.
        serde_json::ser::CompactFormatter.write_char_escape(&mut self.0.out, escape)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        if !first {
            self.0.out.push(b',');
        }
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.0.out.push(b'{');
        self.0.objects.push(self.0.fields.len());
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.0.close_object();
        Ok(())
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        if !first {
            self.0.out.push(b',');
        }
        let start = self.0.out.len();
        self.0.fields.push(Field { start, key_end: start, end: start });
        Ok(())
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.0.out.len();
        self.0.fields.last_mut().expect("a key that ends has begun").key_end = end;
        Ok(())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.0.out.len();
        self.0.fields.last_mut().expect("a value follows its key").end = end;
        Ok(())
    }
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
    fn keys_sort_by_what_they_say_not_by_how_they_are_escaped() {
        assert_eq!(
            canonical(r#"{"\\":1,"b":{"z":1,"a":2},"\"":3,"A":4}"#),
            r#"{"\"":3,"A":4,"\\":1,"b":{"a":2,"z":1}}"#
        );
        assert_eq!(
            canonical(r#"{"ab":1,"a!":2,"a":3,"a ":{},"":[]}"#),
            r#"{"":[],"a":3,"a ":{},"a!":2,"ab":1}"#
        );
    }

    #[test]
    fn only_needed_escapes_are_written() {
        assert_eq!(canonical(r#"["\u0041\/\u001f\u00e9\n"]"#), "[\"A/\\u001fé\\n\"]");
    }
}
