//! The slot of a key, as Redis Cluster counts it.

/// Slots of a cluster.
pub const SLOTS: usize = 16_384;

/// The slot of `key`: of what is in its first pair of braces, if that is something, else of all of it.
pub fn slot_of(key: &str) -> u16 {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tagged.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed.as_bytes()) & 0x3fff
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("{foo}.bar"), slot_of("foo"));
        assert_eq!(slot_of("a{foo}b{bar}"), slot_of("foo"));
        assert_eq!(slot_of("{}foo"), crc16(b"{}foo") & 0x3fff);
        assert_eq!(slot_of("{foo"), crc16(b"{foo") & 0x3fff);
    }
}
