//! Interventions of pyreft in what other forms can hold: a path by its word, a product of constants as a control vector.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_convert::{Error, Files, FormatId, Loss, OutputFile, ReadOptions, WriteOptions, read, write};
use fitment_core::Adapter;
use fitment_core::model::{Edit, Intervention, Site, SiteComponent};
use fitment_core::tensor::Tensor;
use fitment_io::AdapterFiles;
use fitment_tests::compare::values;
use fitment_tests::place::fixture;

fn said() -> ReadOptions<'static> {
    ReadOptions { positions: Some("all"), activation: Some("none"), ..ReadOptions::default() }
}

fn load(name: &str) -> AdapterFiles {
    AdapterFiles::load(&fixture("pyreft").join(name).join("adapter")).unwrap()
}

fn interventions<'e, 'a>(adapter: &'e Adapter<'a>) -> Vec<&'e Intervention<'a>> {
    let one = |edit: &'e Edit<'a>| if let Edit::Intervention(edit) = edit { Some(edit) } else { None };
    adapter.edits.iter().filter_map(one).collect()
}

fn bytes(file: &OutputFile<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    bytes
}

fn numbers(tensor: &Option<Tensor<'_>>) -> Vec<f64> {
    tensor.as_ref().map(|tensor| values(tensor.dtype(), tensor.bytes())).unwrap_or_default()
}

#[test]
fn a_modules_path_is_written_by_its_word_where_the_architecture_is_known() {
    let files = load("path");
    let mut adapter = read(&files.iter().collect(), &said()).unwrap().adapter;
    assert!(interventions(&adapter).iter().all(|edit| matches!(edit.site, Site::Module(_))));
    let refused = write(&adapter, FormatId::Pyreft, &WriteOptions::default()).unwrap_err();
    assert!(
        matches!(&refused, Error::Unsupported { reason, .. } if reason.contains("with --base")),
        "{refused}"
    );
    adapter.base.config.insert("model_type".to_owned(), "llama".into());
    let written = write(&adapter, FormatId::Pyreft, &WriteOptions::default()).unwrap();
    assert!(!written.losses.iter().any(|loss| matches!(loss, Loss::NotHeld { .. })), "{:?}", written.losses);
    let stored: Vec<(String, Vec<u8>)> =
        written.files.iter().map(|file| (file.path.clone(), bytes(file))).collect();
    let files: Files<'_> = stored.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let back = read(&files, &said()).unwrap().adapter;
    let [old, new] = [&adapter, &back].map(interventions);
    assert_eq!((old.len(), new.len()), (1, 1));
    assert_eq!(new[0].site, Site::Layer { layer: 2, component: SiteComponent::BlockOutput });
    let tensors = |edit: &Intervention<'_>| {
        edit.tensors().into_iter().map(|(role, tensor)| (role, tensor.bytes().to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(tensors(old[0]), tensors(new[0]));
}

#[test]
fn lobireft_at_every_token_is_a_control_vector() {
    for name in ["lobireft_fresh", "lobireft_trained"] {
        let files = load(name);
        let adapter = read(&files.iter().collect(), &said()).unwrap().adapter;
        let written = write(&adapter, FormatId::Gguf, &WriteOptions::default()).unwrap();
        assert!(
            !written.losses.iter().any(|loss| matches!(loss, Loss::NotHeld { .. })),
            "{:?}",
            written.losses
        );
        let file = bytes(&written.files[0]);
        let back =
            read(&[("v.gguf", &file[..])].into_iter().collect(), &ReadOptions::default()).unwrap().adapter;
        let [old, new] = [&adapter, &back].map(interventions);
        assert!(!old.is_empty() && old.len() == new.len());
        for (old, new) in old.iter().zip(&new) {
            assert_eq!(old.site, new.site);
            let (up, bias, found) = (numbers(&old.up), numbers(&old.source_bias), numbers(&new.up_bias));
            assert_eq!(up.len(), found.len() * bias.len());
            for (row, found) in up.chunks(bias.len()).zip(found) {
                let wanted: f64 = row.iter().zip(&bias).map(|(u, b)| u * b).sum::<f64>() * old.scale;
                assert!((wanted - found).abs() <= wanted.abs() * 6e-8 + 1e-12, "{wanted} {found}");
            }
        }
    }
    // What reads the states is none.
    let files = load("loreft_trained");
    let adapter = read(&files.iter().collect(), &said()).unwrap().adapter;
    assert!(write(&adapter, FormatId::Gguf, &WriteOptions::default()).is_err());
}

/// pyvene takes heads by numbers that are given when the model runs.
#[test]
fn a_site_of_every_head_is_not_written() {
    let files = load("loreft_trained");
    let mut adapter = read(&files.iter().collect(), &said()).unwrap().adapter;
    for edit in &mut adapter.edits {
        let Edit::Intervention(edit) = edit else { panic!("{edit:?}") };
        edit.site = Site::Layer { layer: 1, component: SiteComponent::HeadQueryOutput };
    }
    let refused = write(&adapter, FormatId::Pyreft, &WriteOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("which heads"), "{refused}");
}
