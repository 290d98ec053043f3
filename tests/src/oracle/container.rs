use fitment_core::container::{Profile, read_header};
use fitment_core::manifest::v1::VERSION;
use fitment_core::{Depth, Severity, check, read_checked, to_bytes};

/// Any bytes as a file.
///
/// What the strict reader takes without a finding, the `safetensors` crate takes too, and sees the same tensors in. A
/// Fitment file without an error has one form: reading and writing gives the same bytes.
pub fn container(bytes: &[u8]) {
    let foreign = read_header(bytes, bytes.len() as u64, Profile::Foreign);
    if let Ok((container, findings)) = &foreign
        && findings.is_empty()
    {
        let theirs = safetensors::SafeTensors::deserialize(bytes);
        match theirs {
            // Its own bounds: 100 MB of header, and offsets in `usize`.
            Err(error) => panic!("we take what safetensors refuses: {error}"),
            Ok(theirs) => {
                assert_eq!(theirs.len(), container.entries().len());
                for entry in container.entries() {
                    let tensor =
                        theirs.tensor(&entry.name).expect("we see a tensor that safetensors does not");
                    assert_eq!(tensor.data(), &bytes[container.data_range(entry)], "{}", entry.name);
                }
            }
        }
    }
    let report = check(bytes, Depth::Values);
    let errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    // A later minor version is read as well, and written as ours.
    let is_ours = report.manifest.as_ref().is_some_and(|manifest| manifest.fitment == VERSION);
    if is_ours && errors == 0 {
        let adapter = read_checked(bytes, report).expect("a file without an error reads");
        let again = to_bytes(&adapter).expect("a file that reads can be written");
        assert!(again == bytes, "reading and writing changed the bytes");
    }
}
