//! The four forms of a report: what they say, what they escape, and what their consumers demand.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::finding::{Finding, Severity};
use fitment_validate::output::{Style, github, json, sarif, text};
use fitment_validate::{Checked, Outcome, Refusal, rules};
use serde_json::Value;

fn outcome(name: &str, findings: Vec<Finding>) -> Outcome {
    let checked = Checked { format: true, weights: true, base: true, digests: 12, servers: vec!["vllm"] };
    let files = vec!["adapter_config.json".into(), "adapter_model.safetensors".into()];
    Outcome {
        name: name.into(),
        files,
        format: Some("peft".into()),
        checked,
        refusal: None,
        findings,
        allowed: 0,
    }
}

fn sample() -> Vec<Outcome> {
    let missing = |layer: u64| {
        let place = format!("model.layers.{layer}.mlp.up_proj.weight");
        Finding::new(&rules::B_MISSING, place, "the base has no such tensor")
    };
    let coverage = Finding::new(&rules::B_COVERAGE, "", "hit: mlp.up_proj 0-3");
    let mut first = outcome("./lo ra", vec![missing(8), missing(9), coverage]);
    first.allowed = 2;
    let mut second = outcome("b\\c:1,2.safetensors", vec![]);
    second.checked = Checked::default();
    second.format = None;
    second.refusal =
        Some(Refusal { message: "peft_type LOHA: 100% other".into(), hint: Some("merge it".into()) });
    vec![first, second, outcome("sound", vec![])]
}

