use fitment_core::json::to_canonical;
use fitment_core::{Depth, check, manifest as wire};

/// Any text as a manifest, with `bytes` as the data behind it.
///
/// A manifest without a finding is its own canonical form, and the check of a whole file around it ends in findings,
/// never in a panic.
pub fn manifest(text: &str) {
    if let Ok((manifest, findings)) = wire::parse(text)
        && findings.is_empty()
    {
        let value = serde_json::to_value(&manifest).expect("wire types serialise");
        assert_eq!(to_canonical(&value), text);
    }
    // A few stored tensors, so that rules about shapes and rows have something to look at.
    super::container(&file_around(text));
    let _ = check(&file_around(text), Depth::Values);
}

fn file_around(text: &str) -> Vec<u8> {
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    let shape = |dims: &[u64]| Shape::new(dims).expect("small");
    let factor = Tensor::owned(Dtype::F32, shape(&[2, 2]), vec![0u8; 16]).expect("16 bytes");
    let rows = Tensor::owned(Dtype::I64, shape(&[2]), vec![0u8; 16]).expect("16 bytes");
    let tensors = [
        ("a::0.lora.up".to_owned(), &factor),
        ("a::0.lora.down".to_owned(), &factor),
        ("a::0.set.value".to_owned(), &factor),
        ("a::0.set.rows".to_owned(), &rows),
    ];
    let named = tensors.into_iter().filter(|(name, _)| text.contains(name.as_str()));
    let metadata = [("fitment".to_owned(), text.to_owned())].into();
    let mut bytes = Vec::new();
    fitment_core::container::write_container(&metadata, named, &mut bytes).expect("memory takes all");
    bytes
}
