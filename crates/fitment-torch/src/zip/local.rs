//! What stands before and behind a member's data.

use super::directory::{Entry, wide_fields};
use super::{DESCRIPTOR, FLAG_DESCRIPTOR, LOCAL, LOCAL_LEN, fault};
use crate::cursor::Cursor;
use crate::error::Fault;

/// The data of a member that ends before `end`, when its local header and what follows the data agree with the
/// directory.
///
/// # Errors
/// [`Fault::Archive`].
pub(super) fn read<'a>(bytes: &'a [u8], entry: &Entry<'_>, end: u64) -> Result<&'a [u8], Fault> {
    let header = Header::read(bytes, entry.offset)
        .ok_or_else(|| fault(entry.name, "no local header where the directory says"))?;
    header.check(entry)?;
    let has_descriptor = entry.flags & FLAG_DESCRIPTOR != 0;
    let outside = || fault(entry.name, "reaches into what follows it");
    let mut cursor = Cursor::at(bytes, header.data).ok_or_else(outside)?;
    let data = cursor.take(entry.size).filter(|_| cursor.offset() <= end).ok_or_else(outside)?;
    let behind = end.saturating_sub(cursor.offset());
    let is_sound = match (has_descriptor, behind) {
        (false, 0) => true,
        (true, 16 | 24) => descriptor(&mut cursor, behind) == Some((entry.crc, entry.size, entry.size)),
        _ => false,
    };
    if is_sound {
        Ok(data)
    } else {
        Err(fault(entry.name, "what stands behind it disagrees with the directory"))
    }
}

struct Header<'a> {
    flags: u16,
    method: u16,
    crc: u32,
    /// Stored and whole size.
    sizes: [u64; 2],
    name: &'a [u8],
    /// Offset of the data.
    data: u64,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8], offset: u64) -> Option<Self> {
        let mut cursor = Cursor::at(bytes, offset)?;
        let (signature, _version) = (cursor.u32()?, cursor.u16()?);
        let (flags, method, _time, crc) = (cursor.u16()?, cursor.u16()?, cursor.u32()?, cursor.u32()?);
        let (stored, size) = (cursor.u32()?, cursor.u32()?);
        let (name, extra) = (cursor.u16()?, cursor.u16()?);
        let (name, extra) = (cursor.take(name.into())?, cursor.take(extra.into())?);
        debug_assert!(cursor.offset() >= offset.saturating_add(LOCAL_LEN));
        // The 64-bit field of a local header holds the whole size first.
        let [size, stored] = wide_fields(extra, &[size, stored])?;
        let sizes = [stored, size];
        (signature == LOCAL).then_some(Self { flags, method, crc, sizes, name, data: cursor.offset() })
    }

    fn check(&self, entry: &Entry<'_>) -> Result<(), Fault> {
        if self.name != entry.name.as_bytes() {
            let found = String::from_utf8_lossy(self.name);
            return Err(fault(
                entry.name,
                format!("is called {:?} by its local header", super::one_line(&found)),
            ));
        }
        if self.method != 0 || self.flags != entry.flags {
            return Err(fault(entry.name, "its local header has another method or other flags"));
        }
        // Zeros when the values stand behind the data.
        let is_blank = entry.flags & FLAG_DESCRIPTOR != 0 && self.crc == 0 && self.sizes == [0, 0];
        if !is_blank && (self.crc != entry.crc || self.sizes != [entry.size, entry.size]) {
            let message = format!(
                "its local header says {} bytes and CRC-32 {:08x}, the directory {} and {:08x}",
                self.sizes[1], self.crc, entry.size, entry.crc
            );
            return Err(fault(entry.name, message));
        }
        Ok(())
    }
}

/// CRC, stored and whole size behind the data; the sizes have 8 bytes each in the long form.
fn descriptor(cursor: &mut Cursor<'_>, len: u64) -> Option<(u32, u64, u64)> {
    let (signature, crc) = (cursor.u32()?, cursor.u32()?);
    let mut size = || if len == 24 { cursor.u64() } else { cursor.u32().map(u64::from) };
    let (stored, size) = (size()?, size()?);
    (signature == DESCRIPTOR).then_some((crc, stored, size))
}
