//! slime's disk deltas: on its base each makes the next version bit for bit, and goes back; every breach is named.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::slime::{check, detect, rules};
use fitment_convert::{Converted, Error, Files, FormatId, ReadOptions, WriteOptions, read, write};
use fitment_core::Severity;
use fitment_core::checkpoint::{Checkpoint, MemoryCheckpoint};
use fitment_core::container::write_container;
use fitment_core::model::Edit;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, CheckpointDir};
use fitment_tests::place::{fixture, scratch};
use fitment_tests::program::fitment;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";
const FILE: &str = "model-00000-of-00001.safetensors";

/// Cases with one version, each with the encoding and the checksum in its index.
const CASES: &[(&str, &str, &str)] = &[
    ("xor", "xor", "xxh3-128"),
    ("overwrite_blake3", "overwrite", "blake3"),
    ("xor_adler32", "xor", "adler32"),
    ("two_files", "overwrite", "xxh3-128"),
];

/// Files by path, owned.
type Folder = BTreeMap<String, Vec<u8>>;

fn load(folder: &Path) -> Folder {
    let mut files = Folder::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
    }
    files
}

fn files(folder: &Folder) -> Files<'_> {
    folder.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect()
}

fn checkpoint(name: &str) -> CheckpointDir {
    CheckpointDir::open(&fixture("slime").join(name), Access::Map).unwrap()
}

fn run(arguments: &[&Path]) -> (Option<i32>, String) {
    let output = fitment().args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn succeed(arguments: &[&Path]) {
    let (code, text) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
}

fn assert_same(found: &Path, wanted: &Path) {
    let [found, wanted] = [found, wanted].map(|path| CheckpointDir::open(path, Access::Map).unwrap());
    assert_eq!(found.tensors(), wanted.tensors());
    for name in wanted.tensors().keys() {
        assert!(found.read(name).unwrap() == wanted.read(name).unwrap(), "{name}");
    }
}

/// The new bytes of every tensor of a version, by a reading of its own; each is held against its checksum.
fn decoded(folder: &Folder, base: &dyn Checkpoint) -> BTreeMap<String, Vec<u8>> {
    let index: Value = serde_json::from_slice(&folder[INDEX]).unwrap();
    let meta = |key: &str| index["metadata"][key].as_str().unwrap();
    let mut decoded = BTreeMap::new();
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let bytes = &folder[file.as_str().unwrap()];
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        let frame =
            safetensors::SafeTensors::deserialize(bytes).unwrap().tensor(name).unwrap().data().to_vec();
        let mut new = base.read(name).unwrap().to_vec();
        let content = zstd::stream::decode_all(&frame[..]).unwrap();
        if meta("delta_encoding") == "xor" {
            assert_eq!(content.len(), new.len());
            new.iter_mut().zip(&content).for_each(|(new, change)| *new ^= change);
        } else {
            let word = |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().unwrap()) as usize;
            (0..word(0)).for_each(|number| new[word(4 + 4 * number)] = content[4 + 4 * word(0) + number]);
        }
        let sum = match meta("checksum_format") {
            "xxh3-128" => format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&new)),
            "blake3" => blake3::hash(&new).to_hex().to_string(),
            _ => format!("{:08x}", adler2::adler32_slice(&new)),
        };
        assert_eq!(header.metadata().as_ref().unwrap()[name], sum, "{name}");
        decoded.insert(name.clone(), new);
    }
    decoded
}

/// A tensor with other bytes is there with them; no other is.
fn assert_tells(found: &BTreeMap<String, Vec<u8>>, base: &dyn Checkpoint, tuned: &dyn Checkpoint) {
    for name in base.tensors().keys() {
        let (old, new) = (base.read(name).unwrap(), tuned.read(name).unwrap());
        assert_eq!(found.get(name).map(Vec::as_slice), (old != new).then_some(&*new), "{name}");
    }
}

