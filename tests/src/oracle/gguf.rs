use fitment_convert::gguf::Model;
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

/// Any bytes as a GGUF model: every tensor that it says to have lies in the file, and is decoded to its own size or refused.
pub fn gguf_model(bytes: &[u8]) {
    let Ok(model) = Model::read(bytes, bytes.len() as u64) else { return };
    for (name, info) in model.tensors() {
        let range = model.range(name).expect("a tensor lies somewhere");
        let place = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = place.and_then(|(start, end)| bytes.get(start..end)).expect("it lies inside the file");
        let size = info.shape.byte_len(info.dtype).unwrap_or(u64::MAX);
        if let Ok(decoded) = model.decode(name, part) {
            assert_eq!(decoded.len() as u64, size, "{name}");
        }
    }
}
