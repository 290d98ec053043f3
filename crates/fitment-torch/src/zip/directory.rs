//! The directory at the end of an archive.

use super::{CENTRAL, END, END64, EXTRA64, FLAG_DESCRIPTOR, FLAG_UTF8, LOCATOR64, fault};
use crate::cursor::Cursor;
use crate::error::{Fault, limit};
use crate::limits;

const END_LEN: u64 = 22;
const END64_LEN: u64 = 56;
const LOCATOR64_LEN: u64 = 20;
/// A value that says: see the 64-bit field.
const MAX32: u64 = 0xFFFF_FFFF;
const MAX16: u64 = 0xFFFF;

/// One member, as the directory has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(super) method: u16,
    pub(super) flags: u16,
    pub(super) crc: u32,
    pub(super) size: u64,
    pub(super) offset: u64,
}

/// All members, and where the directory begins.
#[derive(Clone, Debug)]
pub(crate) struct Directory<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
    pub(super) start: u64,
}

/// What the last records say of the directory.
struct End {
    count: u64,
    size: u64,
    start: u64,
    /// First byte behind the directory.
    end: u64,
}

/// # Errors
/// [`Fault::Archive`], [`Fault::Limit`].
pub(crate) fn read(bytes: &[u8]) -> Result<Directory<'_>, Fault> {
    let end = end(bytes)?;
    if end.start.checked_add(end.size) != Some(end.end) {
        let message = format!(
            "the directory is said to take {} bytes from byte {}, it ends at {}",
            end.size, end.start, end.end
        );
        return Err(fault("", message));
    }
    if end.count > limits::MAX_MEMBERS as u64 {
        return Err(limit("", "members of an archive", limits::MAX_MEMBERS, end.count));
    }
    let short = || fault("", "the directory is cut short");
    let mut cursor = Cursor::at(bytes, end.start).ok_or_else(short)?;
    let mut entries = Vec::new();
    while cursor.offset() < end.end {
        let entry = entry(&mut cursor)?;
        if entry.offset >= end.start {
            return Err(fault(entry.name, "lies behind the start of the directory"));
        }
        entries.push(entry);
        if entries.len() as u64 > end.count {
            break;
        }
    }
    if entries.len() as u64 != end.count || cursor.offset() != end.end {
        let message = format!("the directory is said to hold {} members, it holds other ones", end.count);
        return Err(fault("", message));
    }
    Ok(Directory { entries, start: end.start })
}

fn end(bytes: &[u8]) -> Result<End, Fault> {
    let len = bytes.len() as u64;
    let missing = || {
        let message =
            "does not end with the directory of a zip archive: it is cut short, or something was added";
        fault("", message)
    };
    let at = len.checked_sub(END_LEN).ok_or_else(missing)?;
    let short = read_end(bytes, at).ok_or_else(missing)?;
    let Some(locator_at) = at.checked_sub(LOCATOR64_LEN) else { return Ok(short) };
    let Some(claimed) = read_locator(bytes, locator_at) else { return Ok(short) };
    let wide_at = locator_at.checked_sub(END64_LEN).filter(|wide_at| *wide_at == claimed);
    let wide = wide_at.and_then(|wide_at| read_end64(bytes, wide_at));
    let wide = wide.ok_or_else(|| fault("", "the 64-bit record at its end is not where its locator says"))?;
    let agrees = |narrow: u64, wide: u64, max: u64| narrow == wide || narrow == max;
    if agrees(short.count, wide.count, MAX16)
        && agrees(short.size, wide.size, MAX32)
        && agrees(short.start, wide.start, MAX32)
    {
        Ok(wide)
    } else {
        Err(fault("", "the two records at its end disagree about the directory"))
    }
}

/// `None` when there is no such record, or one of an archive in parts or with a comment.
fn read_end(bytes: &[u8], at: u64) -> Option<End> {
    let mut cursor = Cursor::at(bytes, at)?;
    let (signature, disks, here, count) =
        (cursor.u32()?, cursor.u32()?, u64::from(cursor.u16()?), u64::from(cursor.u16()?));
    let (size, start, comment) = (u64::from(cursor.u32()?), u64::from(cursor.u32()?), cursor.u16()?);
    (signature == END && disks == 0 && here == count && comment == 0).then_some(End {
        count,
        size,
        start,
        end: at,
    })
}

/// Where the 64-bit record is said to stand.
fn read_locator(bytes: &[u8], at: u64) -> Option<u64> {
    let mut cursor = Cursor::at(bytes, at)?;
    if cursor.u32()? != LOCATOR64 {
        return None;
    }
    let (disk, claimed, disks) = (cursor.u32()?, cursor.u64()?, cursor.u32()?);
    // A wrong place is a fault, and no archive without the record.
    Some(if disk == 0 && disks == 1 { claimed } else { u64::MAX })
}