/// `weight_v000001` of one BF16 tensor, `w`, whose bytes are given.
fn publish(encoding: &str, content: &[u8], new: &[u8]) -> Folder {
    let frame = zstd::bulk::compress(content, 1).unwrap();
    let frame = Tensor::owned(Dtype::U8, Shape::new(&[frame.len() as u64]).unwrap(), frame).unwrap();
    let sums = BTreeMap::from([("w".to_owned(), format!("{:032x}", xxhash_rust::xxh3::xxh3_128(new)))]);
    let mut file = Vec::new();
    write_container(&sums, [("w".to_owned(), &frame)], &mut file).unwrap();
    let metadata = json!({
        "version": "000001", "base_version": "000000", "delta_encoding": encoding,
        "compression_format": "zstd", "checksum_format": "xxh3-128",
    });
    let index = json!({ "metadata": metadata, "weight_map": { "w": FILE } });
    Folder::from([(FILE.to_owned(), file), (INDEX.to_owned(), index.to_string().into_bytes())])
}

fn one_tensor(bytes: &[u8]) -> Vec<u8> {
    let shape = Shape::new(&[bytes.len() as u64 / 2]).unwrap();
    let tensor = Tensor::borrowed(Dtype::BF16, shape, bytes).unwrap();
    let mut file = Vec::new();
    write_container(&BTreeMap::new(), [("w".to_owned(), &tensor)], &mut file).unwrap();
    file
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn on<'a>(folder: &'a Folder, base: &dyn Checkpoint) -> Result<Converted<'a>, Error> {
    read(&files(folder), &ReadOptions { base: Some(base), ..ReadOptions::default() })
}

fn kinds(converted: &Converted<'_>) -> BTreeMap<String, &'static str> {
    converted.adapter.edits.iter().map(|edit| (edit.label().unwrap(), edit.kind())).collect()
}

#[test]
fn every_version_makes_the_next_checkpoint_and_goes_back() {
    let slime = fixture("slime");
    let (base, tuned) = (slime.join("base"), slime.join("tuned"));
    for (case, encoding, checksum) in CASES {
        let room = scratch();
        let [file, out, direct, back] =
            ["x.safetensors", "out", "direct", "back"].map(|name| room.path().join(name));
        let adapter = slime.join(case).join("adapter");
        succeed(&["convert".as_ref(), &adapter, "-o".as_ref(), &file, "--base".as_ref(), &base]);
        succeed(&["apply".as_ref(), &base, &file, "-o".as_ref(), &out]);
        assert_same(&out, &tuned);
        succeed(&["apply".as_ref(), &base, &adapter, "-o".as_ref(), &direct]);
        assert_same(&direct, &tuned);
        let to = ["--to".as_ref(), "slime".as_ref(), "--base".as_ref(), &*base];
        succeed(&[&["convert".as_ref(), &*file, "-o".as_ref(), &back], &to[..]].concat());
        let (back, base, tuned) = (load(&back), checkpoint("base"), checkpoint("tuned"));
        assert_tells(&decoded(&back, &base), &base, &tuned);
        let [written, read] = [&back[INDEX], &load(&adapter)[INDEX]]
            .map(|index| serde_json::from_slice::<Value>(index).unwrap()["metadata"].clone());
        assert_eq!(written, read);
        assert_eq!((&read["delta_encoding"], &read["checksum_format"]), (&json!(encoding), &json!(checksum)));
    }
}

#[test]
fn versions_apply_in_their_order() {
    let slime = fixture("slime");
    let (base, chain, room) = (slime.join("base"), slime.join("chain/adapter"), scratch());
    let (one, two) = (room.path().join("one"), room.path().join("two"));
    let apply = |base: &Path, version: &str, out: &Path| {
        run(&["apply".as_ref(), base, &chain, "--adapter".as_ref(), version.as_ref(), "-o".as_ref(), out])
    };
    let (code, text) = apply(&base, "weight_v000002", &one);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("model.embed_tokens.weight") && text.contains("the base is not version 000001"),
        "{text}"
    );
    assert_eq!(apply(&base, "weight_v000001", &one).0, Some(0));
    assert_eq!(apply(&one, "weight_v000002", &two).0, Some(0));
    assert_same(&one, &slime.join("tuned"));
    assert_same(&two, &slime.join("tuned2"));
    for version in ["weight_v000001", "weight_v000002"] {
        let (code, text) = apply(&two, version, &room.path().join("again"));
        let wanted =
            if version == "weight_v000002" { "version 000002 is applied" } else { "is not version 000000" };
        assert!(code == Some(1) && text.contains(wanted), "{text}");
    }
    let (_, text) = run(&["convert".as_ref(), &chain, "-o".as_ref(), &two, "--base".as_ref(), &base]);
    assert!(text.contains("hint: name one with --adapter: weight_v000001, weight_v000002"), "{text}");
}

