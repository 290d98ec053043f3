use fitment_convert::{Files, FormatId, ReadOptions, WriteOptions, read, write};

/// Any bytes as a GGUF file: what is read goes back byte for byte.
pub fn gguf(bytes: &[u8]) {
    let files: Files<'_> = [("vector.gguf", bytes)].into_iter().collect();
    let options = ReadOptions { from: Some(FormatId::Gguf), ..ReadOptions::default() };
    let Ok(converted) = read(&files, &options) else { return };
    let fitment = fitment_core::to_bytes(&converted.adapter).expect("what is read can be written");
    let adapter = fitment_core::read(&fitment).expect("what is written can be read");
    let written = write(&adapter, FormatId::Gguf, &WriteOptions::default()).expect("it came from there");
    let mut back = Vec::new();
    written.files[0].write_to(&mut back).expect("memory takes all");
    assert!(back == bytes, "the file comes back otherwise");
}
