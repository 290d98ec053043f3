//! The encodings of a change: `xor` of all bytes, or `overwrite`: a count `n` (u32), `n` byte positions (u32, strictly
//! ascending), `n` bytes; little-endian.

use std::io::Read;

/// How a version tells its changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// New bytes, exclusive or the base's: as long as the tensor; undone when applied twice.
    #[default]
    Xor,
    /// The bytes that change, with their positions.
    Overwrite,
}

impl Encoding {
    /// The value of `delta_encoding`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Encoding::Xor => "xor",
            Encoding::Overwrite => "overwrite",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Encoding::Xor, Encoding::Overwrite].into_iter().find(|encoding| encoding.name() == name)
    }

    /// The content that changes `base` into `new`, of one length; for `overwrite` of at most 4 GiB.
    pub(super) fn encode(self, base: &[u8], new: &[u8]) -> Vec<u8> {
        match self {
            Encoding::Xor => base.iter().zip(new).map(|(base, new)| base ^ new).collect(),
            Encoding::Overwrite => overwrite(base, new),
        }
    }
}

/// Bytes of a tensor beyond which positions of 32 bits do not reach.
pub(super) const REACH: u64 = 1 << 32;

/// How many bytes a content of `overwrite` changes, by its length alone; `None` for a length that none has.
pub(super) fn count_by_length(content: u64) -> Option<u64> {
    let rest = content.checked_sub(4)?;
    (rest % 5 == 0).then_some(rest / 5).filter(|count| *count <= u64::from(u32::MAX))
}

/// What is wrong with a length that no content has.
pub(super) fn length_fault(content: u64) -> String {
    format!("{content} bytes are no count, and 5 bytes for each position and its value")
}

fn count_fault(told: u32, held: u64) -> String {
    format!("its count is {told}, its length that of {held} positions")
}

fn order_fault(number: usize, position: u32, last: u32) -> String {
    format!("position {number} is {position}, not above {last}")
}

/// A content of `overwrite` that was taken apart: as many positions as values, strictly ascending.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overwrite<'c> {
    positions: &'c [[u8; 4]],
    values: &'c [u8],
}

impl<'c> Overwrite<'c> {
    /// # Errors
    /// What is wrong, in one line.
    pub(super) fn parse(content: &'c [u8]) -> Result<Self, String> {
        let held = count_by_length(content.len() as u64).ok_or_else(|| length_fault(content.len() as u64))?;
        let (told, rest) = content.split_first_chunk::<4>().ok_or_else(|| length_fault(0))?;
        let told = u32::from_le_bytes(*told);
        if u64::from(told) != held {
            return Err(count_fault(told, held));
        }
        let split = rest.split_at_checked(rest.len() / 5 * 4).ok_or_else(|| count_fault(told, held))?;
        let (positions, values) = (split.0.as_chunks::<4>().0, split.1);
        let mut order = Order::default();
        positions.iter().try_for_each(|position| order.next(*position))?;
        Ok(Self { positions, values })
    }

    /// The last, and so the largest, position.
    pub(super) fn last(&self) -> Option<u32> {
        self.positions.last().map(|position| u32::from_le_bytes(*position))
    }

    /// Writes the bytes; positions beyond the end are passed over.
    pub(super) fn apply(&self, tensor: &mut [u8]) {
        for (position, value) in self.positions.iter().zip(self.values) {
            let place = usize::try_from(u32::from_le_bytes(*position)).ok();
            if let Some(byte) = place.and_then(|place| tensor.get_mut(place)) {
                *byte = *value;
            }
        }
    }
}

/// Holds positions against the one before.
#[derive(Default)]
struct Order {
    number: usize,
    last: Option<u32>,
}

impl Order {
    fn next(&mut self, position: [u8; 4]) -> Result<(), String> {
        let position = u32::from_le_bytes(position);
        if let Some(last) = self.last.filter(|last| position <= *last) {
            return Err(order_fault(self.number, position, last));
        }
        self.number += 1;
        self.last = Some(position);
        Ok(())
    }
}

/// Why a scan ended.
#[derive(Debug)]
pub(super) enum ScanFault {
    /// The frame does not decode to what it announces.
    Frame(String),
    /// The content is none of `overwrite`.
    Content(String),
}