#[test]
fn a_second_application_is_refused_in_both_encodings() {
    for (case, ..) in CASES {
        let folder = load(&fixture("slime").join(case).join("adapter"));
        let error = on(&folder, &checkpoint("tuned")).unwrap_err();
        assert!(matches!(&error, Error::WrongBase { finding, .. } if finding.code == rules::S_BASE.code));
        assert!(error.to_string().contains("version 000001 is applied"), "{error}");
    }
}

#[test]
fn the_encoding_decides_what_a_change_becomes() {
    let base = checkpoint("base");
    let read = |case: &str| kinds(&on(&load(&fixture("slime").join(case).join("adapter")), &base).unwrap());
    let name = |part: &str| format!("model.{part}");
    let layer = |part: &str| format!("model.layers.0.{part}");
    let (xor, overwrite) = (read("xor"), read("two_files"));
    for (name, by_xor, by_overwrite) in [
        (name("embed_tokens.weight"), "bits", "sparse_set"),
        (layer("self_attn.q_proj.weight"), "bits", "sparse_set"),
        (layer("self_attn.q_proj.bias"), "set", "set"),
        (layer("mlp.up_proj.weight"), "bits", "set"),
        (layer("mlp.up_proj.steps"), "bits", "bits"),
        (name("norm.weight"), "set", "sparse_set"),
    ] {
        assert_eq!((xor[&name], overwrite[&name]), (by_xor, by_overwrite), "{name}");
    }
    assert_eq!((xor.len(), overwrite.len()), (6, 6));
}

