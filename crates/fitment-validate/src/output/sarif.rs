use super::{artifact, sentence, slashed};
use crate::codes;
use crate::outcome::{Outcome, Refusal};
use fitment_core::finding::{Code, Finding, Rule};
use fitment_core::identity::{hex, sha256};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One SARIF 2.1.0 log with one run: a stable contract.
///
/// Tensors and config keys are logical locations, files are relative URIs with forward slashes.
pub fn sarif(outcomes: &[Outcome]) -> String {
    let rules = rules(outcomes);
    let numbers: BTreeMap<Code, usize> =
        rules.iter().enumerate().map(|(number, rule)| (rule.code, number)).collect();
    let mut seen = BTreeMap::new();
    let results: Vec<Value> = outcomes
        .iter()
        .flat_map(|outcome| outcome.findings.iter().map(move |finding| (outcome, finding)))
        .map(|(outcome, finding)| result(outcome, finding, &numbers, &mut seen))
        .collect();
    let notifications: Vec<Value> = outcomes
        .iter()
        .filter_map(|outcome| Some(notification(outcome, outcome.refusal.as_ref()?)))
        .collect();
    let log = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "fitment",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules.into_iter().map(descriptor).collect::<Vec<Value>>(),
            }},
            "invocations": [{
                "executionSuccessful": true,
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

/// The rules that findings cite, in order of their codes.
fn rules(outcomes: &[Outcome]) -> Vec<&'static Rule> {
    let findings = outcomes.iter().flat_map(|outcome| &outcome.findings);
    let rules: BTreeMap<Code, &Rule> =
        findings.filter_map(|finding| Some((finding.code, codes::of(finding.code)?))).collect();
    rules.into_values().collect()
}

fn descriptor(rule: &Rule) -> Value {
    json!({
        "id": rule.code.0,
        "shortDescription": {"text": rule.meaning},
        "fullDescription": {"text": rule.meaning},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.severity.name()},
        "properties": {"section": rule.section},
    })
}

fn result(
    outcome: &Outcome,
    finding: &Finding,
    numbers: &BTreeMap<Code, usize>,
    seen: &mut BTreeMap<String, u64>,
) -> Value {
    let uri = uri(&artifact(outcome, Some(finding)));
    let mut location = json!({"physicalLocation": physical(&uri)});
    if !finding.place.is_empty() {
        location["logicalLocations"] = json!([{"fullyQualifiedName": finding.place, "kind": "member"}]);
    }
    let mut result = json!({
        "ruleId": finding.code.0,
        "level": finding.severity.name(),
        "message": {"text": sentence(finding)},
        "locations": [location],
        "partialFingerprints": {"fitmentPlace/v1": fingerprint(&uri, finding, seen)},
    });
    if let Some(number) = numbers.get(&finding.code) {
        result["ruleIndex"] = json!(number);
    }
    result
}

fn notification(outcome: &Outcome, refusal: &Refusal) -> Value {
    let hint = refusal.hint.as_ref().map(|hint| format!(" (help: {hint})")).unwrap_or_default();
    json!({
        "level": "warning",
        "message": {"text": format!("not checked: {}{hint}", refusal.message)},
        "locations": [{"physicalLocation": physical(&uri(&artifact(outcome, None)))}],
    })
}

/// Code scanning at GitHub shows no result without a line, though a tensor has none.
fn physical(uri: &str) -> Value {
    json!({"artifactLocation": {"uri": uri}, "region": {"startLine": 1}})
}

/// The same for the same rule at the same place of the same file, whatever the message says and wherever it stands.
fn fingerprint(uri: &str, finding: &Finding, seen: &mut BTreeMap<String, u64>) -> String {
    let place = format!("{}\n{uri}\n{}", finding.code, finding.place);
    let count = seen.entry(place.clone()).or_default();
    *count += 1;
    hex(&sha256(format!("{place}\n{count}").as_bytes())[..16])
}

/// A path as a URI reference: forward slashes, everything else that RFC 3986 reserves in percent escapes.
fn uri(path: &str) -> String {
    let path = slashed(path);
    let drive = path.as_bytes().get(1) == Some(&b':');
    let root = if drive {
        "file:///"
    } else if path.starts_with('/') {
        "file://"
    } else {
        ""
    };
    let mut uri = root.to_owned();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn paths_become_uri_references() {
        assert_eq!(uri("./a b/c.safetensors"), "a%20b/c.safetensors");
        assert_eq!(uri("a\\b#1"), "a/b%231");
        assert_eq!(uri("ä:x"), "%C3%A4%3Ax");
        assert_eq!(uri("/tmp/a"), "file:///tmp/a");
        assert_eq!(uri("C:\\models\\a"), "file:///C%3A/models/a");
    }
}
