use fitment_torch::{Archive, Item, TorchFile};

/// Any bytes as a torch file.
///
/// What is refused is refused in one line, with a finding. What is taken can be written, and reads back as the same
/// tensors.
pub fn torch(bytes: &[u8]) {
    let state = match TorchFile::read("x.bin", bytes).and_then(|file| file.state_dict()) {
        Ok(state) => state,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(!error.findings().is_empty());
            return;
        }
    };
    let items: Vec<Item<'_>> =
        state.tensors.iter().map(|named| Item::new(named.name.as_str(), named.tensor.clone())).collect();
    let archive = Archive::new("again", &items).expect("what was read can be written");
    let mut again = Vec::new();
    archive.write_to(&mut again).expect("memory takes all");
    assert_eq!(again.len() as u64, archive.byte_len());
    let read = TorchFile::read("again.bin", &again).expect("what was written can be read");
    let back = read.state_dict().expect("what was written is a state dict");
    assert_eq!(back.tensors.len(), items.len());
    for (ours, theirs) in back.tensors.iter().zip(&items) {
        assert_eq!(ours.name, theirs.name);
        assert_eq!((ours.tensor.dtype(), ours.tensor.dims()), (theirs.tensor.dtype(), theirs.tensor.dims()));
        assert!(ours.tensor.bytes() == theirs.tensor.bytes(), "{}", ours.name);
    }
}

/// Any bytes as the pickle of a small archive: the way to the interpreter without a checksum before it.
pub fn torch_pickle(pickle: &[u8]) {
    torch(&archive_of(pickle));
}

/// An archive by hand: `x/data.pkl`, `x/data/0` of 24 bytes.
fn archive_of(pickle: &[u8]) -> Vec<u8> {
    let members: [(&str, &[u8]); 2] = [("x/data.pkl", pickle), ("x/data/0", &[7; 24])];
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = bytes.len() as u32;
        // Version, no flags, stored, midnight of 1980; a CRC-32 of 0 is one that was not counted.
        let mut fields = [[20, 0, 0, 0, 0, 0], [0, 0, 33, 0, 0, 0]].concat();
        fields.extend([0, 0]);
        for number in [data.len() as u32, data.len() as u32] {
            fields.extend(number.to_le_bytes());
        }
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.as_bytes());
        bytes.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00\x02\x00\x02\x00");
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}
