use super::checksum::Checksum;
use super::edits::Changed;
use super::encoding::{Encoding, Overwrite, count_by_length, length_fault};
use super::folder::{self, BASE_VERSION, Delta, Folder, VERSION};
use super::rules;
use crate::bind::{bind, describe, unmapped};
use crate::error::{Clash, Error};
use crate::files::{self, Files};
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use crate::several;
use fitment_core::checkpoint::{Checkpoint, TensorInfo};
use fitment_core::finding::Rule;
use fitment_core::model::{Base, Edit, Source, SourceFile, Target, TensorName};
use fitment_core::{Adapter, Finding, Severity};
use fitment_math::frame;

/// Reads a version on the base that it changes: an edit for each tensor that gets other bytes, bound to that base.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for encodings that are not known, and for changes of bits where no
/// compressor is built in; [`Error::Ambiguous`] without a base; [`Error::Unmapped`] and [`Error::Mismatch`] for a base
/// without the tensors or of other sizes; [`Error::WrongBase`] for one of other bytes.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let mut folder = folder::open(files, options.adapter_name)?;
    let findings = sound(&mut folder)?;
    let (Some(encoding), Some(checksum)) = (folder.encoding, folder.checksum) else {
        return Err(Error::Malformed { findings });
    };
    let mut adapter = Adapter {
        base: Base { name: options.base_name.map(str::to_owned), ..Base::default() },
        ..Adapter::default()
    };
    match options.base {
        Some(base) => {
            adapter.edits = Reader { folder: &folder, base, encoding, checksum }.edits()?;
            bind(&mut adapter, base)?;
        }
        // Nothing changed, whatever the base.
        None if folder.deltas.is_empty() => {}
        None => return Err(no_base(&folder)),
    }
    let (kept, losses) = beside(files, &folder, options.keep_files);
    adapter.source = Some(Source {
        format: "slime".to_owned(),
        files: kept,
        metadata: folder.metadata,
        ..Source::default()
    });
    Ok(Converted { adapter, losses, findings, id: None })
}

/// What the files bend, where they break nothing.
fn sound(folder: &mut Folder<'_>) -> Result<Vec<Finding>, Error> {
    let (errors, findings): (Vec<_>, Vec<_>) = std::mem::take(&mut folder.findings)
        .into_iter()
        .partition(|finding| finding.severity == Severity::Error);
    if let Some(other) = errors.iter().find(|finding| finding.code == rules::S_UNSUPPORTED.code) {
        return Err(Error::Unsupported {
            what: other.place.clone(),
            reason: other.message.clone(),
            hint: rules::S_UNSUPPORTED.remedy.to_owned(),
        });
    }
    if errors.is_empty() { Ok(findings) } else { Err(Error::Malformed { findings: errors }) }
}

fn no_base(folder: &Folder<'_>) -> Error {
    let version = folder.said(BASE_VERSION);
    Error::Ambiguous {
        what: format!("slime version {}", folder.said(VERSION)),
        reason: format!(
            "it holds changes of bytes; dtypes, shapes and the bytes themselves stand in the checkpoint of version {version}"
        ),
        hint: format!(
            "name that checkpoint with --base: version {version}, 000000 being the one that training began with"
        ),
    }
}

struct Reader<'r, 'a> {
    folder: &'r Folder<'a>,
    base: &'r dyn Checkpoint,
    encoding: Encoding,
    checksum: Checksum,
}

