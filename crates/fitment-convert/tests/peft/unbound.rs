//! Without a base: what a wrong guess would be noticed for is converted, the rest asks for one. Binding later gives the
//! file that a base at hand gives.

use crate::fixture::{Base, Folder, cases, root, text};
use fitment_convert::{Error, FormatId, ReadOptions, WriteOptions, read, write};
use fitment_core::{Adapter, Depth, check};
use std::collections::BTreeSet;

fn bytes(adapter: &Adapter<'_>) -> Vec<u8> {
    let written = write(adapter, FormatId::Fitment, &WriteOptions::default()).unwrap();
    let mut bytes = Vec::new();
    written.files[0].write_to(&mut bytes).unwrap();
    bytes
}

fn content_id(bytes: &[u8]) -> String {
    let report = check(bytes, Depth::Values);
    assert_eq!(report.errors().count(), 0, "{:?}", report.findings);
    report.manifest.unwrap().id
}

/// Cases that need their base, and why.
const NEED_A_BASE: &[(&str, &[&str])] = &[
    (
        "square matrix",
        &["dora_gpt2", "gpt2_conv1d", "gpt2_conv1d_square", "gpt2_square_flag_false", "llama_fan_in_fan_out"],
    ),
    (
        "copy of the base or a trained one",
        &[
            "dora_embedding",
            "embedding",
            "llava_renamed",
            "lm_head",
            "refused_t5_tied_head",
            "resized_vocab",
            "saved_embedding_copy",
            "saved_embedding_trained",
            "tied_bert_bias_all",
            "tied_bert_head_bias_all",
            "tied_embed_tokens",
            "tied_embed_tokens_head_stored",
            "tied_ensure_weight_tying",
            "tied_lm_head",
            "tied_modules_to_save_ensure",
            "tied_resized_saved_embed",
            "tied_resized_vocab",
            "tied_roberta_bias_all",
            "tied_saved_embed_head_lora",
        ],
    ),
    (
        "only one of",
        &[
            "modules_to_save",
            "tied_bert_embedding",
            "tied_gpt2_wte",
            "tied_modules_to_save_embed",
            "tied_modules_to_save_head",
            "tied_rows_apart",
            "tied_rows_of_head",
            "trainable_tokens_dict",
        ],
    ),
    (
        "gpt-oss stores them the other way",
        &["experts_0_19_0", "experts_0_19_0_gpt_oss_square", "experts_all_square", "experts_square"],
    ),
];

#[test]
fn a_guess_that_nobody_would_notice_asks_for_the_base() {
    let expected: BTreeSet<(&str, &str)> =
        NEED_A_BASE.iter().flat_map(|(why, names)| names.iter().map(|name| (*name, *why))).collect();
    let mut found = BTreeSet::new();
    let all = cases(&root());
    for (name, path, case) in &all {
        let folder = Folder::read(&path.join(text(case, "adapter").unwrap()));
        let Err(Error::Ambiguous { reason, hint, .. }) = read(&folder.files(), &ReadOptions::default())
        else {
            continue;
        };
        assert!(hint.contains("--base"), "{name}");
        let (why, _) = NEED_A_BASE.iter().find(|(why, _)| reason.contains(why)).unwrap();
        found.insert((name.as_str(), *why));
    }
    assert_eq!(found, expected);
}

/// Cases whose names differ on disk: an unbound file has the names of the class, and says so when it meets the base.
const OTHER_NAMES: &[&str] = &[
    "bert_prefixless",
    "experts_0_17",
    "experts_0_17_square",
    "experts_0_18",
    "experts_0_18_square",
    "experts_down",
    "experts_mixtral",
    "experts_router",
    "gpt2_hub_names",
    "modernbert_bare",
    "vit_renamed",
];

/// Stacks stored as `[E, in, out]`, where others are taken for `[E, out, in]`.
const OTHER_SHAPES: &[&str] = &["experts_0_19_0_gpt_oss", "experts_gpt_oss"];

