//! Checksums of a tensor's new bytes.

/// The algorithm of a version's checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// XXH3 of 128 bits, without a seed.
    Xxh3,
    /// BLAKE3, 256 bits.
    Blake3,
    /// Adler-32, as zlib computes it.
    Adler32,
}

impl Checksum {
    /// Every one of them.
    pub(super) const ALL: &[Checksum] = &[Checksum::Xxh3, Checksum::Blake3, Checksum::Adler32];

    /// The value of `checksum_format`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Checksum::Xxh3 => "xxh3-128",
            Checksum::Blake3 => "blake3",
            Checksum::Adler32 => "adler32",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|checksum| checksum.name() == name)
    }

    /// Hexadecimal digits of one.
    pub(super) fn digits(self) -> usize {
        match self {
            Checksum::Xxh3 => 32,
            Checksum::Blake3 => 64,
            Checksum::Adler32 => 8,
        }
    }

    /// The checksum of bytes, as lower-case hexadecimal digits.
    pub(super) fn hex(self, bytes: &[u8]) -> String {
        match self {
            Checksum::Xxh3 => format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes)),
            Checksum::Blake3 => blake3::hash(bytes).to_hex().to_string(),
            Checksum::Adler32 => format!("{:08x}", adler2::adler32_slice(bytes)),
        }
    }

    /// What is wrong with a text that should be such a checksum.
    pub(super) fn fault(self, text: &str) -> Option<String> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let sound = text.len() == self.digits() && text.bytes().all(is_digit);
        let shown = || crate::error::one_line(&text.chars().take(80).collect::<String>());
        let wanted = || format!("{} lower-case hexadecimal digits of {}", self.digits(), self.name());
        (!sound).then(|| format!("its checksum is {:?}, expected {}", shown(), wanted()))
    }
}

#[cfg(test)]
mod tests {
    use super::Checksum;

    #[test]
    fn digits_are_those_of_the_published_test_vectors() {
        let empty: Vec<String> = Checksum::ALL.iter().map(|checksum| checksum.hex(b"")).collect();
        assert_eq!(
            empty,
            [
                "99aa06d3014798d86001c324468d497f",
                "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                "00000001",
            ]
        );
        assert_eq!(Checksum::Adler32.hex(b"Wikipedia"), "11e60398");
    }

    #[test]
    fn a_checksum_is_lower_case_and_whole() {
        assert_eq!(Checksum::Adler32.fault("0000000f"), None);
        for text in ["0000000F", "0f", "0000000f0", "0000000g", ""] {
            assert!(Checksum::Adler32.fault(text).is_some(), "{text}");
        }
        for checksum in Checksum::ALL {
            assert_eq!(checksum.fault(&checksum.hex(b"x")), None);
            assert_eq!(Checksum::of_name(checksum.name()), Some(*checksum));
        }
    }
}
