//! Fitment files themselves: read, bound to a base, and repaired where only the canonical form was lost.
//!
//! | file | what |
//! |---|---|
//! | `NAME.fitment.safetensors` | everything; recognised by the key `fitment` in its metadata, never by its name |
//!
//! Tools that re-save safetensors keep manifest and tensors but not their order, padding or spelling: such a file is
//! read, with the departures as findings. What the manifest says is never mended.

mod owned;

use crate::bind::bind;
use crate::each::each;
use crate::error::Error;
use crate::files::{Content, Files, OutputFile};
use crate::read::{Converted, ReadOptions};
use crate::write::{WriteOptions, Written};
use fitment_core::check::check_each;
use fitment_core::container::{read_foreign, write_container};
use fitment_core::finding::rules;
use fitment_core::json::{parse, to_canonical};
use fitment_core::tensor::Tensor;
use fitment_core::{
    Adapter, Depth, Finding, Report, Severity, encode_checked_each, is_fitment, read_checked,
};
use std::collections::BTreeMap;

/// The name of an output file that the user did not name.
const FILE_NAME: &str = "adapter.fitment.safetensors";

/// Whether one of the files, and only one, is a Fitment file.
pub(crate) fn detect(files: &Files<'_>) -> bool {
    the_file(files).is_some()
}

fn the_file<'a>(files: &Files<'a>) -> Option<&'a [u8]> {
    let mut found = files.iter().map(|(_, bytes)| bytes).filter(|b| is_fitment(b, b.len() as u64));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Reads a Fitment file; with a base, binds it.
///
/// # Errors
/// [`Error::Core`] when the file breaks a rule that re-saving cannot have broken; [`Error::Malformed`] when a digest or the
/// content id is not the recorded one, or a weight is not finite; [`Error::Mismatch`] and
/// [`Error::Unmapped`] when the base is not the one of the file.
pub(crate) fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let single = files.iter().next().map(|(_, bytes)| bytes).filter(|_| files.len() == 1);
    let Some(bytes) = the_file(files).or(single) else {
        return Err(Error::NotDetected { looked_for: "one Fitment file".to_owned() });
    };
    let depth = if options.unverified { Depth::Structure } else { Depth::Values };
    let report = check_each(bytes, depth, &each);
    undamaged(&report)?;
    // Every digest and the id itself were just computed: `is_damage` would have found another.
    let id = report.manifest.as_ref().map(|manifest| manifest.id.clone()).filter(|_| depth == Depth::Values);
    let (mut adapter, findings) = adapter_of(bytes, report)?;
    if let Some(name) = options.base_name {
        adapter.base.name = Some(name.to_owned());
    }
    if let Some(base) = options.base {
        bind(&mut adapter, base)?;
    }
    // Binding may make of a new tensor one that is there: another edit.
    Ok(Converted { adapter, losses: Vec::new(), findings, id: id.filter(|_| options.base.is_none()) })
}

/// Looks at the values of the one Fitment file among the files.
///
/// # Errors
/// [`Error::Malformed`].
pub(crate) fn verify(files: &Files<'_>) -> Result<(), Error> {
    let bytes = the_file(files).ok_or(Error::NotDetected { looked_for: "one Fitment file".to_owned() })?;
    undamaged(&check_each(bytes, Depth::Values, &each))
}

fn undamaged(report: &Report) -> Result<(), Error> {
    let damage: Vec<Finding> = report.findings.iter().filter(|finding| is_damage(finding)).cloned().collect();
    if damage.is_empty() { Ok(()) } else { Err(Error::Malformed { findings: damage }) }
}

/// Whether a breach is no matter of form: the tensors or edits are not the ones that were written, or are no numbers.
/// Whatever is made of such a file would carry the damage on under a digest of its own.
fn is_damage(finding: &Finding) -> bool {
    [rules::M_DIGEST.code, rules::M_CONTENT_ID.code, rules::E_NOT_FINITE.code].contains(&finding.code)
}

