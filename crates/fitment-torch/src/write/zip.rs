//! Stored members with aligned data, and the directory behind them.

use super::Archive;
use crate::crc::crc32;
use crate::zip::{CENTRAL, CENTRAL_LEN, END, END64, EXTRA64, FLAG_UTF8, LOCAL, LOCAL_LEN, LOCATOR64};
use fitment_core::tensor::Tensor;

/// Where data begin: what torch aligns storages to.
const ALIGNMENT: u64 = 64;
/// torch's extra field of padding, and its filling.
const PADDING: &[u8; 2] = b"FB";
const FILLING: u8 = b'Z';
const MAX32: u64 = 0xFFFF_FFFF;
const MAX16: u64 = 0xFFFF;
/// 1 January 1980, the first day that the format knows: no time enters a file.
const DATE: u16 = 33;
/// Version 4.5 of the format: the first with 64-bit sizes.
const VERSION: u16 = 45;

pub(super) enum Data<'a> {
    Owned(Vec<u8>),
    Tensor(Tensor<'a>),
}

pub(super) struct Member<'a> {
    name: String,
    data: Data<'a>,
}

/// A member with what stands before it.
#[derive(Clone, Debug)]
pub(super) struct Placed<'a> {
    pub(super) head: Vec<u8>,
    pub(super) data: Data<'a>,
}

impl<'a> Member<'a> {
    pub(super) fn new(name: impl Into<String>, data: Data<'a>) -> Self {
        Self { name: name.into(), data }
    }
}

impl Clone for Data<'_> {
    fn clone(&self) -> Self {
        match self {
            Data::Owned(bytes) => Data::Owned(bytes.clone()),
            Data::Tensor(tensor) => Data::Tensor(tensor.clone()),
        }
    }
}

impl std::fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

impl Data<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Data::Owned(bytes) => bytes,
            Data::Tensor(tensor) => tensor.bytes(),
        }
    }
}

/// Sizes, checksum and place of one member.
struct Facts<'f> {
    name: &'f str,
    crc: u32,
    size: u64,
    offset: u64,
}

pub(super) fn lay<'a>(stem: &str, members: Vec<Member<'a>>) -> Archive<'a> {
    let (mut placed, mut directory) = (Vec::new(), Vec::new());
    let mut at = 0;
    let count = members.len() as u64;
    for member in members {
        let bytes = member.data.bytes();
        let name = format!("{stem}/{}", member.name);
        let facts = Facts { name: &name, crc: crc32(bytes), size: bytes.len() as u64, offset: at };
        let head = facts.local();
        facts.central(&mut directory);
        at += head.len() as u64 + facts.size;
        placed.push(Placed { head, data: member.data });
    }
    end(&mut directory, at, count);
    let len = at + directory.len() as u64;
    Archive { members: placed, directory, len }
}

impl Facts<'_> {
    fn local(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        if self.size >= MAX32 {
            extra.extend(EXTRA64.to_le_bytes());
            extra.extend(16u16.to_le_bytes());
            extra.extend(self.size.to_le_bytes());
            extra.extend(self.size.to_le_bytes());
        }
        let before = self.offset + LOCAL_LEN + self.name.len() as u64 + extra.len() as u64 + 4;
        let padding = before.next_multiple_of(ALIGNMENT) - before;
        extra.extend(PADDING);
        extra.extend((padding as u16).to_le_bytes());
        extra.extend(std::iter::repeat_n(FILLING, padding as usize));
        let mut head = LOCAL.to_le_bytes().to_vec();
        head.extend(VERSION.to_le_bytes());
        self.shared(&mut head, extra.len());
        head.extend(self.name.as_bytes());
        head.extend(extra);
        head
    }

    fn central(&self, out: &mut Vec<u8>) {
        let mut wide = Vec::new();
        if self.size >= MAX32 {
            wide.extend(self.size.to_le_bytes());
            wide.extend(self.size.to_le_bytes());
        }
        if self.offset >= MAX32 {
            wide.extend(self.offset.to_le_bytes());
        }
        let mut extra = Vec::new();
        if !wide.is_empty() {
            extra.extend(EXTRA64.to_le_bytes());
            extra.extend((wide.len() as u16).to_le_bytes());
            extra.extend(wide);
        }
        let start = out.len();
        out.extend(CENTRAL.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        self.shared(out, extra.len());
        // No comment, first part, no attributes.
        out.extend([0; 10]);
        out.extend(narrow(self.offset));
        debug_assert_eq!((out.len() - start) as u64, CENTRAL_LEN);
        out.extend(self.name.as_bytes());
        out.extend(extra);
    }

    /// From the flags to the length of the extra fields: the same in both headers.
    fn shared(&self, out: &mut Vec<u8>, extra: usize) {
        out.extend(FLAG_UTF8.to_le_bytes());
        // Stored, midnight.
        out.extend([0; 4]);
        out.extend(DATE.to_le_bytes());
        out.extend(self.crc.to_le_bytes());
        out.extend(narrow(self.size));
        out.extend(narrow(self.size));
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((extra as u16).to_le_bytes());
    }
}

fn narrow(value: u64) -> [u8; 4] {
    (value.min(MAX32) as u32).to_le_bytes()
}

/// The records at the end; those of 64 bits only where they are needed.
fn end(out: &mut Vec<u8>, start: u64, count: u64) {
    let size = out.len() as u64;
    if count >= MAX16 || size >= MAX32 || start >= MAX32 {
        out.extend(END64.to_le_bytes());
        out.extend(44u64.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 8]);
        out.extend(count.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend(LOCATOR64.to_le_bytes());
        out.extend([0; 4]);
        out.extend((start + size).to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    out.extend(END.to_le_bytes());
    out.extend([0; 4]);
    let narrow_count = (count.min(MAX16) as u16).to_le_bytes();
    out.extend(narrow_count);
    out.extend(narrow_count);
    out.extend(narrow(size));
    out.extend(narrow(start));
    out.extend([0; 2]);
}
