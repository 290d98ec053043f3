use super::{FEATURES, requires, v1};
use crate::container::duplicate_or;
use crate::finding::{Finding, rules};
use crate::json::{self, to_canonical, to_canonical_sized};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

/// Reads a manifest and says what is not canonical about it.
///
/// # Errors
/// The one finding that makes going on pointless: not JSON, an unknown version or required feature, a field of the
/// wrong type.
pub fn parse(text: &str) -> Result<(v1::Manifest, Vec<Finding>), Finding> {
    let (manifest, mut findings) = match read_canonical(text) {
        Some(manifest) => (manifest, Vec::new()),
        None => read_any(text)?,
    };
    let derived = requires(&manifest.edits);
    if !manifest.requires.iter().map(String::as_str).eq(derived.iter().copied()) {
        let derived: Vec<&str> = derived.into_iter().collect();
        let message = format!("is {:?}, the edits use {derived:?}", manifest.requires);
        findings.push(Finding::new(&rules::M_REQUIRES, "requires", message));
    }
    note_unknown_fields(&manifest, &mut findings);
    Ok((manifest, findings))
}

/// The usual case, read without a tree of values. What is written again as the same text is in the form of RFC 8785,
/// has no key twice and no default written out.
fn read_canonical(text: &str) -> Option<v1::Manifest> {
    let manifest: v1::Manifest = serde_json::from_str(text).ok()?;
    check_version(Some(&manifest.fitment)).ok()?;
    check_features(manifest.requires.iter().map(String::as_str)).ok()?;
    (to_canonical_sized(&manifest, text.len()) == text).then_some(manifest)
}

/// Any manifest, with what its text breaks.
fn read_any(text: &str) -> Result<(v1::Manifest, Vec<Finding>), Finding> {
    let broken = |message: String| Finding::new(&rules::M_JSON, "manifest", message);
    let value =
        json::parse(text.as_bytes()).map_err(|fault| duplicate_or(&rules::M_DUPLICATE_KEY, fault, broken))?;
    let Value::Object(fields) = &value else {
        return Err(Finding::new(&rules::M_JSON, "manifest", "the manifest is not a JSON object"));
    };
    check_version(fields.get("fitment").and_then(Value::as_str))?;
    let features = fields.get("requires").and_then(Value::as_array).into_iter().flatten();
    check_features(features.filter_map(Value::as_str))?;
    let manifest = typed(&value).map_err(|message| Finding::new(&rules::M_FIELD, "manifest", message))?;
    let mut findings = Vec::new();
    check_form(text, &value, &manifest, &mut findings);
    Ok((manifest, findings))
}

/// The manifest of a JSON value, or the path of the first field that is not of its type and why.
fn typed(value: &Value) -> Result<v1::Manifest, String> {
    let fault_of = |index: usize| v1::Edit::fault(value.get("edits")?.get(index)?);
    let edit_fault = |index| fault_of(index).map(|fault| format!("edits[{index}]: {fault}"));
    let manifest: v1::Manifest = serde_path_to_error::deserialize(value).map_err(|error| {
        let mut steps = error.path().iter();
        let fault = match (steps.next(), steps.next()) {
            (Some(Segment::Map { key }), Some(Segment::Seq { index })) if key == "edits" => {
                edit_fault(*index)
            }
            _ => None,
        };
        fault.unwrap_or_else(|| error.to_string())
    })?;
    // serde's tagged enums also take a list, and the number of a kind.
    match (0..manifest.edits.len()).find_map(edit_fault) {
        Some(fault) => Err(fault),
        None => Ok(manifest),
    }
}

/// The text is what a writer would make of the manifest; if not, which of the two rules it breaks.
fn check_form(text: &str, value: &Value, manifest: &v1::Manifest, findings: &mut Vec<Finding>) {
    let canonical = to_canonical(value);
    if canonical != text {
        let message =
            format!("not in the form of RFC 8785, first difference at {}", difference(&canonical, text));
        findings.push(Finding::new(&rules::M_CANONICAL, "manifest", message));
    }
    let again = to_canonical(manifest);
    if again != canonical {
        let message = format!("a default is written out at {}", difference(&again, &canonical));
        findings.push(Finding::new(&rules::M_DEFAULT, "manifest", message));
    }
}

/// Where two texts part, as a byte offset and what stands there in the second.
fn difference(expected: &str, found: &str) -> String {
    let at = expected.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count();
    let rest: String = String::from_utf8_lossy(&found.as_bytes()[at..]).chars().take(24).collect();
    format!("byte {at}: {rest:?}")
}

