//! CRC-32 as zip uses it (ISO 3309, polynomial 0xEDB88320 reflected), eight bytes at a time.

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of some bytes.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut value = !0u32;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let [a, b, c, d, e, f, g, h] = *word;
        let [a, b, c, d] = (u32::from_le_bytes([a, b, c, d]) ^ value).to_le_bytes();
        value = [a, b, c, d, e, f, g, h]
            .into_iter()
            .zip(TABLES.iter().rev())
            .fold(0, |sum, (byte, table)| sum ^ table[usize::from(byte)]);
    }
    for byte in rest {
        let [low, ..] = value.to_le_bytes();
        value = (value >> 8) ^ TABLES[0][usize::from(low ^ byte)];
    }
    !value
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn agrees_with_the_check_value_and_itself() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(crc32(&bytes), bytes_one_by_one(&bytes));
    }

    fn bytes_one_by_one(bytes: &[u8]) -> u32 {
        let step = |value: u32, byte: &u8| {
            (0..8).fold(
                value ^ u32::from(*byte),
                |v, _| if v & 1 == 1 { (v >> 1) ^ 0xEDB8_8320 } else { v >> 1 },
            )
        };
        !bytes.iter().fold(!0, step)
    }
}
