//! The form that torch wrote before 1.6, and still writes on demand: a magic number, a version, what the machine was
//! like, the value and the list of storage keys, a pickle each; then each storage with its number of elements before it.

use crate::cursor::Cursor;
use crate::error::{Fault, Place, one_line};
use crate::limits;
use crate::pickle::{self, Heap, Id, Node, Outcome};
use fitment_core::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// The magic number 0x1950a86a20f9469cfc6c, as a pickle writes it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Reads a file that is no archive.
///
/// # Errors
/// [`Fault::Unsafe`] for any pickle with a name that is not allowed; [`Fault::Kind`] for a pickle that torch did not
/// write; else as the pickles.
pub(crate) fn read(bytes: &[u8]) -> Result<(Heap<'_>, Id), Fault> {
    let mut cursor = Cursor::new(bytes);
    let magic = next(&mut cursor)?;
    if !matches!(magic.heap.node(magic.root), Node::Long(bytes) if *bytes == MAGIC) {
        let what = format!(
            "a plain pickle that holds {}, without torch's magic number",
            magic.heap.node(magic.root).kind()
        );
        return Err(Fault::Kind {
            what,
            hint: "give the file that torch.save wrote, or the weights as safetensors",
        });
    }
    let version = next(&mut cursor)?;
    if !matches!(version.heap.node(version.root), Node::Int(VERSION)) {
        let what = format!("a torch file of another version than {VERSION}");
        return Err(Fault::Kind { what, hint: "load it with the torch that wrote it and save safetensors" });
    }
    check_machine(&next(&mut cursor)?)?;
    let mut value = next(&mut cursor)?;
    let keys_at = cursor.offset();
    let keys = next(&mut cursor)?;
    let keys = texts(&keys).ok_or_else(|| broken(keys_at, "no list of storage keys follows the value"))?;
    read_storages(&mut value.heap, &keys, &mut cursor)?;
    Ok((value.heap, value.root))
}

/// The next pickle.
fn next<'a>(cursor: &mut Cursor<'a>) -> Result<Outcome<'a>, Fault> {
    let base = cursor.offset();
    let outcome = pickle::run(cursor.rest(), base, "")?;
    cursor.take(outcome.len).ok_or_else(|| broken(base, "a pickle is cut short"))?;
    Ok(outcome)
}

fn check_machine(outcome: &Outcome<'_>) -> Result<(), Fault> {
    let Node::Dict(pairs) = outcome.heap.node(outcome.root) else {
        return Err(broken(0, "what the machine was like is no dict"));
    };
    let is_big = |(key, value): &(Id, Id)| {
        outcome.heap.text(*key) == Some("little_endian")
            && matches!(outcome.heap.node(*value), Node::Bool(false))
    };
    if pairs.iter().any(is_big) {
        let what = "a torch file whose numbers are big-endian".to_owned();
        return Err(Fault::Kind {
            what,
            hint: "load and save it on a little-endian machine, best as safetensors",
        });
    }
    Ok(())
}

fn texts<'a>(outcome: &Outcome<'a>) -> Option<Vec<&'a str>> {
    match outcome.heap.node(outcome.root) {
        Node::List(items) if items.len() <= limits::MAX_MEMBERS => {
            items.iter().map(|id| outcome.heap.text(*id)).collect()
        }
        _ => None,
    }
}

fn read_storages<'a>(heap: &mut Heap<'a>, keys: &[&str], cursor: &mut Cursor<'a>) -> Result<(), Fault> {
    let numbers: BTreeMap<&str, usize> =
        heap.storages.iter().enumerate().map(|(number, storage)| (storage.key, number)).collect();
    let mut read = BTreeSet::new();
    for key in keys {
        let shown = one_line(key);
        let at = cursor.offset();
        let storage = numbers.get(key).and_then(|number| heap.storages.get_mut(*number));
        let storage = storage.filter(|_| read.insert(*key));
        let storage = storage
            .ok_or_else(|| broken(at, format!("a storage {shown:?} that no tensor uses, or a second one")))?;
        let size = storage.dtype.and_then(Dtype::bytes).unwrap_or(1) as u64;
        let count = cursor.u64().ok_or_else(|| broken(at, "the storages are cut short"))?;
        if count.checked_mul(size) != Some(storage.byte_len) {
            let message = format!(
                "storage {shown:?} has {count} elements, the pickle says {}",
                storage.byte_len / size.max(1)
            );
            return Err(broken(at, message));
        }
        storage.data = cursor.take(storage.byte_len).ok_or_else(|| {
            broken(at, format!("storage {shown:?} is cut short: {} bytes are left", cursor.rest().len()))
        })?;
    }
    if let Some(missing) = heap.storages.iter().find(|storage| !read.contains(storage.key)) {
        let message = format!("storage {:?} is not in the file", one_line(missing.key));
        return Err(Fault::Tensor { place: missing.place.clone(), message });
    }
    if !cursor.rest().is_empty() {
        return Err(broken(
            cursor.offset(),
            format!("{} bytes follow the last storage", cursor.rest().len()),
        ));
    }
    Ok(())
}

fn broken(byte: u64, message: impl Into<String>) -> Fault {
    Fault::Pickle { place: Place { member: String::new(), byte }, message: message.into() }
}
