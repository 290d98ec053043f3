use fitment_convert::{Error, Files, FormatId, Loss, ReadOptions, WriteOptions};
use fitment_core::{Depth, check, to_bytes};

/// Any bytes as the two files of a PEFT adapter: a config, a zero byte, a weight file.
///
/// What the reader takes can be written as a Fitment file without an error, and what comes back from it are the same
/// files, or told to be others.
pub fn peft(bytes: &[u8]) {
    let Some(at) = bytes.iter().position(|byte| *byte == 0) else { return };
    let (config, weights) = (&bytes[..at], &bytes[at + 1..]);
    let files: Files<'_> =
        [("adapter_config.json", config), ("adapter_model.safetensors", weights)].into_iter().collect();
    let _ = fitment_convert::peft::check(&files, None);
    let options = ReadOptions { from: Some(FormatId::Peft), ..ReadOptions::default() };
    let Ok(converted) = fitment_convert::read(&files, &options) else { return };
    let file = to_bytes(&converted.adapter).expect("what was read can be written");
    let report = check(&file, Depth::Values);
    // Weights that are not finite and untrained factors are findings of the values, known to the reader's findings too.
    let structural = report.errors().filter(|finding| !finding.code.0.starts_with("E01")).count();
    assert_eq!(structural, 0, "{:?}", report.findings);
    let adapter = fitment_core::read(&file).expect("a file without a breach reads");
    let back = match fitment_convert::write(&adapter, FormatId::Peft, &WriteOptions::default()) {
        // Which way round PEFT has an older layout today, only the base may tell.
        Err(Error::Ambiguous { .. }) => return,
        back => back.expect("peft takes it back"),
    };
    // Said, it may come back otherwise: factors of experts in today's layout.
    if back.losses.iter().any(|loss| matches!(loss, Loss::ConfigRemade { .. })) {
        return;
    }
    let written = |name: &str| {
        let file = back.files.iter().find(|file| file.path.ends_with(name)).expect("the same files");
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).expect("memory takes all");
        bytes
    };
    assert!(written("adapter_config.json") == config, "the config came back changed");
    let (ours, theirs) = (written("adapter_model.safetensors"), weights);
    let (ours, theirs) = (tensors(&ours), tensors(theirs));
    assert_eq!(ours, theirs, "the weights came back changed");
}

/// The two files of an adapter as the one input of [`peft`].
pub fn join_peft(config: &[u8], weights: &[u8]) -> Vec<u8> {
    [config, b"\0", weights].concat()
}

fn tensors(bytes: &[u8]) -> Vec<(String, String, Vec<u8>)> {
    let container = fitment_core::container::read_foreign(bytes).expect("sound weights");
    let mut tensors: Vec<_> = container
        .entries()
        .iter()
        .map(|entry| {
            let kind = format!("{} {}", entry.dtype, entry.shape);
            (entry.name.clone(), kind, bytes[container.data_range(entry)].to_vec())
        })
        .collect();
    tensors.sort();
    tensors
}
