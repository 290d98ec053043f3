//! The form that torch writes since 1.6: a zip archive with `data.pkl`, and each storage as a member `data/KEY`.

use crate::error::{Fault, limit, one_line};
use crate::limits;
use crate::pickle::{self, Heap, Id};
use crate::zip::{self, Directory, Member};
use std::collections::BTreeMap;

/// An archive, read as far as its values; the name of its folder first.
pub(crate) fn read(bytes: &[u8]) -> Result<(String, Heap<'_>, Id), Fault> {
    let directory = zip::directory(bytes)?;
    check_kind(&directory)?;
    let members = zip::members(bytes, directory)?;
    let stem = stem(&members)?;
    let inside = |name: &'_ str| name.split_once('/').map(|(_, inside)| inside.to_owned());
    let by_name: BTreeMap<String, &[u8]> =
        members.iter().filter_map(|member| Some((inside(member.name)?, member.data))).collect();
    check_byte_order(&by_name)?;
    let name = format!("{stem}/{PICKLE}");
    let Some(&data) = by_name.get(PICKLE) else {
        let what = "a zip archive without a data.pkl, which is no torch weight file".to_owned();
        return Err(Fault::Kind { what, hint: OTHER_ZIP });
    };
    if data.len() as u64 > limits::MAX_PICKLE_BYTES {
        return Err(limit(&name, "bytes of a pickle", limits::MAX_PICKLE_BYTES, data.len()));
    }
    let outcome = pickle::run(data, 0, &name)?;
    if outcome.len != data.len() as u64 {
        let message = format!("{} bytes follow the end of the pickle", data.len() as u64 - outcome.len);
        return Err(Fault::Archive { member: name, message });
    }
    let mut heap = outcome.heap;
    for storage in &mut heap.storages {
        let member = format!("data/{}", storage.key);
        let found = by_name.get(member.as_str()).copied().or((storage.byte_len == 0).then_some(&[][..]));
        let shown = one_line(&member);
        let wrong = |message| Err(Fault::Tensor { place: storage.place.clone(), message });
        match found {
            Some(data) if data.len() as u64 == storage.byte_len => storage.data = data,
            Some(data) => {
                let message =
                    format!("{shown} holds {} bytes, the pickle says {}", data.len(), storage.byte_len);
                return wrong(message);
            }
            None => return wrong(format!("the archive has no member {stem}/{shown}")),
        }
    }
    Ok((stem.to_owned(), heap, outcome.root))
}

const PICKLE: &str = "data.pkl";
const OTHER_ZIP: &str = "give the file that torch.save wrote, or the weights as safetensors";
const SCRIPT: &str = "save the state_dict() of the scripted module, best as safetensors";

/// The one folder in which all members lie.
fn stem<'a>(members: &[Member<'a>]) -> Result<&'a str, Fault> {
    let first = |member: &Member<'a>| member.name.split_once('/').map(|(stem, _)| stem);
    let stem = members.first().and_then(first);
    match (stem, members.iter().find(|member| first(member) != stem)) {
        (Some(stem), None) => Ok(stem),
        _ => {
            let what = "a zip archive whose members are not in one folder, which is no torch weight file";
            Err(Fault::Kind { what: what.to_owned(), hint: OTHER_ZIP })
        }
    }
}

/// TorchScript's members are partly compressed: it is told by their names, before they are looked at.
fn check_kind(directory: &Directory<'_>) -> Result<(), Fault> {
    let inside = |name: &str| {
        let inside = name.split_once('/').map(|(_, inside)| inside).unwrap_or_default();
        inside == "constants.pkl" || inside.starts_with("code/")
    };
    if directory.entries.iter().any(|entry| inside(entry.name)) {
        let what = "a TorchScript archive, which holds code beside weights".to_owned();
        return Err(Fault::Kind { what, hint: SCRIPT });
    }
    Ok(())
}

fn check_byte_order(members: &BTreeMap<String, &[u8]>) -> Result<(), Fault> {
    match members.get("byteorder") {
        None | Some(&b"little") => Ok(()),
        Some(&b"big") => {
            let what = "a torch file whose numbers are big-endian".to_owned();
            Err(Fault::Kind {
                what,
                hint: "load and save it on a little-endian machine, best as safetensors",
            })
        }
        Some(_) => Err(Fault::Archive {
            member: "byteorder".to_owned(),
            message: "neither little nor big".to_owned(),
        }),
    }
}