#[test]
fn without_a_base_only_an_empty_version_is_read() {
    let (empty, xor) = (load(&fixture("slime/unchanged/adapter")), load(&fixture("slime/xor/adapter")));
    let converted = read(&files(&empty), &ReadOptions::default()).unwrap();
    assert!(converted.adapter.edits.is_empty() && converted.losses.is_empty());
    let base = checkpoint("base");
    let written = write(&converted.adapter, FormatId::Slime, &WriteOptions::on(Some(&base))).unwrap();
    let mut back = Vec::new();
    written.files[0].write_to(&mut back).unwrap();
    assert_eq!((written.files.len(), &*written.files[0].path), (1, INDEX));
    assert_eq!(
        serde_json::from_slice::<Value>(&back).unwrap(),
        serde_json::from_slice::<Value>(&empty[INDEX]).unwrap()
    );
    match read(&files(&xor), &ReadOptions::default()).unwrap_err() {
        Error::Ambiguous { hint, .. } => assert!(hint.contains("--base"), "{hint}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_diff_becomes_a_version_and_what_is_none_is_refused() {
    let (slime, room) = (fixture("slime"), scratch());
    let (base, tuned) = (slime.join("base"), slime.join("tuned"));
    let at = |name: &str| room.path().join(name);
    let to = ["--to".as_ref(), "slime".as_ref(), "--base".as_ref(), &*base];
    for form in ["bits", "sparse"] {
        let (diff, out) = (at(&format!("{form}.safetensors")), at(form));
        succeed(&["diff".as_ref(), &base, &tuned, "-o".as_ref(), &diff, "--as".as_ref(), form.as_ref()]);
        succeed(&[&["convert".as_ref(), &*diff, "-o".as_ref(), &out], &to[..]].concat());
        let (written, base) = (load(&out), checkpoint("base"));
        assert_tells(&decoded(&written, &base), &base, &checkpoint("tuned"));
        let index: Value = serde_json::from_slice(&written[INDEX]).unwrap();
        assert_eq!(
            (&index["metadata"]["version"], &index["metadata"]["delta_encoding"]),
            (&json!("000001"), &json!("xor"))
        );
        let (code, text) = run(&["convert", "--to", "slime", "-o", "none"]
            .map(Path::new)
            .into_iter()
            .chain([&*diff])
            .collect::<Vec<_>>());
        assert!(code == Some(2) && text.contains("--base"), "{text}");
        let other = slime.join("tuned2");
        let (code, _) =
            run(&[&["convert".as_ref(), &*diff, "-o".as_ref(), &at("other")], &to[..3], &[&*other]].concat());
        assert_eq!(code, Some(1), "another base");
    }
    let lora = fixture("example/adapter");
    let (code, text) = run(&[&["convert".as_ref(), &*lora, "-o".as_ref(), &at("lora")], &to[..2]].concat());
    assert!(code == Some(2) && text.contains("fitment diff"), "{text}");
}

#[test]
fn large_tensors_come_in_frames_with_a_window() {
    // Above 512 KiB; a few bytes change.
    let old: Vec<u8> = (0..700_000u32).flat_map(|at| [(at * 7 % 251) as u8, 0x3f]).collect();
    let mut new = old.clone();
    (0..900).for_each(|number| new[number * 1501] ^= 3);
    let folder = publish("xor", &xor(&old, &new), &new);
    let (old, new) = (one_tensor(&old), one_tensor(&new));
    let [old, new] = [&old, &new].map(|file| MemoryCheckpoint::new(file, None).unwrap());
    let converted = on(&folder, &old).unwrap();
    assert_eq!(kinds(&converted)["w"], "bits");
    let written = write(&converted.adapter, FormatId::Slime, &WriteOptions::on(Some(&old))).unwrap();
    let mut back = Folder::new();
    for file in &written.files {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, file.byte_len());
        back.insert(file.path.clone(), bytes);
    }
    assert_tells(&decoded(&back, &old), &old, &new);
}

#[test]
fn a_number_that_is_not_finite_stays_a_change_of_bits() {
    let old = vec![0x3f; 400];
    let mut new = old.clone();
    new[10..12].copy_from_slice(&[0xc0, 0x7f]); // NaN
    let content =
        [&2u32.to_le_bytes()[..], &10u32.to_le_bytes(), &11u32.to_le_bytes(), &new[10..12]].concat();
    let (few, base) = (publish("overwrite", &content, &new), one_tensor(&old));
    let base = MemoryCheckpoint::new(&base, None).unwrap();
    let converted = on(&few, &base).unwrap();
    let Edit::Bits(edit) = &converted.adapter.edits[0] else { panic!("{:?}", kinds(&converted)) };
    assert_eq!(edit.changed, 1);
    assert!(fitment_core::to_bytes(&converted.adapter).is_ok());
}

/// Folders that break one rule each, by the code.
fn broken() -> Vec<(&'static str, Folder)> {
    let (old, new) = ([1u8, 2, 3, 4], [1u8, 9, 3, 8]);
    let sound = publish("xor", &xor(&old, &new), &new);
    let overwrite = |words: &[u32], values: &[u8]| {
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        publish("overwrite", &[&words, values].concat(), &new)
    };
    let index = |from: &str, to: &str| {
        let mut folder = sound.clone();
        let text = String::from_utf8(folder[INDEX].clone()).unwrap();
        assert!(text.contains(from), "{from}");
        folder.insert(INDEX.to_owned(), text.replacen(from, to, 1).into_bytes());
        folder
    };
    let file = |dtype: Dtype, dims: &[u64], data: &[u8], sum: Option<&str>| {
        let tensor = Tensor::borrowed(dtype, Shape::new(dims).unwrap(), data).unwrap();
        let sums = sum.map(|sum| ("w".to_owned(), sum.to_owned())).into_iter().collect();
        let mut bytes = Vec::new();
        write_container(&sums, [("w".to_owned(), &tensor)], &mut bytes).unwrap();
        let mut folder = sound.clone();
        folder.insert(FILE.to_owned(), bytes);
        folder
    };
    let without = |path: &str| {
        sound.iter().filter(|(name, _)| *name != path).map(|(a, b)| (a.clone(), b.clone())).collect()
    };
    let frame = zstd::bulk::compress(&xor(&old, &new), 1).unwrap();
    let (len, sum) = (frame.len() as u64, "00000000000000000000000000000000");
    let mut cut = sound.clone();
    cut.get_mut(FILE).unwrap().pop();
    let mut gone = sound.clone();
    gone.insert(
        INDEX.to_owned(),
        String::from_utf8(sound[INDEX].clone()).unwrap().replace("{\"w\"", "{\"v\"").into_bytes(),
    );
    vec![
        ("S001", without(INDEX)),
        ("S001", index("{", "")),
        ("S001", index("\"version\"", "\"base_version\"")),
        ("S001", index("\"000000\"", "0")),
        ("S001", index("\"weight_map\"", "\"map\"")),
        ("S001", index(&format!("\"{FILE}\""), "[]")),
        ("S002", index("\"xor\"", "\"add\"")),
        ("S002", index("\"zstd\"", "\"lz4\"")),
        ("S002", index("xxh3-128", "md5")),
        ("S003", index("\"000001\"", "\"000007\"")),
        ("S003", index("\"000001\"", "\"+1\"")),
        ("S004", without(FILE)),
        ("S004", cut),
        ("S004", index(FILE, &format!("../{FILE}"))),
        ("S005", gone),
        ("S006", file(Dtype::I8, &[len], &frame, Some(sum))),
        ("S006", file(Dtype::U8, &[1, len], &frame, Some(sum))),
        ("S007", file(Dtype::U8, &[4], &[1, 2, 3, 4], Some(sum))),
        ("S007", file(Dtype::U8, &[len - 1], &frame[..frame.len() - 1], Some(sum))),
        ("S008", file(Dtype::U8, &[len], &frame, None)),
        ("S008", file(Dtype::U8, &[len], &frame, Some("0F"))),
        ("S009", overwrite(&[2, 3, 1], &[8, 9])),
        ("S009", overwrite(&[3, 1, 3], &[8, 9])),
        ("S009", publish("overwrite", &xor(&old, &new), &new)),
    ]
}

#[test]
fn every_rule_is_broken_by_a_copy_that_breaks_it() {
    let base = one_tensor(&[1, 2, 3, 4]);
    let base = MemoryCheckpoint::new(&base, None).unwrap();
    let mut hit = BTreeSet::from(["S010"]); // of the base: broken above
    for (number, (code, folder)) in broken().iter().enumerate() {
        let findings = check(&files(folder), None).unwrap();
        assert!(!findings.is_empty(), "{number}: {code}");
        findings.iter().for_each(|finding| assert_eq!(&finding.code.0, code, "{number}: {finding}"));
        let options =
            ReadOptions { from: Some(FormatId::Slime), base: Some(&base), ..ReadOptions::default() };
        let is_error = findings.iter().any(|finding| finding.severity == Severity::Error);
        assert_eq!(read(&files(folder), &options).is_err(), is_error, "{number}: {code}");
        hit.insert(code);
    }
    assert_eq!(hit, rules::ALL.iter().map(|rule| rule.code.0).collect());
}

#[test]
fn the_validator_names_what_the_base_shows() {
    let slime = fixture("slime");
    let validate = |base: Option<&str>| {
        let mut command = fitment();
        command.arg("validate").arg(slime.join("xor/adapter"));
        base.map(|base| command.arg("--base").arg(slime.join(base)));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = validate(None);
    assert!(code == Some(0) && text.contains("B017"), "{text}");
    let (code, text) = validate(Some("base"));
    assert!(code == Some(0) && !text.contains("S0"), "{text}");
    let (code, text) = validate(Some("tuned2"));
    assert!(code == Some(1) && text.contains("error[S010]"), "{text}");
}

#[test]
fn an_ordinary_sharded_checkpoint_is_no_version() {
    let index =
        br#"{"metadata": {"total_size": 8}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}"#;
    assert!(!detect(&[(INDEX, &index[..])].into_iter().collect()));
    let named = br#"{"metadata": {}, "weight_map": {"delta_encoding": "x"}}"#;
    assert!(!detect(&[(INDEX, &named[..])].into_iter().collect()));
    let damaged = br#"{"metadata": {"delta_encoding": "xor""#;
    assert!(detect(&[(INDEX, &damaged[..])].into_iter().collect()));
    assert!(!detect(&[("xmodel.safetensors.index.json", &damaged[..])].into_iter().collect()));
}

#[test]
fn announced_sizes_are_held_against_the_base_before_anything_is_decoded() {
    let base = one_tensor(&[1, 2, 3, 4]);
    let base = MemoryCheckpoint::new(&base, None).unwrap();
    // 2^40 bytes of one run: a decoder that believes the header would ask for all of them.
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x48];
    let bomb = |size: u64| [&head[..], &size.to_le_bytes(), &[3, 0, 16, 0]].concat();
    for (encoding, size) in [("xor", 1 << 40), ("overwrite", 4 + 5 * (1 << 31)), ("overwrite", 1 << 40)] {
        let mut folder = publish(encoding, &[], &[]);
        let frame = bomb(size);
        let tensor = Tensor::borrowed(Dtype::U8, Shape::new(&[frame.len() as u64]).unwrap(), &frame).unwrap();
        let sums = BTreeMap::from([("w".to_owned(), "0".repeat(32))]);
        let mut file = Vec::new();
        write_container(&sums, [("w".to_owned(), &tensor)], &mut file).unwrap();
        folder.insert(FILE.to_owned(), file);
        let error = on(&folder, &base).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. } | Error::Malformed { .. }), "{error}");
        let findings = check(&files(&folder), None).unwrap();
        assert_eq!(findings.is_empty(), encoding == "xor", "{findings:?}");
    }
}