fn read_end64(bytes: &[u8], at: u64) -> Option<End> {
    let mut cursor = Cursor::at(bytes, at)?;
    let (signature, rest, _versions) = (cursor.u32()?, cursor.u64()?, cursor.u32()?);
    let (disks, here, count) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let (size, start) = (cursor.u64()?, cursor.u64()?);
    // The record counts its length from behind this field on.
    let is_sound = signature == END64 && rest == END64_LEN - 12 && disks == 0 && here == count;
    is_sound.then_some(End { count, size, start, end: at })
}

fn entry<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>, Fault> {
    let at = cursor.offset();
    let broken = || fault("", format!("no entry of the directory at byte {at}"));
    let raw = Raw::read(cursor).ok_or_else(broken)?;
    let name = checked_name(raw.name)?;
    raw.check(name)?;
    let wide = wide_fields(raw.extra, &[raw.size, raw.stored, raw.offset])
        .ok_or_else(|| fault(name, "its 64-bit sizes are not there"))?;
    let [size, stored, offset] = wide;
    if stored != size && raw.method == 0 {
        return Err(fault(name, format!("takes {stored} bytes and is said to hold {size}")));
    }
    if name.ends_with('/') && size > 0 {
        return Err(fault(name, "a folder that holds data"));
    }
    Ok(Entry { name, method: raw.method, flags: raw.flags, crc: raw.crc, size, offset })
}

/// The fields of an entry, as they stand.
struct Raw<'a> {
    flags: u16,
    method: u16,
    crc: u32,
    stored: u32,
    size: u32,
    disk: u16,
    attributes: u32,
    offset: u32,
    name: &'a [u8],
    extra: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Option<Self> {
        if cursor.u32()? != CENTRAL {
            return None;
        }
        let _versions = cursor.u32()?;
        let (flags, method, _time, crc) = (cursor.u16()?, cursor.u16()?, cursor.u32()?, cursor.u32()?);
        let (stored, size) = (cursor.u32()?, cursor.u32()?);
        let (name, extra, comment) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
        let (disk, _internal, attributes) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
        let offset = cursor.u32()?;
        let (name, extra) = (cursor.take(name.into())?, cursor.take(extra.into())?);
        cursor.take(comment.into())?;
        Some(Self { flags, method, crc, stored, size, disk, attributes, offset, name, extra })
    }

    fn check(&self, name: &str) -> Result<(), Fault> {
        const COMPRESSION: u16 = 0b110;
        /// The kind of file in the upper half of the attributes, as Unix counts them.
        const UNIX_KIND: u32 = 0o170_000;
        const UNIX_LINK: u32 = 0o120_000;
        if self.flags & 1 != 0 {
            return Err(fault(name, "is encrypted"));
        }
        // Bits 1 and 2 belong to compression, which is looked at later.
        if self.flags & !(COMPRESSION | FLAG_DESCRIPTOR | FLAG_UTF8) != 0 {
            return Err(fault(name, format!("has flags {:#06x}, which torch does not set", self.flags)));
        }
        if self.disk != 0 {
            return Err(fault(name, "lies in another part of an archive in parts"));
        }
        if (self.attributes >> 16) & UNIX_KIND == UNIX_LINK {
            return Err(fault(name, "is a link"));
        }
        Ok(())
    }
}

/// A name that stays inside the folder it is unpacked in, on every system.
fn checked_name(bytes: &[u8]) -> Result<&str, Fault> {
    let name = std::str::from_utf8(bytes)
        .map_err(|_| fault(&String::from_utf8_lossy(bytes), "a name that is not UTF-8"))?;
    let inner = name.strip_suffix('/').unwrap_or(name);
    if name.starts_with('/') || name.contains(['\\', ':']) {
        return Err(fault(name, "an absolute name, or one that some system takes for one"));
    }
    if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(fault(name, "a name that leaves the archive's folder, or has empty parts"));
    }
    if name.len() > fitment_core::limits::MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(fault(name, "a name that is too long or holds control characters"));
    }
    Ok(name)
}

/// The 32-bit fields, those of [`MAX32`] replaced by what the 64-bit extra field says; `None` when it does not say it.
pub(super) fn wide_fields<const N: usize>(extra: &[u8], narrow: &[u32; N]) -> Option<[u64; N]> {
    let mut wide = narrow.map(u64::from);
    let mut field = Cursor::new(extra_field(extra)?.unwrap_or_default());
    for value in &mut wide {
        if *value == MAX32 {
            *value = field.u64()?;
        }
    }
    Some(wide)
}

/// The 64-bit extra field when there is one; `None` when the extra fields are malformed.
fn extra_field(extra: &[u8]) -> Option<Option<&[u8]>> {
    let mut cursor = Cursor::new(extra);
    let mut found = None;
    while !cursor.rest().is_empty() {
        let (id, len) = (cursor.u16()?, cursor.u16()?);
        let field = cursor.take(len.into())?;
        if id == EXTRA64 && found.replace(field).is_some() {
            return None;
        }
    }
    Some(found)
}