#[test]
fn text_is_a_line_a_finding_and_help_once_a_code() {
    insta::assert_snapshot!(text(&sample(), &Style::default()), @r#"
    error[B001] ./lo ra: model.layers.8.mlp.up_proj.weight: the base has no such tensor
    error[B001] ./lo ra: model.layers.9.mlp.up_proj.weight: the base has no such tensor
      help: The adapter was made for another model, or names a layer that this one does not have: check --base. `fitment apply --skip GLOB` leaves targets out by name.
    note[B012] ./lo ra: hit: mlp.up_proj 0-3
      help: Nothing to do if this is what was trained.
    ./lo ra: 2 errors, 1 note, 2 allowed; checked: format peft, weights, base, 12 digests, for vllm
    not checked b\c:1,2.safetensors: peft_type LOHA: 100% other
      help: merge it
    b\c:1,2.safetensors: no findings; checked: nothing
    sound: no findings; checked: format peft, weights, base, 12 digests, for vllm
    "#);
}

#[test]
fn style_goes_around_its_part_only() {
    let style =
        Style { error: ("<e>", "</e>"), help: ("<h>", "</h>"), summary: ("<s>", "</s>"), ..Style::default() };
    let finding = Finding::new(&rules::B_DTYPE, "a", "b");
    let finding = Finding { severity: Severity::Error, ..finding };
    insta::assert_snapshot!(text(&[outcome("x", vec![finding])], &style), @"
    <e>error[B006]</e> x: a: b
      <h>help:</h> The base was cast after the adapter was made. `--allow-base-mismatch` of apply accepts it.
    <s>x: 1 error; checked: format peft, weights, base, 12 digests, for vllm</s>
    ");
}

#[test]
fn control_characters_of_hostile_names_do_not_reach_the_terminal() {
    let finding = Finding::new(&rules::B_MISSING, "a\u{1b}[31m\nb", "c\rd");
    let text = text(&[outcome("x\u{7}", vec![finding])], &Style::default());
    assert!(text.chars().all(|character| !character.is_control() || character == '\n'), "{text:?}");
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn json_is_one_versioned_document() {
    insta::assert_snapshot!(json(&sample()[..2]), @r#"
    {
      "fitment_validate": 1,
      "files": [
        {
          "path": "./lo ra",
          "format": "peft",
          "checked": {
            "format": true,
            "weights": true,
            "base": true,
            "digests": 12,
            "for": [
              "vllm"
            ]
          },
          "refusal": null,
          "findings": [
            {
              "code": "B001",
              "severity": "error",
              "place": "model.layers.8.mlp.up_proj.weight",
              "message": "the base has no such tensor",
              "section": "6",
              "remedy": "The adapter was made for another model, or names a layer that this one does not have: check --base. `fitment apply --skip GLOB` leaves targets out by name."
            },
            {
              "code": "B001",
              "severity": "error",
              "place": "model.layers.9.mlp.up_proj.weight",
              "message": "the base has no such tensor",
              "section": "6",
              "remedy": "The adapter was made for another model, or names a layer that this one does not have: check --base. `fitment apply --skip GLOB` leaves targets out by name."
            },
            {
              "code": "B012",
              "severity": "note",
              "place": "",
              "message": "hit: mlp.up_proj 0-3",
              "section": "6",
              "remedy": "Nothing to do if this is what was trained."
            }
          ],
          "counts": {
            "error": 2,
            "warning": 0,
            "note": 1,
            "allowed": 2
          }
        },
        {
          "path": "b\\c:1,2.safetensors",
          "format": null,
          "checked": {
            "format": false,
            "weights": false,
            "base": false,
            "digests": 0,
            "for": []
          },
          "refusal": {
            "message": "peft_type LOHA: 100% other",
            "hint": "merge it"
          },
          "findings": [],
          "counts": {
            "error": 0,
            "warning": 0,
            "note": 0,
            "allowed": 0
          }
        }
      ]
    }
    "#);
}

#[test]
fn github_commands_escape_what_would_end_them() {
    insta::assert_snapshot!(github(&sample()), @"
    ::error file=lo ra/adapter_model.safetensors,title=fitment B001::model.layers.8.mlp.up_proj.weight: the base has no such tensor%0Ahelp: The adapter was made for another model, or names a layer that this one does not have: check --base. `fitment apply --skip GLOB` leaves targets out by name.
    ::error file=lo ra/adapter_model.safetensors,title=fitment B001::model.layers.9.mlp.up_proj.weight: the base has no such tensor%0Ahelp: The adapter was made for another model, or names a layer that this one does not have: check --base. `fitment apply --skip GLOB` leaves targets out by name.
    ::notice file=lo ra/adapter_model.safetensors,title=fitment B012::hit: mlp.up_proj 0-3%0Ahelp: Nothing to do if this is what was trained.
    ::warning file=b/c%3A1%2C2.safetensors/adapter_model.safetensors,title=fitment::not checked: peft_type LOHA: 100%25 other%0Ahelp: merge it
    ");
    let finding = Finding::new(&rules::B_NAME, "100%", "a\r\nb::c");
    let line = github(&[outcome("x", vec![finding])]);
    assert_eq!(line.lines().count(), 1);
    assert!(
        line.starts_with(
            "::notice file=x/adapter_model.safetensors,title=fitment B008::100%25: a\\r\\nb::c%0Ahelp: "
        ),
        "{line}"
    );
}

fn schema_errors(log: &Value) -> Vec<String> {
    // The committee's pattern for a language has a stray `]`, which ECMAScript takes literally and other engines refuse.
    let schema = include_str!("data/sarif-schema-2.1.0.json").replace("{2}]?$", "{2}\\\\]?$");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    validator.iter_errors(log).map(|error| format!("{} at {}", error, error.instance_path())).collect()
}

#[test]
fn sarif_keeps_its_schema() {
    let log: Value = serde_json::from_str(&sarif(&sample())).unwrap();
    assert_eq!(schema_errors(&log), [""; 0]);
    let empty: Value = serde_json::from_str(&sarif(&[])).unwrap();
    assert_eq!(schema_errors(&empty), [""; 0]);
}

#[test]
fn the_schema_is_one_that_fails() {
    let mut log: Value = serde_json::from_str(&sarif(&sample())).unwrap();
    log["runs"][0]["results"][0]["level"] = "fatal".into();
    log["runs"][0]["results"][1]["locations"][0]["physicalLocation"]["region"]["startLine"] = 0.into();
    assert_eq!(schema_errors(&log).len(), 2);
}

#[test]
fn sarif_says_rule_place_and_file() {
    let log: Value = serde_json::from_str(&sarif(&sample())).unwrap();
    let run = &log["runs"][0];
    let codes: Vec<&str> = run["tool"]["driver"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["id"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["B001", "B012"]);
    let mut result = run["results"][0].clone();
    result["partialFingerprints"] = Value::Null;
    insta::assert_snapshot!(format!("{result:#}"), @r#"
    {
      "ruleId": "B001",
      "level": "error",
      "message": {
        "text": "model.layers.8.mlp.up_proj.weight: the base has no such tensor"
      },
      "locations": [
        {
          "physicalLocation": {
            "artifactLocation": {
              "uri": "lo%20ra/adapter_model.safetensors"
            },
            "region": {
              "startLine": 1
            }
          },
          "logicalLocations": [
            {
              "fullyQualifiedName": "model.layers.8.mlp.up_proj.weight",
              "kind": "member"
            }
          ]
        }
      ],
      "partialFingerprints": null,
      "ruleIndex": 0
    }
    "#);
    insta::assert_snapshot!(format!("{:#}", run["invocations"]), @r#"
    [
      {
        "executionSuccessful": true,
        "toolExecutionNotifications": [
          {
            "level": "warning",
            "message": {
              "text": "not checked: peft_type LOHA: 100% other (help: merge it)"
            },
            "locations": [
              {
                "physicalLocation": {
                  "artifactLocation": {
                    "uri": "b/c%3A1%2C2.safetensors/adapter_model.safetensors"
                  },
                  "region": {
                    "startLine": 1
                  }
                }
              }
            ]
          }
        ]
      }
    ]
    "#);
    assert_eq!(run["results"][2]["ruleIndex"], 1);
}

fn fingerprints(outcomes: &[Outcome]) -> Vec<String> {
    let log: Value = serde_json::from_str(&sarif(outcomes)).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap().clone();
    results
        .iter()
        .map(|result| result["partialFingerprints"]["fitmentPlace/v1"].as_str().unwrap().into())
        .collect()
}

#[test]
fn fingerprints_tell_places_apart_and_outlive_the_message() {
    let before = fingerprints(&sample());
    assert_ne!(before[0], before[1]);
    let mut later = sample();
    later[0].findings[0].message = "another wording".into();
    later[0].findings.insert(0, Finding::new(&rules::B_NO_EFFECT, "", "new"));
    assert_eq!(fingerprints(&later)[1..], before[..]);
    let twice = later[0].findings[0].clone();
    later[0].findings.insert(0, twice);
    assert_ne!(fingerprints(&later)[0], fingerprints(&later)[1], "two of one place are two");
}

#[test]
fn a_finding_is_laid_to_the_file_that_it_is_about() {
    let file = |name: &str, rule, place: &str| {
        let line = github(&[outcome(name, vec![Finding::new(rule, place, "x")])]);
        line.split_once("file=").unwrap().1.split_once(',').unwrap().0.to_owned()
    };
    use fitment_convert::peft::rules as peft;
    assert_eq!(file("lora/", &peft::P_ALPHA_MISSING, "lora_alpha"), "lora/adapter_config.json");
    assert_eq!(file("lora", &peft::P_PAIR, "a.lora_A.weight"), "lora/adapter_model.safetensors");
    assert_eq!(file("lora", &peft::P_CONFIG_JSON, "adapter_config.json"), "lora/adapter_config.json");
    let single = Outcome { files: vec!["a.safetensors".into()], ..outcome("x/a.safetensors", vec![]) };
    let finding = Finding::new(&rules::B_SHAPE, "t", "x");
    assert!(
        github(&[Outcome { findings: vec![finding], ..single }]).starts_with("::error file=x/a.safetensors,")
    );
}
