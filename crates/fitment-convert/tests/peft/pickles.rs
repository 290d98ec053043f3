//! PEFT folders whose weights are a torch file that cannot be taken.

use crate::fixture::root;
use fitment_convert::{Error, Files, ReadOptions, read};
use std::fs;
use std::path::Path;

fn hostile(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch/hostile").join(name)).unwrap()
}

fn error(weights: &[u8]) -> Error {
    let config = fs::read(root().join("linear/adapter/adapter_config.json")).unwrap();
    let files: Files<'_> =
        [("adapter_config.json", &config[..]), ("adapter_model.bin", weights)].into_iter().collect();
    read(&files, &ReadOptions::default()).unwrap_err()
}

#[test]
fn code_in_a_pickle_is_named_in_one_line_with_a_way_out() {
    let error = error(&hostile("nested.bin"));
    assert_eq!(
        error.to_string(),
        "error[T001] adapter_model.bin: archive/data.pkl, byte 211: the pickle names posix.system, which no weights need: \
         nothing was run"
    );
    assert!(error.hint().unwrap().ends_with("ask for the weights as safetensors."), "{:?}", error.hint());
}

#[test]
fn every_hostile_file_is_refused_with_a_code_of_its_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch/hostile");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".bin") {
            let Error::Malformed { findings } = error(&hostile(&name)) else { panic!("{name}") };
            assert!(findings.iter().all(|finding| finding.code.0.starts_with('T')), "{name}: {findings:?}");
        }
    }
}

#[test]
fn a_checkpoint_is_no_flat_dict_of_tensors() {
    let nested = fs::read(root().join("../torch/sound/checkpoint.bin")).unwrap();
    assert_eq!(
        error(&nested).to_string().split(" (and").next().unwrap(),
        "error[P012] optimizer.param_groups.0.lr: is no tensor: a flat dict of tensors is expected"
    );
}

#[test]
fn of_unknown_files_the_dangerous_one_is_told() {
    let bytes = hostile("reduce_plain_0.bin");
    let files: Files<'_> = [("model.pt", &bytes[..])].into_iter().collect();
    let error = read(&files, &ReadOptions::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("error[T001] model.pt: byte 0: the pickle names posix.system"),
        "{error}"
    );
    let sound = fs::read(root().join("../torch/sound/zip_2.bin")).unwrap();
    let files: Files<'_> = [("model.pt", &sound[..])].into_iter().collect();
    assert!(matches!(read(&files, &ReadOptions::default()), Err(Error::NotDetected { .. })));
}