/// The adapter of a file that was checked, repaired where only the canonical form was lost, and what was repaired. Damage
/// to the values does not stop it: a validator goes on to the fit, everyone else uses [`crate::read()`].
///
/// # Errors
/// [`Error::Core`] when the file breaks a rule that re-saving cannot have broken.
pub fn adapter_of(bytes: &[u8], mut report: Report) -> Result<(Adapter<'_>, Vec<Finding>), Error> {
    report.findings.retain(|finding| !is_damage(finding));
    let findings = report.findings.clone();
    let error = match read_checked(bytes, report) {
        Ok(adapter) => return Ok((adapter, findings)),
        Err(error) => error,
    };
    let Some(repaired) = canonical_again(bytes) else { return Err(error.into()) };
    let Ok(adapter) = fitment_core::read(&repaired) else { return Err(error.into()) };
    let bent = |finding: Finding| Finding { severity: Severity::Warning, ..finding };
    Ok((owned::owned(adapter), findings.into_iter().map(bent).collect()))
}

/// The file with its header and manifest written canonically; `None` when there is no manifest to be found.
fn canonical_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let container = read_foreign(bytes).ok()?;
    let manifest = to_canonical(&parse(container.metadata_text("fitment")?.as_bytes()).ok()?);
    let mut tensors = Vec::new();
    for entry in container.entries() {
        let data = bytes.get(container.data_range(entry))?;
        tensors.push((entry.name.clone(), Tensor::borrowed(entry.dtype, entry.shape.clone(), data).ok()?));
    }
    let metadata = BTreeMap::from([("fitment".to_owned(), manifest)]);
    let mut repaired = Vec::new();
    write_container(&metadata, tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &mut repaired)
        .ok()?;
    Some(repaired)
}

/// Lays an adapter out as a Fitment file. Never loses anything.
///
/// # Errors
/// [`Error::Core`] when the adapter breaks a rule of the format.
pub(crate) fn write<'a>(adapter: &Adapter<'a>, _options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let encoded = encode_checked_each(adapter, &each)?;
    let metadata = BTreeMap::from([("fitment".to_owned(), encoded.text())]);
    let content = Content::Container { metadata, tensors: encoded.tensors.into_iter().collect() };
    let files = vec![OutputFile { path: FILE_NAME.to_owned(), content }];
    Ok(Written { files, losses: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::error::Error;
    use crate::files::Files;
    use crate::read::ReadOptions;
    use fitment_core::model::{Adapter, Add, Edit, Origin, Target, TensorName};
    use fitment_core::tensor::{Dtype, Shape, Tensor};

    #[test]
    fn the_id_is_that_of_the_adapter_and_a_flipped_bit_is_not_carried_on() {
        let value =
            Tensor::owned(Dtype::F32, Shape::new(&[2]).unwrap(), vec![0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
        let target = Target::whole(TensorName::new("a").unwrap());
        let edit = Add { target, scale: 1.0, value, exceptions: None, origin: Origin::default() };
        let adapter = Adapter { edits: vec![Edit::Add(edit)], ..Adapter::default() };
        let sound = fitment_core::to_bytes(&adapter).unwrap();
        let files: Files<'_> = [("a.fitment.safetensors", &sound[..])].into_iter().collect();
        let id = read(&files, &ReadOptions::default()).unwrap().id;
        assert_eq!(id, Some(fitment_core::encode_checked(&adapter).unwrap().manifest.id));
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let code = |bytes: &[u8]| {
            let files: Files<'_> = [("a.fitment.safetensors", bytes)].into_iter().collect();
            match read(&files, &ReadOptions::default()) {
                Ok(_) => None,
                Err(Error::Malformed { findings }) => Some(findings[0].code.0),
                Err(other) => panic!("{other}"),
            }
        };
        let mut rewritten = sound.clone();
        let scale = sound.windows(10).position(|text| text == br#"\"scale\":"#).unwrap();
        rewritten[scale + 10] = b'3';
        assert_eq!((code(&sound), code(&flipped), code(&rewritten)), (None, Some("M014"), Some("M015")));
    }
}
