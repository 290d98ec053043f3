//! The instructions of pickles (Python's `pickletools`, protocols 0 to 5) with their operands.

use super::heap::Node;
use crate::cursor::Cursor;
use std::borrow::Cow;

/// One instruction.
#[derive(Clone, Debug)]
pub(super) enum Op<'a> {
    /// PROTO, FRAME: nothing to do.
    Nothing,
    Stop,
    Mark,
    Pop,
    PopMark,
    Dup,
    /// Every constant, and the empty containers.
    Push(Node<'a>),
    /// From so many values.
    Tuple(usize),
    TupleFromMark,
    ListFromMark,
    DictFromMark,
    SetFromMark,
    Append,
    Appends,
    SetItem,
    SetItems,
    AddItems,
    Put(u32),
    Memoize,
    Get(u32),
    Global(&'a str, &'a str),
    StackGlobal,
    /// A number of Python's registry of extensions.
    Extension(u32),
    /// GLOBAL and OBJ in one.
    Inst(&'a str, &'a str),
    Obj,
    NewObj,
    NewObjEx,
    Reduce,
    Build,
    PersistentId,
}

/// Reads the next instruction.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn next<'a>(cursor: &mut Cursor<'a>) -> Result<Op<'a>, String> {
    let Some(code) = cursor.u8() else { return Err("ends without STOP".to_owned()) };
    if let Some(op) = plain(code) {
        return Ok(op);
    }
    let cut = || "an instruction is cut short".to_owned();
    match code {
        0x80 => match cursor.u8().ok_or_else(cut)? {
            0..=5 => Ok(Op::Nothing),
            version => Err(format!("protocol {version}: 5 is the highest known")),
        },
        0x95 => {
            let len = cursor.u64().ok_or_else(cut)?;
            let room = cursor.rest().len();
            if len <= room as u64 {
                Ok(Op::Nothing)
            } else {
                Err(format!("a frame of {len} bytes, {room} are left"))
            }
        }
        b'F' | b'I' | b'L' | b'S' | b'V' | b'P' | b'g' | b'p' => {
            let line = cursor.line().ok_or_else(cut)?;
            of_line(code, line)
        }
        b'c' | b'i' => {
            let (module, name) =
                (text(cursor.line().ok_or_else(cut)?)?, text(cursor.line().ok_or_else(cut)?)?);
            Ok(if code == b'c' { Op::Global(module, name) } else { Op::Inst(module, name) })
        }
        0x97 | 0x98 => Err("data outside of the pickle (NEXT_BUFFER)".to_owned()),
        _ => match number(code, cursor) {
            Some(op) => op.ok_or_else(cut),
            None => {
                of_length(code, cursor)?.ok_or_else(|| format!("no instruction has the code {code:#04x}"))
            }
        },
    }
}

/// Instructions without operands.
fn plain<'a>(code: u8) -> Option<Op<'a>> {
    Some(match code {
        b'.' => Op::Stop,
        b'(' => Op::Mark,
        b'0' => Op::Pop,
        b'1' => Op::PopMark,
        b'2' => Op::Dup,
        b'N' => Op::Push(Node::None),
        0x88 => Op::Push(Node::Bool(true)),
        0x89 => Op::Push(Node::Bool(false)),
        b']' => Op::Push(Node::List(Vec::new())),
        b')' => Op::Push(Node::Tuple(Vec::new())),
        b'}' => Op::Push(Node::Dict(Vec::new())),
        0x8f => Op::Push(Node::Set(Vec::new())),
        0x85 => Op::Tuple(1),
        0x86 => Op::Tuple(2),
        0x87 => Op::Tuple(3),
        b't' => Op::TupleFromMark,
        b'l' => Op::ListFromMark,
        b'd' => Op::DictFromMark,
        0x91 => Op::SetFromMark,
        b'a' => Op::Append,
        b'e' => Op::Appends,
        b's' => Op::SetItem,
        b'u' => Op::SetItems,
        0x90 => Op::AddItems,
        0x94 => Op::Memoize,
        0x93 => Op::StackGlobal,
        b'o' => Op::Obj,
        0x81 => Op::NewObj,
        0x92 => Op::NewObjEx,
        b'R' => Op::Reduce,
        b'b' => Op::Build,
        b'Q' => Op::PersistentId,
        _ => return None,
    })
}

