//! Broken containers (spec section 2).

use super::Coded;
use super::file::{File, Stored, join, padded};
use super::parts::{raw, stored};
pub(super) fn files() -> Vec<Coded> {
    let mut files = lengths();
    files.extend(texts());
    files.extend(entries());
    files.extend(cover());
    files.extend(forms());
    files.extend(metadata());
    files
}

/// Two F32 factors and five bytes of U8, in this order.
fn sample() -> File {
    super::edits::plain()
        .set(
            "/source",
            serde_json::json!({
                "format": "peft",
                "files": [{ "path": "note.txt", "tensor": "@source::0.file.data" }],
            }),
        )
        .store("@source::0.file.data", stored(&raw(b"hello")))
        .sealed()
}

/// Header, without padding, and data.
fn parts(file: &File) -> (String, Vec<u8>) {
    let bytes = file.bytes();
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().expect("a length"))).expect("small");
    let header = std::str::from_utf8(&bytes[8..8 + length]).expect("a header is text");
    (header.trim_end().to_owned(), bytes[8 + length..].to_vec())
}

/// The sample with its header changed, padded again.
fn with_header(change: impl FnOnce(String) -> String) -> Vec<u8> {
    let (header, data) = parts(&sample());
    let changed = change(header.clone());
    assert_ne!(header, changed, "the change hits nothing");
    join(&padded(&changed), &data)
}

fn replaced(from: &str, to: &str) -> Vec<u8> {
    with_header(|header| header.replacen(from, to, 1))
}

fn lengths() -> Vec<Coded> {
    let whole = sample().bytes();
    let claim = |length: u64| [&length.to_le_bytes(), &whole[8..]].concat();
    vec![
        ("C001", "empty-file", vec![]),
        ("C001", "seven-bytes", whole[..7].to_vec()),
        ("C001", "cut-in-the-header", whole[..100].to_vec()),
        ("C001", "header-longer-than-the-file", claim(whole.len() as u64)),
        ("C002", "header-of-2-to-64-bytes", claim(u64::MAX)),
        ("C004", "header-of-no-bytes", [&[0; 8], &whole[8..]].concat()),
    ]
}

pub(super) fn large_files() -> Vec<Coded> {
    let (header, data) = parts(&sample());
    let huge = format!("{header}{}", " ".repeat(25_000_001 - header.len()));
    let numbers: Vec<String> = (0..1_000_001).map(|number| format!("\"{number}\":0")).collect();
    let crowded = format!("{{{}}}", numbers.join(","));
    vec![
        ("C002", "header-over-the-limit", join(&huge, &data)),
        ("C005", "nested-200000-levels", join(&padded(&nested(200_000)), &[])),
        ("C022", "more-than-a-million-tensors", join(&padded(&crowded), &[])),
    ]
}

fn nested(depth: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
}

fn texts() -> Vec<Coded> {
    let mut not_utf8 = sample().bytes();
    not_utf8[20] = 0xff;
    let (header, data) = parts(&sample());
    let nul_padded = |header: &str| {
        let spaces = padded(&format!("{header} "));
        join(&spaces.replace(' ', "\0"), &data)
    };
    let name = "\"a.weight::0.lora.up\"";
    let fitment = with_header(|header| {
        let (start, end) =
            (header.find("\"fitment\"").expect("is there"), header.find("},\"").expect("is there"));
        let field = header[start..end].to_owned();
        header.replacen(&field, &format!("{field},{field}"), 1)
    });
    let metadata = with_header(|header| {
        let (start, end) = (1, header.find("},\"").expect("is there") + 1);
        let field = header[start..end].to_owned();
        header.replacen(&field, &format!("{field},{field}"), 1)
    });
    let entry = with_header(|header| {
        let entry = header[header.find(name).expect("is there")..header.len() - 1].to_owned();
        let first = entry.split("},\"").next().unwrap_or_default().to_owned() + "}";
        header.replacen(&first, &format!("{first},{first}"), 1)
    });
    vec![
        ("C003", "header-is-not-utf-8", not_utf8),
        ("C004", "header-starts-with-a-space", with_header(|header| format!(" {header}"))),
        ("C004", "header-starts-with-a-byte-order-mark", with_header(|header| format!("\u{feff}{header}"))),
        ("C004", "header-is-a-list", join("[]      ", &[])),
        (
            "C005",
            "header-is-cut",
            with_header(|mut header| {
                header.pop();
                header
            }),
        ),
        ("C005", "text-after-the-header", with_header(|header| format!("{header}x"))),
        ("C005", "two-headers", with_header(|header| format!("{header}{{}}"))),
        ("C005", "padded-with-nul", nul_padded(&header)),
        ("C005", "single-quotes", replaced("\"F32\"", "'F32'")),
        ("C005", "nan-in-a-shape", replaced("\"shape\":[3,1]", "\"shape\":[NaN,1]")),
        ("C005", "nested-200-levels", join(&padded(&nested(200)), &[])),
        ("C006", "tensor-twice", entry),
        ("C006", "metadata-twice", metadata),
        ("C006", "metadata-key-twice", fitment),
        (
            "C006",
            "field-of-an-entry-twice",
            replaced("\"dtype\":\"F32\",", "\"dtype\":\"F32\",\"dtype\":\"F32\","),
        ),
        (
            "C006",
            "same-key-spelled-with-an-escape",
            with_header(|header| header.replacen("\"dtype\":", "\"dtype\":\"F32\",\"\\u0064type\":", 1)),
        ),
    ]
}