fn check_version(version: Option<&str>) -> Result<(), Finding> {
    let Some(version) = version else {
        return Err(Finding::new(
            &rules::M_FIELD,
            "fitment",
            "the format version is missing or not a string",
        ));
    };
    let minor = version.strip_prefix("1.").map(|rest| rest.strip_suffix("-draft").unwrap_or(rest));
    let is_number =
        |text: &str| !text.is_empty() && text.len() < 6 && text.bytes().all(|b| b.is_ascii_digit());
    if minor.is_some_and(is_number) {
        return Ok(());
    }
    let message =
        format!("format version {version:?}; this reader knows version 1 (it writes {})", v1::VERSION);
    Err(Finding::new(&rules::M_VERSION, "fitment", message))
}

fn check_features<'f>(features: impl Iterator<Item = &'f str>) -> Result<(), Finding> {
    let unknown: Vec<&str> = features.filter(|feature| !FEATURES.contains(feature)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let message = format!("needs {}, which this reader does not know", unknown.join(", "));
    Err(Finding::new(&rules::M_REQUIRED_FEATURE, "requires", message))
}

fn note_unknown_fields(manifest: &v1::Manifest, findings: &mut Vec<Finding>) {
    let mut note = |place: String, extra: &Map<String, Value>, known: &[&str]| {
        for key in extra.keys().filter(|key| !key.contains('.') && !known.contains(&key.as_str())) {
            let message = format!("unknown field {key:?}: kept, not understood");
            findings.push(Finding::new(&rules::M_UNKNOWN_FIELD, place.clone(), message));
        }
    };
    // Spec sections 5 and 9.1: no reader acts on `merge` and `approximation`, so that they are kept as they are.
    note("manifest".to_owned(), &manifest.extra, &["merge"]);
    note("base".to_owned(), &manifest.base.extra, &[]);
    for (index, tensor) in manifest.base.tensors.iter().enumerate() {
        note(format!("base.tensors[{index}]"), &tensor.extra, &[]);
    }
    for (index, edit) in manifest.edits.iter().enumerate() {
        let (origin, extra) = edit.outside();
        note(format!("edits[{index}]"), extra, &[]);
        note(format!("edits[{index}].origin"), &origin.extra, &["approximation"]);
    }
    if let Some(source) = &manifest.source {
        note("source".to_owned(), &source.extra, &[]);
    }
    if let Some(about) = &manifest.about {
        note("about".to_owned(), &about.extra, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::{read_any, read_canonical};
    use crate::finding::rules;

    const EDIT: &str = r#"{"kind":"remove","origin":{"vendor.x":[1e-7,{"b":null}]},"target":"a.weight"}"#;

    fn manifest(edit: &str) -> String {
        format!(
            r#"{{"edits":[{edit}],"fitment":"1.0-draft","id":"","requires":["remove"],"tensors":{{}},"vendor.y":"é"}}"#
        )
    }

    #[test]
    fn both_ways_read_the_same_manifest() {
        let text = manifest(EDIT);
        let (slowly, findings) = read_any(&text).unwrap();
        assert_eq!((read_canonical(&text), findings), (Some(slowly), Vec::new()));
    }

    #[test]
    fn only_the_careful_way_takes_another_form() {
        let spaced = manifest(&EDIT.replace(':', ": "));
        let written_out = manifest(&EDIT.replace(r#""kind""#, r#""experts":null,"kind""#));
        for (text, rule) in [(spaced, &rules::M_CANONICAL), (written_out, &rules::M_DEFAULT)] {
            assert_eq!(read_canonical(&text), None);
            let codes: Vec<_> = read_any(&text).unwrap().1.into_iter().map(|finding| finding.code).collect();
            assert_eq!(codes, [rule.code], "{text}");
        }
    }

    #[test]
    fn an_edit_is_an_object_with_a_kind_by_name() {
        for (edit, fault) in [
            (r#"["remove",{"target":"a"}]"#, "edits[0]: invalid type: sequence, expected a map"),
            (r#"{"kind":2,"target":"a"}"#, "edits[0]: kind: no edit kind 2"),
            (r#"{"kind":"renew","target":"a"}"#, r#"edits[0]: kind: no edit kind "renew""#),
            (r#"{"target":"a"}"#, "edits[0]: missing field `kind`"),
            (r#"{"kind":"remove","target":1}"#, "edits[0]: invalid type: integer `1`, expected a string"),
            (
                r#"{"kind":"remove","origin":{"rank":"x"},"target":"a"}"#,
                "edits[0]: origin.rank: invalid type: string \"x\", expected u64",
            ),
        ] {
            assert_eq!(read_any(&manifest(edit)).unwrap_err().message, fault);
        }
    }
}