/// Checks a content of `announced` bytes as [`Overwrite::parse`] does, in little memory: of what base it is, and so how
/// long it may be, is not known.
pub(super) fn scan(mut content: impl Read, announced: u64) -> Result<(), ScanFault> {
    const BLOCK: usize = 64 * 1024;
    let held = count_by_length(announced).ok_or_else(|| ScanFault::Content(length_fault(announced)))?;
    let mut told = [0; 4];
    fill(&mut content, &mut told)?;
    if u64::from(u32::from_le_bytes(told)) != held {
        return Err(ScanFault::Content(count_fault(u32::from_le_bytes(told), held)));
    }
    let mut block = vec![0; BLOCK];
    let mut order = Order::default();
    // Positions, then values, of which only the number counts.
    for (size, ordered) in [(4, true), (1, false)] {
        let mut left = held * size;
        while left > 0 {
            let len = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
            fill(&mut content, &mut block[..len])?;
            if ordered {
                let positions = block[..len].as_chunks::<4>().0;
                positions
                    .iter()
                    .try_for_each(|position| order.next(*position))
                    .map_err(ScanFault::Content)?;
            }
            left -= len as u64;
        }
    }
    match content.read(&mut block[..1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(ScanFault::Frame(format!("more than the announced {announced} bytes come out"))),
        Err(error) => Err(ScanFault::Frame(error.to_string())),
    }
}

fn fill(content: &mut impl Read, bytes: &mut [u8]) -> Result<(), ScanFault> {
    content.read_exact(bytes).map_err(|error| ScanFault::Frame(error.to_string()))
}

fn overwrite(base: &[u8], new: &[u8]) -> Vec<u8> {
    let changed = || base.iter().zip(new).enumerate().filter(|(_, (base, new))| base != new);
    let count = changed().count();
    let mut content = Vec::with_capacity(4 + 5 * count);
    content.extend((count as u32).to_le_bytes());
    content.extend(changed().flat_map(|(place, _)| (place as u32).to_le_bytes()));
    content.extend(changed().map(|(_, (_, new))| *new));
    content
}

#[cfg(test)]
mod tests {
    use super::{Encoding, Overwrite, ScanFault, count_by_length, scan};
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

    fn content(count: u32, positions: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = count.to_le_bytes().to_vec();
        bytes.extend(positions.iter().flat_map(|position| position.to_le_bytes()));
        bytes.extend(values);
        bytes
    }

    #[test]
    fn a_content_says_which_bytes_become_what() {
        let sound = content(2, &[1, 3], &[7, 8]);
        let parsed = Overwrite::parse(&sound).unwrap();
        let mut tensor = [0; 4];
        parsed.apply(&mut tensor);
        assert_eq!((tensor, parsed.last()), ([0, 7, 0, 8], Some(3)));
        assert_eq!(Encoding::Overwrite.encode(&[0; 4], &tensor), sound);
        assert_eq!(Encoding::Xor.encode(&[5, 5, 0, 0], &[5, 4, 0, 1]), [0, 1, 0, 1]);
        assert_eq!(Overwrite::parse(&[0; 4]).unwrap().last(), None);
    }

    #[test]
    fn lies_are_named_by_both_readers() {
        for (bytes, wanted) in [
            (vec![], "0 bytes are no count"),
            (vec![0; 3], "3 bytes are no count"),
            (vec![0; 10], "10 bytes are no count"),
            (content(3, &[1, 3], &[7, 8]), "its count is 3, its length that of 2"),
            (content(u32::MAX, &[1, 3], &[7, 8]), "its count is 4294967295"),
            (content(2, &[3, 3], &[7, 8]), "position 1 is 3, not above 3"),
            (content(3, &[1, 9, 4], &[7, 8, 9]), "position 2 is 4, not above 9"),
        ] {
            let parsed = Overwrite::parse(&bytes).unwrap_err();
            assert!(parsed.starts_with(wanted), "{parsed}");
            match scan(&bytes[..], bytes.len() as u64) {
                Err(ScanFault::Content(scanned)) => assert_eq!(scanned, parsed),
                other => panic!("{other:?}"),
            }
        }
        let sound = content(2, &[1, 3], &[7, 8]);
        assert!(matches!(scan(&sound[..13], 14), Err(ScanFault::Frame(_))), "cut");
        assert!(matches!(scan(&[&sound[..], &[0]].concat()[..], 14), Err(ScanFault::Frame(_))), "long");
        assert_eq!(count_by_length(4 + 5 * (u64::from(u32::MAX) + 1)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_alike_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let scanned = scan(&bytes[..], bytes.len() as u64);
            prop_assert_eq!(Overwrite::parse(&bytes).is_ok(), scanned.is_ok());
        }

        #[test]
        fn counted_bytes_are_read_alike(rest in proptest::collection::vec(any::<[u8; 5]>(), 0..9)) {
            let bytes = content(rest.len() as u32, &[], &rest.concat());
            let parsed = Overwrite::parse(&bytes);
            prop_assert_eq!(parsed.is_ok(), scan(&bytes[..], bytes.len() as u64).is_ok());
            if let Ok(parsed) = parsed {
                parsed.apply(&mut [0; 64]);
            }
        }

        #[test]
        fn what_is_encoded_gives_the_new_bytes(
            (base, new) in proptest::collection::vec(0u8..4, 0..300)
                .prop_flat_map(|base| (Just(base.clone()), proptest::collection::vec(0u8..4, base.len()))),
        ) {
            let content = Encoding::Overwrite.encode(&base, &new);
            prop_assert!(scan(&content[..], content.len() as u64).is_ok());
            let mut tensor = base.clone();
            Overwrite::parse(&content).unwrap().apply(&mut tensor);
            prop_assert_eq!(&tensor, &new);
            let xor = Encoding::Xor.encode(&base, &new);
            prop_assert_eq!(Encoding::Xor.encode(&base, &xor), new);
        }
    }
}
