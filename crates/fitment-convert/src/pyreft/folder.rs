//! The files of a folder: config, interventions in order, everything else.

use super::class::{Class, Tensors};
use super::place::{PREFIX, Place, SUFFIX};
use super::rules;
use crate::error::Error;
use crate::files::Files;
use crate::finite;
use crate::several;
use crate::weights;
use fitment_core::Finding;
use fitment_core::json;
use fitment_core::model::Site;
use fitment_torch::TorchFile;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "config.json";
/// What was trained of the model itself.
pub(super) const MODEL: &str = "pytorch_model.bin";

/// One intervention of a folder.
#[derive(Debug)]
pub(super) struct Member<'a> {
    /// Its file, relative to the folder.
    pub(super) file: String,
    pub(super) site: Site,
    /// Its number at its place.
    pub(super) number: u64,
    /// What the config or the tensors say: one, or two that cannot be told apart.
    pub(super) classes: &'static [Class],
    pub(super) tensors: Tensors<'a>,
}

#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    pub(super) prefix: String,
    /// The folders beside it.
    pub(super) others: Vec<String>,
    pub(super) config: Option<&'a [u8]>,
    pub(super) members: Vec<Member<'a>>,
    /// What was trained of the model itself, by its parameters' names.
    pub(super) model: Tensors<'a>,
    /// Paths of all files that were read.
    pub(super) used: BTreeSet<String>,
    pub(super) findings: Vec<Finding>,
}

fn split(path: &str) -> (&str, &str) {
    path.rfind('/').map_or(("", path), |at| path.split_at(at + 1))
}

fn is_intervention(path: &str) -> bool {
    let (_, name) = split(path);
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

pub(super) fn is_there(files: &Files<'_>) -> bool {
    files.iter().any(|(path, _)| is_intervention(path))
}

/// Opens the folder that is meant: a run has one for each checkpoint.
///
/// # Errors
/// [`Error::Ambiguous`] when there are several and none is named, or not the one that is.
pub(super) fn open<'a>(files: &Files<'a>, adapter_name: Option<&str>) -> Result<Folder<'a>, Error> {
    let interventions = files.iter().map(|(path, _)| path).filter(|path| is_intervention(path));
    let mut folders: BTreeSet<String> = interventions.map(|path| split(path).0.to_owned()).collect();
    let prefix = several::choose(&folders, adapter_name)?;
    folders.remove(&prefix);
    let mut folder = Folder { prefix, others: folders.into_iter().collect(), ..Folder::default() };
    let inside = files.iter().filter(|(path, _)| is_intervention(path) && split(path).0 == folder.prefix);
    let mut left: BTreeMap<String, &'a [u8]> =
        inside.map(|(path, bytes)| (split(path).1.to_owned(), bytes)).collect();
    if left.is_empty() {
        folder.findings.push(Finding::new(&rules::R_FILE_MISSING, "", "there is no intkey_….bin"));
        return Ok(folder);
    }
    folder.used = left.keys().map(|name| format!("{}{name}", folder.prefix)).collect();
    let model = format!("{}{MODEL}", folder.prefix);
    if let Some(bytes) = files.get(&model) {
        folder.read_model(&model, bytes);
    }
    let config = format!("{}{CONFIG}", folder.prefix);
    match files.get(&config).map(|bytes| (bytes, json::parse(bytes))) {
        Some((_, Err(fault))) => {
            folder.findings.push(Finding::new(&rules::R_CONFIG, config, fault.to_string()));
            return Ok(folder);
        }
        // The config of a base model may lie there instead.
        Some((bytes, Ok(value))) if value.get("representations").is_some() => {
            folder.config = Some(bytes);
            folder.used.insert(config);
            folder.by_config(&value, &mut left);
        }
        Some((_, Ok(_))) | None => folder.by_names(&mut left),
    }
    folder.check_values();
    for name in left.keys() {
        let message = "the config has no representation for it";
        folder.findings.push(Finding::new(&rules::R_FILE_EXTRA, name.clone(), message));
    }
    Ok(folder)
}

impl<'a> Folder<'a> {
    fn read_model(&mut self, path: &str, bytes: &'a [u8]) {
        self.used.insert(path.to_owned());
        let weights = weights::torch(path, bytes, &rules::R_MODEL);
        self.findings.extend(weights.findings);
        self.model = weights.tensors.into_iter().collect();
    }

    /// What a class computes with is finite.
    fn check_values(&mut self) {
        let tensors = self.members.iter().flat_map(|member| {
            let used =
                member.tensors.iter().filter(|(key, _)| member.classes.iter().any(|class| class.uses(key)));
            used.map(|(key, tensor)| (format!("{}/{key}", member.file), tensor))
        });
        let found = finite::check_all(&tensors.collect::<Vec<_>>());
        self.findings.extend(found);
    }

