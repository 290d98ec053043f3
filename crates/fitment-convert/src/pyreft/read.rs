use super::class::Class;
use super::folder::{self, CONFIG, Folder, Member};
use super::rules;
use super::said::{Said, missing};
use crate::error::Error;
use crate::files::{Files, is_safe_path};
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use fitment_core::model::{Base, Edit, Intervention, KeptTensor, Positions, Source, SourceFile};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_core::{Adapter, Finding, Severity};

/// Reads a folder: an intervention for each file, in the order of the config.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for other classes and units; [`Error::Ambiguous`] where an option must say
/// what the folder does not.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let said = Said::of(options)?;
    let mut folder = folder::open(files);
    let mut findings = std::mem::take(&mut folder.findings);
    if let Some(other) = findings.iter().find(|finding| finding.code == rules::R_UNSUPPORTED.code) {
        return Err(Error::Unsupported {
            what: other.place.clone(),
            reason: other.message.clone(),
            hint: "convert the folder without it, or write it again as one of the six classes".to_owned(),
        });
    }
    fail_on_errors(&mut findings)?;
    let classes = classes(&folder, &said)?;
    let asks = classes.iter().any(|class| class.has_activation());
    if let Some(error) = missing(said.positions.is_none(), asks && said.activation.is_none(), None) {
        return Err(error);
    }
    let (mut edits, mut kept) = (Vec::new(), Vec::new());
    for (member, class) in folder.members.iter().zip(classes) {
        match intervention(member, class, &said, &mut findings) {
            Ok((edit, unused)) => {
                let file = &member.file;
                kept.extend(
                    unused.into_iter().map(|(key, value)| KeptTensor { key: format!("{file}/{key}"), value }),
                );
                edits.push(edit);
            }
            Err(finding) => findings.push(finding),
        }
    }
    fail_on_errors(&mut findings)?;
    share(&mut edits);
    let (source_files, losses) = carried(files, &folder, options.keep_files)?;
    let source = Source {
        format: "pyreft".to_owned(),
        weights: Some("torch".to_owned()),
        files: source_files,
        kept,
        ..Source::default()
    };
    let base = Base { name: options.base_name.map(str::to_owned), ..Base::default() };
    let edits = edits.into_iter().map(Edit::Intervention).collect();
    Ok(Converted {
        adapter: Adapter { base, edits, source: Some(source), ..Adapter::default() },
        losses,
        findings,
    })
}

fn fail_on_errors(findings: &mut Vec<Finding>) -> Result<(), Error> {
    if findings.iter().all(|finding| finding.severity != Severity::Error) {
        return Ok(());
    }
    findings.retain(|finding| finding.severity == Severity::Error);
    Err(Error::Malformed { findings: std::mem::take(findings) })
}

/// The class of every member; the option decides where keys do not.
fn classes(folder: &Folder<'_>, said: &Said) -> Result<Vec<Class>, Error> {
    let one = |member: &Member<'_>| match member.classes {
        [class] => Ok(*class),
        several => {
            let named = several.iter().find(|class| said.formula.as_deref() == Some(class.name()));
            let error = || missing(false, false, Some(&member.file)).expect("a formula is missing");
            named.copied().ok_or_else(error)
        }
    };
    folder.members.iter().map(one).collect()
}

type Kept<'a> = Vec<(String, Tensor<'a>)>;

fn intervention<'a>(
    member: &Member<'a>,
    class: Class,
    said: &Said,
    findings: &mut Vec<Finding>,
) -> Result<(Intervention<'a>, Kept<'a>), Finding> {
    let positions = said.positions.as_ref().map_or(Positions::EVERYWHERE, |said| said.of(member.number));
    let mut edit = Intervention::at(member.site.clone(), positions);
    if class.has_activation() {
        edit.activation = said.activation.flatten();
    }
    let kept = class.fill(&mut edit, &member.tensors, (&member.file, findings))?;
    Ok((edit, kept))
}

/// Linked interventions have the same tensors in several files: they become one.
fn share(edits: &mut [Intervention<'_>]) {
    for later in 1..edits.len() {
        let (before, rest) = edits.split_at_mut(later);
        let later = &mut rest[0];
        let roles = |edit: &Intervention<'_>| {
            edit.tensors()
                .into_iter()
                .map(|(role, t)| (role, t.dtype(), t.dims().to_vec(), t.bytes().to_vec()))
                .collect::<Vec<_>>()
        };
        let ours = roles(later);
        if let Some(same) = before.iter().find(|edit| roles(edit) == ours) {
            later.up.clone_from(&same.up);
            later.source_weight.clone_from(&same.source_weight);
            later.source_bias.clone_from(&same.source_bias);
            later.proj_bias.clone_from(&same.proj_bias);
        }
    }
}

/// The config, and with `keep` every other file; what is left out otherwise.
fn carried<'a>(
    files: &Files<'a>,
    folder: &Folder<'a>,
    keep: bool,
) -> Result<(Vec<SourceFile<'a>>, Vec<Loss>), Error> {
    let (mut kept, mut losses) = (Vec::new(), Vec::new());
    let mut keep_file = |path: &str, bytes: &'a [u8]| -> Result<(), Error> {
        let invalid = |source| fitment_core::Error::Shape { name: path.to_owned(), source };
        let shape = Shape::new(&[bytes.len() as u64]).map_err(invalid)?;
        let data = Tensor::borrowed(Dtype::U8, shape, bytes).map_err(invalid)?;
        kept.push(SourceFile { path: path.to_owned(), data });
        Ok(())
    };
    if let Some(config) = folder.config {
        keep_file(CONFIG, config)?;
    }
    for (path, bytes) in files.iter().filter(|(path, _)| !folder.used.contains(*path)) {
        match keep && is_safe_path(path) {
            true => keep_file(path, bytes)?,
            false => losses.push(Loss::FileLeft { path: path.to_owned() }),
        }
    }
    let parametrised = |member: &Member<'_>| member.tensors.keys().any(|key| key.ends_with("weight.0.base"));
    if folder.members.iter().any(parametrised) {
        losses.push(Loss::FactsLeft {
            what: "the d×d base of orthogonal parametrisations, of which d×r matters,",
        });
    }
    Ok((kept, losses))
}
