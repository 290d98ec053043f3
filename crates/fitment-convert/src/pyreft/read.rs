use super::class::{Class, Kept};
use super::folder::{self, CONFIG, Folder, MODEL, Member};
use super::rules;
use super::said::{Said, missing};
use crate::bind::{bind, check_sites};
use crate::error::Error;
use crate::files::{Files, is_safe_path, kept_bytes};
use crate::formats::Ask;
use crate::loss::Loss;
use crate::read::{Converted, ReadOptions};
use crate::several;
use crate::wrapped;
use fitment_core::model::{Base, Edit, Intervention, KeptTensor, Positions, Source, SourceFile};
use fitment_core::tensor::Tensor;
use fitment_core::{Adapter, Finding, Severity};
use std::collections::BTreeSet;

/// Reads a folder: edits of what was trained of the model, and an intervention for each file, in the order of the config.
///
/// # Errors
/// [`Error::Malformed`]; [`Error::Unsupported`] for other classes and units; [`Error::Ambiguous`] where an option must say
/// what the folder does not; [`Error::Mismatch`] for a base of another size.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let said = Said::of(options)?;
    let mut folder = folder::open(files, options.adapter_name)?;
    let mut findings = std::mem::take(&mut folder.findings);
    if let Some(other) = findings.iter().find(|finding| finding.code == rules::R_UNSUPPORTED.code) {
        return Err(Error::Unsupported {
            what: other.place.clone(),
            reason: other.message.clone(),
            hint: "convert the folder without it, or train it as one of the six classes on whole states of positions".to_owned(),
        });
    }
    fail_on_errors(&mut findings)?;
    let classes = classes(&folder, &said)?;
    let asks = classes.iter().any(|class| class.has_activation());
    if let (false, Some(Some(_))) = (asks, said.activation) {
        return Err(Error::no_use(Ask::Activation, "this folder", "its classes have none"));
    }
    if let Some(error) = missing(said.positions.is_none(), asks && said.activation.is_none(), None) {
        return Err(error);
    }
    check_untied(&folder, &said, options)?;
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
    let (source_files, mut losses) = carried(files, &folder, options.keep_files);
    let trained = trained(&mut folder, options)?;
    let of_weights = trained.is_some();
    let mut adapter = Adapter {
        base: Base { name: options.base_name.map(str::to_owned), ..Base::default() },
        ..Adapter::default()
    };
    if let Some(trained) = trained {
        losses.extend(trained.losses);
        findings.extend(trained.findings);
        (adapter.base, adapter.edits) = (trained.adapter.base, trained.adapter.edits);
        kept.extend(trained.adapter.source.map(|source| source.kept).unwrap_or_default());
    }
    // They see the edited model.
    adapter.edits.extend(edits.into_iter().map(Edit::Intervention));
    adapter.source = Some(Source {
        format: "pyreft".to_owned(),
        weights: Some("torch".to_owned()),
        files: source_files,
        kept,
        ..Source::default()
    });
    match options.base {
        Some(base) if of_weights => check_sites(&adapter, base)?,
        Some(base) => bind(&mut adapter, base)?,
        None => {}
    }
    Ok(Converted { adapter, losses, findings, id: None })
}

/// What was trained of the model itself.
fn trained<'a>(folder: &mut Folder<'a>, options: &ReadOptions<'_>) -> Result<Option<Converted<'a>>, Error> {
    let model = std::mem::take(&mut folder.model);
    match options.alpha {
        Some(_) if model.is_empty() => {
            Err(Error::no_use(Ask::Alpha, "this folder", format!("it has no LoRA factors in a {MODEL}")))
        }
        _ if model.is_empty() => Ok(None),
        alpha => wrapped::read(model.into_iter().collect(), alpha, options).map(Some),
    }
}

fn fail_on_errors(findings: &mut Vec<Finding>) -> Result<(), Error> {
    if findings.iter().all(|finding| finding.severity != Severity::Error) {
        return Ok(());
    }
    findings.retain(|finding| finding.severity == Severity::Error);
    Err(Error::Malformed { findings: std::mem::take(findings) })
}