    fn by_config(&mut self, config: &Value, left: &mut BTreeMap<String, &'a [u8]>) {
        let list = |key: &str| config.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        if list("representations").is_empty() {
            let message = "`representations` is no list, or an empty one";
            self.findings.push(Finding::new(&rules::R_CONFIG, CONFIG, message));
        }
        let types = config.get("intervention_types");
        let widths = list("intervention_dimensions");
        let mut seen: BTreeMap<[String; 2], u64> = BTreeMap::new();
        for (index, representation) in list("representations").iter().enumerate() {
            let named = match types {
                Some(Value::Array(types)) => types.get(index),
                one => one,
            };
            let class = named.and_then(Value::as_str).map(Class::of_type);
            let width = widths.get(index).and_then(Value::as_u64);
            let place = match Place::of(representation) {
                Ok(place) => Place { width, ..place },
                Err(message) => {
                    let at = format!("representations[{index}]");
                    self.findings.push(Finding::new(&rules::R_CONFIG, at, message));
                    continue;
                }
            };
            let number = *seen.entry(place.stems()).and_modify(|number| *number += 1).or_insert(0);
            let names = place.stems().map(|stem| format!("{PREFIX}{stem}#{number}{SUFFIX}"));
            let Some(name) = names.iter().find(|name| left.contains_key(*name)) else {
                let message = "the config has a representation for it, the folder no such file";
                self.findings.push(Finding::new(&rules::R_FILE_MISSING, names[0].clone(), message));
                continue;
            };
            let bytes = left.remove(name).unwrap_or_default();
            if class == Some(None) {
                let named = named.and_then(Value::as_str).unwrap_or_default();
                let message = format!("class {} is none of pyreft's six", crate::error::one_line(named));
                self.findings.push(Finding::new(&rules::R_UNSUPPORTED, name.clone(), message));
                continue;
            }
            self.member((name, bytes), (&place, number), class.flatten());
        }
    }

    fn by_names(&mut self, left: &mut BTreeMap<String, &'a [u8]>) {
        let mut found = Vec::new();
        for (name, bytes) in std::mem::take(left) {
            let stem =
                name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX)).unwrap_or_default();
            let place = Place::of_name(stem);
            // With `_` for every dot a path cannot be told from the words of its modules.
            let is_path = place.as_ref().is_some_and(|(place, _)| place.component.contains(['[', '.']));
            match place.filter(|_| !is_path || stem.starts_with("comp.")) {
                Some((place, number)) => found.push((place, number, name, bytes)),
                None => {
                    let message = "without a config the name must say layer, component and unit";
                    self.findings.push(Finding::new(&rules::R_FILE_NAME, name, message));
                }
            }
        }
        found.sort_by(|a, b| (a.1, a.0.layer, &a.2).cmp(&(b.1, b.0.layer, &b.2)));
        for (place, number, name, bytes) in found {
            self.member((&name, bytes), (&place, number), None);
        }
    }

    fn member(
        &mut self,
        (name, bytes): (&str, &'a [u8]),
        (place, number): (&Place, u64),
        said: Option<Class>,
    ) {
        let path = format!("{}{name}", self.prefix);
        let state = match TorchFile::read(&path, bytes).and_then(|file| file.state_dict()) {
            Ok(state) => state,
            Err(error) => return self.findings.extend(error.findings()),
        };
        let tensors: Tensors<'a> =
            state.tensors.into_iter().map(|named| (named.name, named.tensor)).collect();
        let possible = Class::of_tensors(&tensors);
        let known = |class: &&Class| said.is_none_or(|said| **class == said);
        let classes = match possible.iter().find(known) {
            None if possible.is_empty() => {
                let keys: Vec<String> = tensors.keys().map(|key| crate::error::one_line(key)).collect();
                let message = match keys[..] {
                    [] => "it holds no tensors".to_owned(),
                    _ => format!("its tensors are {}", keys.join(", ")),
                };
                return self.findings.push(Finding::new(&rules::R_KEYS, name, message));
            }
            Some(_) => said.map_or(possible, single),
            None => {
                let (ours, theirs) = (possible[0].name(), said.map_or("", Class::name));
                let message = format!("the config says {theirs}, its tensors are those of {ours}");
                self.findings.push(Finding::new(&rules::R_CLASS, name, message));
                possible
            }
        };
        let site = match place.site(name) {
            Ok(site) => site,
            Err(finding) => return self.findings.push(finding),
        };
        let rank = tensors.get("bias").or_else(|| tensors.get("learned_source.bias"));
        let rank =
            rank.or_else(|| tensors.get("learned_source")).and_then(|bias| bias.dims().first().copied());
        if let (Some(said), Some(rank)) = (place.rank, rank)
            && said != rank
        {
            let message = format!("the config says rank {said}, its tensors have {rank}");
            self.findings.push(Finding::new(&rules::R_RANK, name, message));
        }
        if let (Some(said), Some(found)) = (place.width, width(&tensors))
            && said != found
        {
            let message = format!("the config says width {said}, its tensors have {found}");
            self.findings.push(Finding::new(&rules::R_WIDTH, name, message));
        }
        self.members.push(Member { file: name.to_owned(), site, number, classes, tensors });
    }
}

/// How many numbers of a state the tensors read.
fn width(tensors: &Tensors<'_>) -> Option<u64> {
    let dim = |key: &str, axis: usize| tensors.get(key)?.dims().get(axis).copied();
    let source = dim("weight", 1).or_else(|| dim("learned_source.weight", 1));
    source.or_else(|| dim("rotate_layer.parametrizations.weight.original", 0))
}

fn single(class: Class) -> &'static [Class] {
    let at = Class::ALL.iter().position(|other| *other == class).unwrap_or(0);
    &Class::ALL[at..=at]
}