fn entries() -> Vec<Coded> {
    let up = "\"a.weight::0.lora.up\"";
    let long = format!("\"{}\"", "n".repeat(513));
    let shape = |to: &str| replaced("\"shape\":[3,1]", &format!("\"shape\":{to}"));
    let offsets = |to: &str| replaced("\"data_offsets\":[16,28]", &format!("\"data_offsets\":{to}"));
    vec![
        ("C007", "unknown-field", replaced("\"shape\":[3,1]", "\"shape\":[3,1],\"strides\":[1,1]")),
        ("C007", "no-dtype", replaced("\"dtype\":\"F32\",", "")),
        (
            "C007",
            "entry-is-a-list",
            replaced("{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[16,28]}", "[]"),
        ),
        (
            "C007",
            "entry-is-null",
            replaced("{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[16,28]}", "null"),
        ),
        ("C007", "dtype-is-a-number", replaced("\"dtype\":\"F32\"", "\"dtype\":32")),
        ("C007", "negative-extent", shape("[-3,1]")),
        ("C007", "fractional-extent", shape("[3.0,1]")),
        ("C007", "extent-with-an-exponent", shape("[3e0,1]")),
        ("C007", "extent-of-2-to-64", shape("[18446744073709551616,1]")),
        ("C007", "shape-is-a-number", shape("3")),
        ("C007", "three-offsets", offsets("[16,28,30]")),
        ("C007", "negative-offset", offsets("[-12,0]")),
        ("C008", "unknown-dtype", replaced("\"F32\"", "\"F31\"")),
        ("C008", "dtype-in-lower-case", replaced("\"F32\"", "\"f32\"")),
        ("C009", "extents-overflow", shape("[9223372036854775808,2]")),
        ("C009", "bits-overflow", shape("[288230376151711744,1]")),
        ("C009", "overflow-behind-a-zero", shape("[9223372036854775808,2,0]")),
        ("C009", "nine-axes", shape("[3,1,1,1,1,1,1,1,1]")),
        (
            "C009",
            "half-a-byte",
            with_header(|header| {
                header.replacen("{\"dtype\":\"F32\",\"shape\":[3,1]", "{\"dtype\":\"F4\",\"shape\":[3,1]", 1)
            }),
        ),
        ("C010", "shape-larger-than-the-data", shape("[3,2]")),
        ("C010", "shape-smaller-than-the-data", shape("[2,1]")),
        ("C010", "end-before-start", offsets("[28,16]")),
        ("C021", "empty-name", replaced(up, "\"\"")),
        ("C021", "name-of-513-bytes", replaced(up, &long)),
        ("C021", "control-character-in-a-name", replaced(up, "\"a\\u0007b\"")),
        ("C021", "c1-control-in-a-name", replaced(up, "\"a\u{85}b\"")),
    ]
}

fn cover() -> Vec<Coded> {
    let (header, data) = parts(&sample());
    let moved = |by: u64, data: &[u8]| {
        let mut header = header.clone();
        for [start, end] in [[28u64, 33], [16, 28], [0, 16]] {
            let new = format!("\"data_offsets\":[{},{}]", start + by, end + by);
            header = header.replacen(&format!("\"data_offsets\":[{start},{end}]"), &new, 1);
        }
        join(&padded(&header), data)
    };
    let shifted = |last: [u64; 2]| {
        let [start, end] = last;
        header.replacen("\"data_offsets\":[28,33]", &format!("\"data_offsets\":[{start},{end}]"), 1)
    };
    let whole = |header: &str, data: &[u8]| join(&padded(header), data);
    let longer = [&data[..], &[0; 8]].concat();
    vec![
        ("C011", "hole-before-the-first-tensor", moved(8, &longer)),
        ("C011", "hole-between-tensors", whole(&shifted([36, 41]), &longer)),
        ("C012", "tensors-overlap", whole(&shifted([26, 31]), &data[..31])),
        ("C012", "two-tensors-on-the-same-bytes", whole(&shifted([16, 21]), &data[..28])),
        ("C013", "data-cut-by-one-byte", whole(&header, &data[..32])),
        ("C013", "no-data", whole(&header, &[])),
        ("C013", "offset-beyond-the-file", whole(&shifted([1 << 40, (1 << 40) + 5]), &data)),
        ("C014", "a-byte-behind-the-last-tensor", whole(&header, &[&data[..], b"\n"].concat())),
        (
            "C014",
            "a-zip-behind-the-last-tensor",
            whole(&header, &[&data[..], b"PK\x05\x06", &[0; 18]].concat()),
        ),
    ]
}