/// The same function, of a stack that is known to be stored as `[E, in, out]` only with the base at hand.
const OTHER_FORM: &[&str] = &["experts_0_18_gpt_oss"];

/// The base has the head that was taken for new.
const HEAD_IS_THERE: &[&str] = &["seq_cls_bert", "seq_cls_bias_all"];

#[test]
fn binding_later_gives_the_same_file_as_binding_at_once() {
    let mut same = 0;
    for (name, path, case) in cases(&root()) {
        let folder = Folder::read(&path.join(text(&case, "adapter").unwrap()));
        let files = folder.files();
        let Some(base) = text(&case, "base").map(|base| Base::read(&path.join(base))) else { continue };
        let Ok(unbound) = read(&files, &ReadOptions::default()) else { continue };
        assert!(!unbound.adapter.base.is_bound());
        assert!(unbound.losses.iter().any(|loss| loss.id() == "unbound"), "{name}");
        let unbound = bytes(&unbound.adapter);
        let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
        let later = read(&[("x.safetensors", unbound.as_slice())].into_iter().collect(), &options);
        match later {
            Err(Error::Unmapped { .. }) => assert!(OTHER_NAMES.contains(&name.as_str()), "{name}"),
            Err(Error::Mismatch { .. }) => {
                assert!([HEAD_IS_THERE, OTHER_SHAPES].concat().contains(&name.as_str()), "{name}");
            }
            Err(other) => panic!("{name}: {other}"),
            Ok(later) => {
                assert!(later.adapter.base.is_bound());
                let at_once = read(&files, &options).unwrap();
                let [later, at_once] = [&later, &at_once].map(|read| content_id(&bytes(&read.adapter)));
                assert_eq!(later == at_once, !OTHER_FORM.contains(&name.as_str()), "{name}");
                same += 1;
            }
        }
    }
    assert!(same >= 30, "only {same} cases");
}

#[test]
fn a_bound_file_is_refused_on_another_base() {
    let folder = Folder::read(&root().join("linear/adapter"));
    let base = Base::read(&root().join("linear/base"));
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let bound = bytes(&read(&folder.files(), &options).unwrap().adapter);
    let file = || [("x.safetensors", bound.as_slice())].into_iter().collect();
    assert_eq!(bytes(&read(&file(), &options).unwrap().adapter), bound);
    let other = Base::read(&root().join("rslora/base"));
    let error = read(&file(), &ReadOptions { base: Some(&other), ..options }).unwrap_err();
    let Error::Mismatch { culprits } = error else { panic!("{error}") };
    assert_eq!(culprits.len(), 14);
    assert!(culprits[0].expected.starts_with("SHA-256 "));
    let error =
        read(&file(), &ReadOptions { base: Some(&Base::read(&root().join("gpt2_conv1d/base"))), ..options })
            .unwrap_err();
    assert!(matches!(error, Error::Unmapped { .. }), "{error}");
}

#[test]
fn a_re_saved_fitment_file_is_repaired_with_a_finding() {
    let folder = Folder::read(&root().join("linear/adapter"));
    let base = Base::read(&root().join("linear/base"));
    let options = ReadOptions { base: Some(&base), ..ReadOptions::default() };
    let sound = bytes(&read(&folder.files(), &options).unwrap().adapter);
    // What a tool does that parses the header and writes it again with spaces.
    let length = u64::from_le_bytes(*sound.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&sound[8..8 + length]).unwrap();
    let mut header = serde_json::to_string_pretty(&header).unwrap();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut saved = (header.len() as u64).to_le_bytes().to_vec();
    saved.extend_from_slice(header.as_bytes());
    saved.extend_from_slice(&sound[8 + length..]);
    let repaired = read(&[("x", saved.as_slice())].into_iter().collect(), &ReadOptions::default()).unwrap();
    assert!(repaired.findings.iter().any(|finding| finding.code.0 == "C020"), "{:?}", repaired.findings);
    assert_eq!(bytes(&repaired.adapter), sound);
}