/// Instructions with a number as their operand: `None` when it is none of these, `Some(None)` when it is cut short.
fn number<'a>(code: u8, cursor: &mut Cursor<'a>) -> Option<Option<Op<'a>>> {
    let int = |value: Option<i64>| value.map(|value| Op::Push(Node::Int(value)));
    Some(match code {
        b'J' => int(cursor.i32().map(i64::from)),
        b'K' => int(cursor.u8().map(i64::from)),
        b'M' => int(cursor.u16().map(i64::from)),
        b'G' => cursor.array().map(|bytes| Op::Push(Node::Float(f64::from_be_bytes(bytes)))),
        b'q' => cursor.u8().map(|index| Op::Put(index.into())),
        b'r' => cursor.u32().map(Op::Put),
        b'h' => cursor.u8().map(|index| Op::Get(index.into())),
        b'j' => cursor.u32().map(Op::Get),
        0x82 => cursor.u8().map(|code| Op::Extension(code.into())),
        0x83 => cursor.u16().map(|code| Op::Extension(code.into())),
        0x84 => cursor.u32().map(Op::Extension),
        _ => return None,
    })
}

/// Instructions with a length and as many bytes; `None` when it is none of these.
fn of_length<'a>(code: u8, cursor: &mut Cursor<'a>) -> Result<Option<Op<'a>>, String> {
    let len = match code {
        b'U' | b'C' | 0x8a | 0x8c => cursor.u8().map(u64::from),
        b'X' | b'B' | b'T' | 0x8b => cursor.u32().map(u64::from),
        0x8d | 0x8e | 0x96 => cursor.u64(),
        _ => return Ok(None),
    };
    let bytes = len.and_then(|len| cursor.take(len)).ok_or("an instruction is cut short")?;
    Ok(Some(Op::Push(match code {
        b'X' | 0x8c | 0x8d => Node::Text(text(bytes)?),
        // Python 2's str: text where it can be.
        b'U' | b'T' => match std::str::from_utf8(bytes) {
            Ok(text) => Node::Text(text),
            Err(_) => Node::Bytes(Cow::Borrowed(bytes)),
        },
        0x8a | 0x8b => long(bytes),
        _ => Node::Bytes(Cow::Borrowed(bytes)),
    })))
}

/// Instructions of protocol 0, whose operand is a line of text.
fn of_line(code: u8, line: &[u8]) -> Result<Op<'_>, String> {
    let line = text(line)?;
    let no_number = || format!("{:?} is no number", crate::error::one_line(line));
    Ok(match code {
        b'F' => Op::Push(Node::Float(line.parse().map_err(|_| no_number())?)),
        b'I' if line == "00" => Op::Push(Node::Bool(false)),
        b'I' if line == "01" => Op::Push(Node::Bool(true)),
        b'I' => Op::Push(Node::Int(line.parse().map_err(|_| no_number())?)),
        b'L' => Op::Push(Node::Int(line.strip_suffix('L').unwrap_or(line).parse().map_err(|_| no_number())?)),
        b'g' => Op::Get(line.parse().map_err(|_| no_number())?),
        b'p' => Op::Put(line.parse().map_err(|_| no_number())?),
        b'S' => Op::Push(Node::Text(quoted(line)?)),
        b'V' => Op::Push(Node::Text(unescaped(line)?)),
        _ => return Err("a persistent id as a line of text: torch writes tuples".to_owned()),
    })
}

/// The inside of a quoted text without escapes.
fn quoted(line: &str) -> Result<&str, String> {
    let inside = |quote: char| line.strip_prefix(quote)?.strip_suffix(quote);
    let inside = inside('\'').or_else(|| inside('"')).ok_or("a text without its quotes")?;
    unescaped(inside)
}

fn unescaped(text: &str) -> Result<&str, String> {
    if text.contains('\\') { Err("a text with escapes: torch writes none".to_owned()) } else { Ok(text) }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes)
        .map_err(|error| format!("a text that is not UTF-8 at its byte {}", error.valid_up_to()))
}

/// An integer of any length, two's complement, little-endian.
fn long(bytes: &[u8]) -> Node<'_> {
    let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xFF } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(8));
    let mut value = [fill; 8];
    value[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(value);
    // What lies above 64 bits may only repeat the sign.
    if high.iter().all(|byte| *byte == fill) && (value < 0) == (fill == 0xFF) {
        Node::Int(value)
    } else {
        Node::Long(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, long};

    #[test]
    fn integers_of_up_to_64_bits_are_numbers() {
        let int = |bytes: &[u8]| match long(bytes) {
            Node::Int(value) => Some(value),
            _ => None,
        };
        assert_eq!(int(&[]), Some(0));
        assert_eq!(int(&[0xFF]), Some(-1));
        assert_eq!(int(&[0xFF, 0]), Some(255));
        assert_eq!(int(&i64::MIN.to_le_bytes()), Some(i64::MIN));
        assert_eq!(int(&[5, 0, 0, 0, 0, 0, 0, 0, 0]), Some(5));
        assert_eq!(int(&[0xFF; 12]), Some(-1));
        assert_eq!(int(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0]), None);
        assert_eq!(int(&[0, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
