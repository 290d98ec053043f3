//! The spec beside the code: its table of codes, its schema and its examples say what the code does.

use std::fs;
use std::path::PathBuf;

use fitment_core::container::{Profile, read_header};
use fitment_core::finding::rules;
use fitment_core::manifest::schema;
use fitment_core::model::{Adapter, Edit, Lora, LoraForm, Origin, Target, TensorName};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Depth, check, to_bytes};
use fitment_tests::conformance::{Vector, vectors};
use fitment_tests::place::root;
use fitment_tests::source::{assert_none, text};
use serde_json::Value;

fn spec(name: &str) -> PathBuf {
    root().join("spec").join(name)
}

fn manifest(vector: &Vector) -> Value {
    let (container, _) = read_header(&vector.bytes, vector.bytes.len() as u64, Profile::Fitment)
        .unwrap_or_else(|finding| panic!("{}: {finding}", vector.name));
    let text = container.metadata_text("fitment").expect("the vector has a manifest");
    serde_json::from_str(text).expect("the manifest is JSON")
}

#[test]
fn the_schema_is_the_one_of_the_wire_types() {
    let wanted = serde_json::to_string_pretty(&schema()).expect("a schema is JSON") + "\n";
    let path = spec("manifest-1.0.schema.json");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &wanted).expect("the spec's folder can be written");
    }
    assert!(fs::read_to_string(&path).is_ok_and(|found| found == wanted), "BLESS=1 writes the schema again");
}

#[test]
fn manifests_keep_the_schema() {
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    let mut faults = Vec::new();
    for vector in vectors().iter().filter(|vector| vector.folder != "invalid") {
        let manifest = manifest(vector);
        faults.extend(validator.iter_errors(&manifest).map(|error| format!("{}: {error}", vector.name)));
    }
    assert_none(&faults);
}

#[test]
fn the_schema_refuses_other_types_and_null() {
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    let nulls = ["M008-component-null", "M008-source-null"];
    let broken: Vec<Vector> = vectors()
        .into_iter()
        .filter(|vector| vector.code == Some("M004") || nulls.contains(&vector.name.as_str()))
        .collect();
    assert!(broken.len() > 20);
    for vector in &broken {
        assert!(!validator.is_valid(&manifest(vector)), "{} keeps the schema", vector.name);
    }
}

/// The spec's text, cut where its sections begin: number and everything up to the next section of that depth.
fn section<'s>(spec: &'s str, number: &str) -> &'s str {
    let heading = if number.contains('.') { format!("\n### {number} ") } else { format!("\n## {number}. ") };
    let start =
        spec.find(&heading).unwrap_or_else(|| panic!("the spec has no section {number}")) + heading.len();
    let rest = &spec[start..];
    let ends = if number.contains('.') { ["\n## ", "\n### "].as_slice() } else { ["\n## "].as_slice() };
    let end = ends.iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
    &rest[..end]
}

#[test]
fn the_table_of_codes_is_the_rules_table() {
    let path = spec("fitment-1.0.md");
    let found = text(&path);
    let row = |rule: &rules::Rule| {
        format!("| {} | {} | {} | {} |\n", rule.code, rule.severity, rule.section, rule.meaning)
    };
    let head = "| code | severity | section | rule |\n|---|---|---|---|\n";
    let wanted: String = rules::ALL.iter().map(row).collect();
    let (before, rest) = found.split_once(head).expect("appendix B has the table");
    let (table, after) = rest.split_at(rest.find("\n\n").expect("appendix C follows") + 1);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{before}{head}{wanted}{after}")).expect("the spec's folder can be written");
    } else {
        assert_eq!(table, wanted, "BLESS=1 writes the table again");
    }
}

#[test]
fn every_rule_is_cited_in_its_section() {
    let spec = text(&spec("fitment-1.0.md"));
    let uncited: Vec<String> = rules::ALL
        .iter()
        .filter(|rule| !section(&spec, rule.section).contains(rule.code.0))
        .map(|rule| format!("{} is not cited in section {}", rule.code, rule.section))
        .collect();
    assert_none(&uncited);
}

/// The bytes of a dump as `xxd` prints it: offset, groups of hexadecimal digits, text.
fn bytes_of(dump: &str) -> Vec<u8> {
    let digits = dump.lines().flat_map(|line| {
        let groups = line.split_once(": ").expect("an offset").1;
        groups.get(..39).unwrap_or(groups).chars().filter(char::is_ascii_hexdigit).collect::<Vec<_>>()
    });
    let nibbles: Vec<u8> =
        digits.map(|digit| u8::try_from(digit.to_digit(16).expect("a digit")).expect("a nibble")).collect();
    nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn the_examples_are_real_files() {
    let spec = text(&spec("fitment-1.0.md"));
    let dumps: Vec<&str> = spec.split("```\n").filter(|block| block.starts_with("00000000: ")).collect();
    let [empty, lora, digested] = dumps[..] else { panic!("appendix C shows three dumps") };
    assert_eq!(bytes_of(empty), to_bytes(&Adapter::default()).expect("an empty adapter is sound"));

    let floats = |dims: &[u64], values: &[f32]| {
        let shape = Shape::new(dims).expect("small");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::owned(Dtype::F32, shape, bytes).expect("as many bytes as the shape asks for")
    };
    let edit = Lora {
        target: Target::whole(TensorName::new("w").expect("a name")),
        form: LoraForm::Matrix,
        transposed: false,
        scale: 2.0,
        up: floats(&[3, 1], &[1.0, 0.5, -1.0]),
        down: floats(&[1, 2], &[0.25, 4.0]),
        mid: None,
        magnitude: None,
        origin: Origin::default(),
    };
    let adapter = Adapter { edits: vec![Edit::Lora(edit)], ..Adapter::default() };
    let file = to_bytes(&adapter).expect("the example is sound");
    assert_eq!(bytes_of(lora), file);

    let manifest = check(&file, Depth::Values).manifest.expect("the example has a manifest");
    let digest = fitment_core::identity::hex(&fitment_core::identity::sha256(&bytes_of(digested)));
    assert_eq!(manifest.tensors["w::0.lora.down"], digest);
    assert!(spec.contains(&fitment_core::manifest::maths_core(&manifest.edits)));
}

#[test]
fn the_limits_are_those_of_the_code() {
    use fitment_core::limits;
    let spec = text(&spec("fitment-1.0.md"));
    let table = section(&spec, "2.4");
    let thousands = |number: u64| {
        let digits = number.to_string();
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|group| std::str::from_utf8(group).expect("digits"))
            .collect();
        groups.join(",")
    };
    let limits = [
        limits::MAX_HEADER_BYTES,
        limits::MAX_TENSORS as u64,
        limits::MAX_AXES as u64,
        limits::MAX_NAME_BYTES as u64,
        limits::MAX_EXPERTS,
        limits::MAX_RANGES as u64,
        limits::MAX_BASE_TENSORS,
        limits::MAX_EDITS as u64,
    ];
    for limit in limits {
        assert!(table.contains(&format!("| {}", thousands(limit))), "{limit} is not in the table of limits");
    }
    assert_eq!(limits::MAX_SAFE_INTEGER, 1 << 53);
}