/// The sample's tensors in another order of data, listed in that order.
fn reordered(file: &File, order: &[&str]) -> Vec<u8> {
    let (header, _) = parts(file);
    let metadata = &header[..header.find("},\"").expect("is there") + 1];
    let mut text = metadata.to_owned();
    let mut data = Vec::new();
    for name in order {
        let Stored { dtype, dims, bytes } = &file.tensors[*name];
        let (start, end) = (data.len(), data.len() + bytes.len());
        text += &format!(
            ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{dims:?},\"data_offsets\":[{start},{end}]}}"
        )
        .replace(", ", ",");
        data.extend_from_slice(bytes);
    }
    join(&padded(&(text + "}")), &data)
}

fn forms() -> Vec<Coded> {
    let (header, data) = parts(&sample());
    let unpadded = 8 - header.len() % 8;
    let spaces = |count: usize| join(&format!("{header}{}", " ".repeat(count)), &data);
    let (up, down, note) = ("a.weight::0.lora.up", "a.weight::0.lora.down", "@source::0.file.data");
    let four_bytes = sample().store(note, stored(&raw(b"hell"))).sealed();
    let listed = |from: &str, to: &str| {
        let entry = |name: &str| {
            let start = header.find(&format!("\"{name}\":{{")).expect("is there");
            header[start..=start + header[start..].find('}').expect("ends")].to_owned()
        };
        let (a, b) = (entry(from), entry(to));
        join(&padded(&header.replace(&a, "\0").replace(&b, &a).replace('\0', &b)), &data)
    };
    let metadata_last = {
        let end = header.find("},\"").expect("is there") + 1;
        format!("{{{},{}}}", &header[end + 1..header.len() - 1], &header[1..end])
    };
    vec![
        ("C015", "header-length-is-no-multiple-of-8", spaces((unpadded + 4) % 8)),
        ("C015", "f32-behind-five-bytes", reordered(&sample(), &[note, down, up])),
        ("C016", "eight-spaces-too-many", spaces(unpadded % 8 + 8)),
        (
            "C016",
            "padded-with-a-line-feed",
            join(&format!("{header}{}\n", " ".repeat((unpadded + 7) % 8)), &data),
        ),
        ("C016", "padded-with-a-tab", join(&format!("{header}{}\t", " ".repeat((unpadded + 7) % 8)), &data)),
        ("C018", "data-out-of-name-order", reordered(&sample(), &[up, down, note])),
        ("C018", "bytes-before-f32", reordered(&four_bytes, &[note, down, up])),
        ("C019", "listed-out-of-data-order", listed(up, down)),
        ("C019", "metadata-last", join(&padded(&metadata_last), &data)),
        ("C020", "space-behind-a-colon", replaced("\"dtype\":", "\"dtype\": ")),
        (
            "C020",
            "shape-before-dtype",
            replaced("\"dtype\":\"F32\",\"shape\":[3,1]", "\"shape\":[3,1],\"dtype\":\"F32\""),
        ),
        ("C020", "needless-escape", replaced("\"a.weight", "\"\\u0061.weight")),
        ("C020", "escaped-slash", replaced("note.txt", "note\\/txt")),
    ]
}

fn metadata() -> Vec<Coded> {
    let (header, data) = parts(&sample());
    let end = header.find("},\"").expect("is there") + 1;
    let with = |metadata: &str| {
        let comma = if metadata.is_empty() { &header[end + 1..] } else { &header[end..] };
        join(&padded(&format!("{{{metadata}{comma}")), &data)
    };
    let fitment = &header["{\"__metadata__\":{".len()..end - 1];
    vec![
        ("C017", "no-metadata", with("")),
        ("C017", "metadata-is-null", with("\"__metadata__\":null")),
        ("C017", "metadata-of-another-tool", with("\"__metadata__\":{\"format\":\"pt\"}")),
        ("C017", "manifest-is-an-object", with("\"__metadata__\":{\"fitment\":{}}")),
        ("C017", "manifest-is-null", with("\"__metadata__\":{\"fitment\":null}")),
        (
            "C017",
            "a-key-beside-the-manifest",
            with(&format!("\"__metadata__\":{{{fitment},\"format\":\"pt\"}}")),
        ),
        ("C017", "a-number-beside-the-manifest", with(&format!("\"__metadata__\":{{{fitment},\"n\":1}}"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::{parts, sample};

    #[test]
    fn the_sample_lies_as_the_changes_expect() {
        let (header, data) = parts(&sample());
        assert!(header.contains("\"shape\":[1,4],\"data_offsets\":[0,16]"));
        assert!(header.contains("\"shape\":[3,1],\"data_offsets\":[16,28]"));
        assert!(header.contains("\"shape\":[5],\"data_offsets\":[28,33]"));
        assert_eq!(data.len(), 33);
    }
}
