use super::{FEATURES, requires, v1};
use crate::container::duplicate_or;
use crate::finding::{Finding, rules};
use crate::json::{self, to_canonical};
use serde_json::{Map, Value};

/// Reads a manifest and says what is not canonical about it.
///
/// # Errors
/// The one finding that makes going on pointless: not JSON, an unknown version or required feature, a field of the
/// wrong type.
pub fn parse(text: &str) -> Result<(v1::Manifest, Vec<Finding>), Finding> {
    let broken = |message: String| Finding::new(&rules::M_JSON, "manifest", message);
    let value =
        json::parse(text.as_bytes()).map_err(|fault| duplicate_or(&rules::M_DUPLICATE_KEY, fault, broken))?;
    let Value::Object(fields) = &value else {
        return Err(Finding::new(&rules::M_JSON, "manifest", "the manifest is not a JSON object"));
    };
    check_version(fields)?;
    check_features(fields)?;
    let manifest: v1::Manifest = serde_path_to_error::deserialize(&value)
        .map_err(|error| Finding::new(&rules::M_FIELD, "manifest", error.to_string()))?;
    let mut findings = Vec::new();
    check_form(text, &value, &manifest, &mut findings);
    let derived = requires(&manifest.edits);
    if !manifest.requires.iter().map(String::as_str).eq(derived.iter().copied()) {
        let derived: Vec<&str> = derived.into_iter().collect();
        let message = format!("is {:?}, the edits use {derived:?}", manifest.requires);
        findings.push(Finding::new(&rules::M_REQUIRES, "requires", message));
    }
    note_unknown_fields(&manifest, &mut findings);
    Ok((manifest, findings))
}

/// The text is what a writer would make of the manifest; if not, which of the two rules it breaks.
fn check_form(text: &str, value: &Value, manifest: &v1::Manifest, findings: &mut Vec<Finding>) {
    let again = to_canonical(&serde_json::to_value(manifest).expect("wire types serialise"));
    if again == text {
        return;
    }
    let canonical = to_canonical(value);
    if canonical != text {
        let message =
            format!("not in the form of RFC 8785, first difference at {}", difference(&canonical, text));
        findings.push(Finding::new(&rules::M_CANONICAL, "manifest", message));
    }
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

fn check_version(fields: &Map<String, Value>) -> Result<(), Finding> {
    let Some(version) = fields.get("fitment").and_then(Value::as_str) else {
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

fn check_features(fields: &Map<String, Value>) -> Result<(), Finding> {
    let features = fields.get("requires").and_then(Value::as_array).into_iter().flatten();
    let unknown: Vec<&str> =
        features.filter_map(Value::as_str).filter(|feature| !FEATURES.contains(feature)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let message = format!("needs {}, which this reader does not know", unknown.join(", "));
    Err(Finding::new(&rules::M_REQUIRED_FEATURE, "requires", message))
}

fn note_unknown_fields(manifest: &v1::Manifest, findings: &mut Vec<Finding>) {
    let mut note = |place: String, extra: &Map<String, Value>| {
        for key in extra.keys().filter(|key| !key.contains('.')) {
            let message = format!("unknown field {key:?}: kept, not understood");
            findings.push(Finding::new(&rules::M_UNKNOWN_FIELD, place.clone(), message));
        }
    };
    note("manifest".to_owned(), &manifest.extra);
    note("base".to_owned(), &manifest.base.extra);
    for (index, tensor) in manifest.base.tensors.iter().enumerate() {
        note(format!("base.tensors[{index}]"), &tensor.extra);
    }
    for (index, edit) in manifest.edits.iter().enumerate() {
        let (origin, extra) = edit.outside();
        note(format!("edits[{index}]"), extra);
        note(format!("edits[{index}].origin"), &origin.extra);
    }
    if let Some(source) = &manifest.source {
        note("source".to_owned(), &source.extra);
    }
    if let Some(about) = &manifest.about {
        note("about".to_owned(), &about.extra);
    }
}
