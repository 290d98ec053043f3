//! Zip archives as torch writes them: stored members one behind the other, then the directory, then nothing.
//!
//! Everything that could make two readers see different members is refused: compression, encryption, gaps, overlaps,
//! duplicates, names that leave the folder, and a directory that disagrees with what stands before the members. Layout
//! after PKWARE's APPNOTE 6.3.10, zip64 included.

mod directory;
mod local;

pub(crate) use directory::{Directory, read as directory};

use crate::crc::crc32;
use crate::error::{Fault, one_line};
use std::collections::BTreeSet;

pub(crate) const LOCAL: u32 = 0x0403_4b50;
pub(crate) const DESCRIPTOR: u32 = 0x0807_4b50;
pub(crate) const CENTRAL: u32 = 0x0201_4b50;
pub(crate) const END: u32 = 0x0605_4b50;
pub(crate) const END64: u32 = 0x0606_4b50;
pub(crate) const LOCATOR64: u32 = 0x0706_4b50;
/// Bytes of a local header before its name.
pub(crate) const LOCAL_LEN: u64 = 30;
/// Bytes of an entry of the directory before its name.
pub(crate) const CENTRAL_LEN: u64 = 46;
/// The extra field that holds 64-bit sizes.
pub(crate) const EXTRA64: u16 = 1;
/// Sizes and CRC stand behind the data, not before it.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// The name is UTF-8.
pub(crate) const FLAG_UTF8: u16 = 1 << 11;

/// A member: its whole name and its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a [u8],
}

/// Whether bytes begin as an archive does that torch opens.
pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(&LOCAL.to_le_bytes())
}

/// Every member but empty folders, in the order in which they lie in the file.
///
/// # Errors
/// [`Fault::Archive`], [`Fault::Checksum`].
pub(crate) fn members<'a>(bytes: &'a [u8], directory: Directory<'a>) -> Result<Vec<Member<'a>>, Fault> {
    let mut entries = directory.entries;
    entries.sort_by_key(|entry| entry.offset);
    let mut names = BTreeSet::new();
    let mut members = Vec::new();
    let mut next = 0;
    for (index, entry) in entries.iter().enumerate() {
        match entry.method {
            0 => {}
            8 => {
                return Err(fault(
                    entry.name,
                    "is compressed (deflate): torch stores its members as they are",
                ));
            }
            method => return Err(fault(entry.name, format!("is compressed (method {method})"))),
        }
        if !names.insert(entry.name.trim_end_matches('/')) {
            return Err(fault(entry.name, "stands twice in the archive"));
        }
        if entry.offset != next {
            let message = format!("begins at byte {}, the member before it ends at {next}", entry.offset);
            return Err(fault(entry.name, message));
        }
        let end = entries.get(index + 1).map_or(directory.start, |after| after.offset);
        let data = local::read(bytes, entry, end)?;
        next = end;
        let found = crc32(data);
        // torch writes 0 for all members when it is told not to count checksums.
        if entry.crc != 0 && found != entry.crc {
            let member = one_line(entry.name);
            return Err(Fault::Checksum { member, recorded: entry.crc, found });
        }
        if !entry.name.ends_with('/') {
            members.push(Member { name: entry.name, data });
        }
    }
    if next != directory.start {
        return Err(fault(
            "",
            format!("the directory begins at byte {}, the members end at {next}", directory.start),
        ));
    }
    Ok(members)
}

fn fault(member: &str, message: impl Into<String>) -> Fault {
    Fault::Archive { member: one_line(member), message: message.into() }
}