/// Prefix and suffix of an untied adapter are two modules at every place.
fn check_untied(folder: &Folder<'_>, said: &Said, options: &ReadOptions<'_>) -> Result<(), Error> {
    if !said.positions.as_ref().is_some_and(|positions| positions.untied) {
        return Ok(());
    }
    let beside =
        |member: &Member<'_>| folder.members.iter().filter(|other| other.site == member.site).count();
    let Some((member, count)) =
        folder.members.iter().map(|member| (member, beside(member))).find(|(_, count)| *count != 2)
    else {
        return Ok(());
    };
    let text = options.positions.unwrap_or_default();
    Err(Error::Option {
        option: format!("--positions {text}"),
        reason: format!(
            "contradicts the files: it asks for two modules at every place, and {} is one of {count}",
            member.file
        ),
        hint: format!("--positions {} gives every module both", text.replace('|', "+")),
    })
}

/// The class of every member; the option decides where keys do not.
fn classes(folder: &Folder<'_>, said: &Said) -> Result<Vec<Class>, Error> {
    let possible = || folder.members.iter().flat_map(|member| member.classes);
    if let Some(class) = said.formula.filter(|class| !possible().any(|other| other == class)) {
        let names: BTreeSet<&str> = possible().map(|class| class.name()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::contradicts(class.name(), &names, "leave it out"));
    }
    let one = |member: &Member<'_>| match member.classes {
        [class] => Ok(*class),
        several => {
            let named = several.iter().find(|class| said.formula == Some(**class));
            let error = || missing(false, false, Some(&member.file)).expect("a formula is missing");
            named.copied().ok_or_else(error)
        }
    };
    folder.members.iter().map(one).collect()
}

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
        let Some(same) = before.iter().find(|edit| same_tensors(edit, later)) else { continue };
        later.up.clone_from(&same.up);
        later.source_weight.clone_from(&same.source_weight);
        later.source_bias.clone_from(&same.source_bias);
        later.proj_bias.clone_from(&same.proj_bias);
    }
}

fn same_tensors(a: &Intervention<'_>, b: &Intervention<'_>) -> bool {
    let (a, b) = (a.tensors(), b.tensors());
    let same = |((role, ours), (other, theirs)): (&(&str, &Tensor<'_>), &(&str, &Tensor<'_>))| {
        role == other
            && (ours.dtype(), ours.shape()) == (theirs.dtype(), theirs.shape())
            && ours.bytes() == theirs.bytes()
    };
    a.len() == b.len() && a.iter().zip(&b).all(same)
}

/// The config, and with `keep` every other file; what is left out otherwise.
fn carried<'a>(files: &Files<'a>, folder: &Folder<'a>, keep: bool) -> (Vec<SourceFile<'a>>, Vec<Loss>) {
    let file = |path: &str, bytes| Some(SourceFile { path: path.to_owned(), data: kept_bytes(bytes)? });
    let mut kept: Vec<SourceFile<'a>> =
        folder.config.and_then(|config| file(CONFIG, config)).into_iter().collect();
    let mut losses: Vec<Loss> = several::left(&folder.others).collect();
    let rest = files
        .iter()
        .filter(|(path, _)| !folder.used.contains(*path) && !several::is_of_another(&folder.others, path));
    for (path, bytes) in rest {
        match file(path, bytes).filter(|_| keep && is_safe_path(path) && path != CONFIG) {
            Some(file) => kept.push(file),
            None => losses.push(Loss::FileLeft { path: path.to_owned() }),
        }
    }
    let parametrised = |member: &Member<'_>| member.tensors.keys().any(|key| key.ends_with("weight.0.base"));
    if folder.members.iter().any(parametrised) {
        let what = "the d×d base of orthogonal parametrisations, of which d×r matters,";
        losses.push(Loss::FactsLeft { what });
    }
    (kept, losses)
}
