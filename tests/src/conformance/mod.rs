//! The conformance vectors of `spec/conformance`: made here, committed there, so that a change of either shows.
//!
//! | folder | holds |
//! |---|---|
//! | `valid/` | files without any finding, each with its model dump beside it |
//! | `warned/` | valid files with findings that are no errors; the file's name begins with the code |
//! | `invalid/` | files with findings of one error code and no other; the file's name begins with it |
//!
//! Valid files come from the model and core's writer. Invalid ones are valid ones taken apart, damaged and written by
//! [`file::File`], a second writer, since core refuses to write them.

mod changes;
mod container;
mod edits;
pub mod file;
mod interventions;
mod manifest;
mod parts;
mod provenance;
mod targets;
mod valid;
mod valid_changes;
mod valid_dense;
mod valid_interventions;
mod warned;

/// A file for readers to read or to refuse.
pub struct Vector {
    /// `valid`, `warned` or `invalid`.
    pub folder: &'static str,
    /// File name without extension; begins with the code of the expected finding, where there is one.
    pub name: String,
    /// The one code that is found; none in a valid file.
    pub code: Option<&'static str>,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Vector {
    fn invalid((code, what, bytes): Coded) -> Self {
        Self { folder: "invalid", name: format!("{code}-{what}"), code: Some(code), bytes }
    }

    /// The name of the file in its folder.
    pub fn file_name(&self) -> String {
        let extension = if self.folder == "invalid" { "safetensors" } else { "fitment.safetensors" };
        format!("{}.{extension}", self.name)
    }
}

/// Files of one code, by what is special about each.
pub(crate) type Coded = (&'static str, &'static str, Vec<u8>);

/// The vectors that are committed.
pub fn vectors() -> Vec<Vector> {
    let valid = valid::files()
        .into_iter()
        .chain(valid_dense::files())
        .chain(valid_interventions::files())
        .chain(valid_changes::files());
    let valid =
        valid.map(|(name, bytes)| Vector { folder: "valid", name: name.to_owned(), code: None, bytes });
    let warned = warned::files().into_iter().map(Vector::invalid);
    let invalid = [
        container::files(),
        manifest::files(),
        provenance::files(),
        targets::files(),
        edits::files(),
        interventions::files(),
        changes::files(),
    ];
    valid
        .chain(warned.map(|vector| Vector { folder: "warned", ..vector }))
        .chain(invalid.into_iter().flatten().map(Vector::invalid))
        .collect()
}

/// Invalid files that are too large to be committed.
pub fn large_vectors() -> Vec<Vector> {
    let files = [container::large_files(), targets::large_files(), interventions::large_files()];
    files.into_iter().flatten().map(Vector::invalid).collect()
}
