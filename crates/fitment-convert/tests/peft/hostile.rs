//! Whatever the bytes, reading ends in a result: never a panic, a hang or a message of two lines.

use crate::fixture::{Base, Folder, root};
use fitment_convert::{Files, FormatId, ReadOptions, WriteOptions, peft, read, write};
use fitment_core::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CASES: &[&str] = &[
    "linear",
    "embedding",
    "trainable_tokens_dict",
    "mha",
    "conv2d",
    "dora_gpt2",
    "patterns",
    "tied_ensure_weight_tying",
    "seq_cls_bias_all",
    "sharded_adapter",
    "tied_resized_vocab",
];

struct Case {
    files: BTreeMap<String, Vec<u8>>,
    base: Base,
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = Folder::read(&root().join(name).join("adapter"));
        let files = folder.files().iter().map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect();
        Self { files, base: Base::read(&root().join(name).join("base")) }
    }

    fn try_all(&self) {
        let files: Files<'_> =
            self.files.iter().map(|(path, bytes)| (path.clone(), bytes.as_slice())).collect();
        let _ = peft::check(&files, None);
        for base in [None, Some(&self.base as &dyn Checkpoint)] {
            let options = ReadOptions { base, from: Some(FormatId::Peft), ..ReadOptions::default() };
            match read(&files, &options) {
                Ok(converted) => {
                    let written = write(&converted.adapter, FormatId::Peft, &WriteOptions::on(base)).unwrap();
                    written.files.iter().for_each(|file| assert!(file.byte_len() > 0));
                    let _ = write(&converted.adapter, FormatId::Fitment, &WriteOptions::on(base));
                }
                Err(error) => {
                    let text = format!("{error}{}", error.hint().unwrap_or_default());
                    assert!(!text.contains('\n'), "{text}");
                }
            }
        }
    }
}

/// A fixed sequence: the same inputs on every run.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).unwrap()
    }
}

#[test]
fn flipped_and_cut_files_end_in_a_result() {
    let mut sequence = Sequence(0x2545_f491_4f6c_dd1d);
    for name in CASES {
        let mut case = Case::read(name);
        let sound = case.files.clone();
        let paths: Vec<&String> = sound.keys().filter(|path| !path.ends_with(".md")).collect();
        for round in 0..60 {
            let path = paths[sequence.next(paths.len())];
            let bytes = case.files.get_mut(path).unwrap();
            // Most faults in the header and the config, where they mean most.
            let reach = bytes.len().min(2000);
            match round % 3 {
                0 => bytes.truncate(sequence.next(sound[path].len())),
                1 => bytes[sequence.next(reach)] ^= 1 << sequence.next(8),
                _ => {
                    let (at, byte) = (sequence.next(reach), sequence.next(256));
                    bytes[at] = u8::try_from(byte).unwrap();
                }
            }
            case.try_all();
            case.files.clone_from(&sound);
        }
    }
}

#[test]
fn any_value_under_any_key_of_the_config_ends_in_a_result() {
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e308),
        json!(5e-324),
        json!(""),
        json!("("),
        json!(".*"),
        json!("(\nx"),
        json!(["a\nb"]),
        json!("q_proj"),
        json!([]),
        json!({}),
        json!([""]),
        json!([0, u64::MAX]),
        json!([[1]]),
        json!({"": 1}),
        json!({"(": 1}),
        json!({".*": 3}),
        json!({"q_proj": [3, 3]}),
    ];
    for (name, only) in [("patterns", None), ("trainable_tokens_dict", Some("trainable_token_indices"))] {
        let mut case = Case::read(name);
        let config: Map<String, Value> = serde_json::from_slice(&case.files["adapter_config.json"]).unwrap();
        for key in config.keys().filter(|key| only.is_none_or(|only| only == key.as_str())) {
            for value in &values {
                let mut config = config.clone();
                config.insert(key.clone(), value.clone());
                case.files.insert("adapter_config.json".to_owned(), serde_json::to_vec(&config).unwrap());
                case.try_all();
            }
        }
    }
}

#[test]
fn catastrophic_patterns_are_errors_in_seconds() {
    let mut case = Case::read("linear");
    let mut config: Map<String, Value> = serde_json::from_slice(&case.files["adapter_config.json"]).unwrap();
    config.insert("target_modules".to_owned(), json!(r"((?=(m))|\w|[a-z.])*\2*(?=x)(\w+\.?)+!"));
    case.files.insert("adapter_config.json".to_owned(), serde_json::to_vec(&config).unwrap());
    let files: Files<'_> = case.files.iter().map(|(path, bytes)| (path.clone(), bytes.as_slice())).collect();
    let start = Instant::now();
    let findings = peft::check(&files, None).unwrap();
    assert!(
        findings.iter().any(|finding| finding.code.0 == "P008" || finding.code.0 == "P021"),
        "{findings:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}