#[test]
fn damage_is_refused_or_harmless() {
    let (base, tuned) = (checkpoint("base"), checkpoint("tuned"));
    for (case, ..) in CASES {
        let sound = load(&fixture("slime").join(case).join("adapter"));
        for (path, bytes) in &sound {
            for at in (0..bytes.len()).step_by(11) {
                let mut folder = sound.clone();
                let bytes = folder.get_mut(path).unwrap();
                if at % 2 == 0 {
                    bytes.truncate(at)
                } else {
                    bytes[at] ^= 1 << (at % 8)
                }
                check(&files(&folder), None).unwrap();
                let options =
                    ReadOptions { from: Some(FormatId::Slime), base: Some(&base), ..ReadOptions::default() };
                let Ok(converted) = read(&files(&folder), &options) else { continue };
                // What passes has every checksum: nothing but bytes that the encoding does not look at was hit.
                let written =
                    write(&converted.adapter, FormatId::Slime, &WriteOptions::on(Some(&base))).unwrap();
                let mut back = Folder::new();
                for file in &written.files {
                    let mut bytes = Vec::new();
                    file.write_to(&mut bytes).unwrap();
                    back.insert(file.path.clone(), bytes);
                }
                let found = decoded(&back, &base);
                found.iter().for_each(|(name, new)| assert!(*new == *tuned.read(name).unwrap(), "{name}"));
            }
        }
    }
}

#[test]
fn every_case_of_the_fixtures_is_listed() {
    let cases: BTreeSet<PathBuf> = fs::read_dir(fixture("slime"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").exists())
        .collect();
    assert_eq!(cases.len(), CASES.len() + 2, "chain and unchanged have tests of their own");
}