impl<'a> Reader<'_, 'a> {
    fn edits(&self) -> Result<Vec<Edit<'a>>, Error> {
        let deltas = &self.folder.deltas;
        let infos = deltas.iter().map(|delta| (delta, self.base.tensors().get(&delta.name)));
        let missing: Vec<String> =
            infos.clone().filter(|(_, info)| info.is_none()).map(|(delta, _)| delta.name.clone()).collect();
        if !missing.is_empty() {
            return Err(Error::Unmapped { culprits: unmapped(missing, self.base) });
        }
        let pairs: Vec<(&Delta<'a>, &TensorInfo)> =
            infos.filter_map(|(delta, info)| Some((delta, info?))).collect();
        // Before anything is decoded: what a frame announces is then never more than what the tensor has.
        let culprits: Vec<Clash> =
            pairs.iter().filter_map(|(delta, info)| self.size_clash(delta, info)).collect();
        if !culprits.is_empty() {
            return Err(Error::Mismatch { culprits });
        }
        let mut edits = Vec::new();
        for (delta, info) in &pairs {
            edits.extend(self.edit(delta, info)?);
        }
        // overwrite gives the same bytes again.
        match deltas.first().filter(|_| edits.is_empty() && self.is_applied()) {
            Some(first) => Err(self.applied(first)),
            None => Ok(edits),
        }
    }

    fn size_clash(&self, delta: &Delta<'_>, info: &TensorInfo) -> Option<Clash> {
        let bytes = info.shape.byte_len(info.dtype).ok();
        let (fits, expected) = match self.encoding {
            Encoding::Xor => (bytes == Some(delta.content), format!("a tensor of {} bytes", delta.content)),
            Encoding::Overwrite => {
                let count = count_by_length(delta.content);
                let fits = count.is_none_or(|count| bytes.is_some_and(|bytes| count <= bytes));
                (fits, format!("a tensor of {} bytes at least", count.unwrap_or_default()))
            }
        };
        let found = || format!("{}, {} bytes", describe(info), bytes.unwrap_or_default());
        (!fits).then(|| Clash { target: delta.name.clone(), expected, found: found() })
    }

    /// The edit of a tensor, unless it stays as it is.
    fn edit(&self, delta: &Delta<'_>, info: &TensorInfo) -> Result<Option<Edit<'a>>, Error> {
        let base = self.base.read(&delta.name).map_err(Error::Base)?;
        let new = self.new_bytes(delta, info, &base)?;
        let found = self.checksum.hex(&new);
        if found != delta.checksum {
            return Err(if self.is_applied() { self.applied(delta) } else { self.other_base(delta, &found) });
        }
        if new == *base {
            return Ok(None);
        }
        let target = Target::whole(TensorName::new(&*delta.name)?);
        Changed { target, info, base: &base, new }.edit(self.encoding).map(Some)
    }

    fn new_bytes(&self, delta: &Delta<'_>, info: &TensorInfo, base: &[u8]) -> Result<Vec<u8>, Error> {
        let breach = |rule: &Rule, message: String| Error::Malformed {
            findings: vec![Finding::new(rule, &*delta.name, message)],
        };
        if self.encoding == Encoding::Overwrite && count_by_length(delta.content).is_none() {
            return Err(breach(&rules::S_OVERWRITE, length_fault(delta.content)));
        }
        let len = usize::try_from(delta.content).unwrap_or(usize::MAX);
        let content = frame::decompress(delta.frame, len);
        let mut content = content.map_err(|error| breach(&rules::S_FRAME, error.to_string()))?;
        match self.encoding {
            Encoding::Xor => {
                content.iter_mut().zip(base).for_each(|(new, base)| *new ^= base);
                Ok(content)
            }
            Encoding::Overwrite => {
                let changes =
                    Overwrite::parse(&content).map_err(|message| breach(&rules::S_OVERWRITE, message))?;
                if let Some(last) = changes.last().filter(|last| u64::from(*last) >= base.len() as u64) {
                    let target = delta.name.clone();
                    let expected = format!("a tensor with a byte at position {last}");
                    let found = format!("{}, {} bytes", describe(info), base.len());
                    return Err(Error::Mismatch { culprits: vec![Clash { target, expected, found }] });
                }
                let mut new = base.to_vec();
                changes.apply(&mut new);
                Ok(new)
            }
        }
    }

    /// Whether the base has the new bytes of every tensor.
    fn is_applied(&self) -> bool {
        let is_new = |delta: &Delta<'_>| {
            self.base.read(&delta.name).is_ok_and(|bytes| self.checksum.hex(&bytes) == delta.checksum)
        };
        self.folder.deltas.iter().all(is_new)
    }

    fn applied(&self, first: &Delta<'_>) -> Error {
        let version = self.folder.said(VERSION);
        Error::WrongBase {
            finding: Finding::new(
                &rules::S_BASE,
                &*first.name,
                format!("the base has the new bytes of every tensor already: version {version} is applied"),
            ),
            hint: "there is nothing to do; the next version goes on from here".to_owned(),
        }
    }

    fn other_base(&self, delta: &Delta<'_>, found: &str) -> Error {
        let (format, wanted, version) =
            (self.checksum.name(), &delta.checksum, self.folder.said(BASE_VERSION));
        let message = format!(
            "its new bytes have the {format} {found}, the delta records {wanted}: the base is not version {version}, or the folder is damaged"
        );
        Error::WrongBase {
            finding: Finding::new(&rules::S_BASE, &*delta.name, message),
            hint: format!(
                "name the checkpoint of version {version} with --base: versions apply in order, each to the result of the one before"
            ),
        }
    }
}

/// The files beside the version, and the other versions, as [`files::carried`] has it.
fn beside<'a>(files: &Files<'a>, folder: &Folder<'a>, keep: bool) -> (Vec<SourceFile<'a>>, Vec<Loss>) {
    let paths = files.iter().map(|(path, _)| path);
    let known: Vec<&str> = paths
        .filter(|path| folder.used.contains(*path) || several::is_of_another(&folder.others, path))
        .collect();
    let (kept, files_left) = files::carried(files, &known, keep);
    (kept, several::left(&folder.others).chain(files_left).collect())
}
