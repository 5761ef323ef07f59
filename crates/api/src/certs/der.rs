//! As much of DER (X.690) as a certificate needs.

/// Universal and context tags used here.
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// First year that UTCTime can't tell (RFC 5280, 4.1.2.5).
const GENERALIZED_FROM_YEAR: i16 = 2050;

/// Tag, length, content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        n @ 0..128 => out.push(n as u8),
        n => {
            let bytes = n.to_be_bytes();
            let significant = &bytes[(n.leading_zeros() / 8) as usize..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A SEQUENCE of these.
pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// An object identifier from its arcs.
pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut push = |arc: u64| {
        let groups = (64 - arc.max(1).leading_zeros()).div_ceil(7);
        for i in (0..groups).rev() {
            let more = if i > 0 { 0x80 } else { 0 };
            content.push(((arc >> (7 * i)) & 0x7f) as u8 | more);
        }
    };
    if let [first, second, rest @ ..] = arcs {
        push(first * 40 + second);
        rest.iter().for_each(|arc| push(*arc));
    }
    tlv(OID, &content)
}

/// BOOLEAN TRUE.
pub fn yes() -> Vec<u8> {
    tlv(BOOLEAN, &[0xff])
}

/// A BIT STRING of whole bytes.
pub fn bits(bytes: &[u8]) -> Vec<u8> {
    let mut content = vec![0];
    content.extend_from_slice(bytes);
    tlv(BIT_STRING, &content)
}

/// A named-bit list: bit `i` of `mask` is the i-th name; trailing zero bits are left out.
pub fn named_bits(mask: u16) -> Vec<u8> {
    let reversed = mask.reverse_bits().to_be_bytes();
    let used = 16 - mask.leading_zeros() as usize;
    let bytes = &reversed[..used.div_ceil(8)];
    let mut content = vec![(bytes.len() * 8 - used) as u8];
    content.extend_from_slice(bytes);
    tlv(BIT_STRING, &content)
}

/// A point in time, in whole seconds.
pub fn time(at: jiff::Timestamp) -> Vec<u8> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    if at.year() < GENERALIZED_FROM_YEAR {
        tlv(
            UTC_TIME,
            at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes(),
        )
    } else {
        let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
        tlv(GENERALIZED_TIME, text.as_bytes())
    }
}

/// An X.509 Extension.
pub fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { yes() } else { vec![] };
    sequence(&[&oid(id), &critical, &tlv(OCTET_STRING, value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_openssl_does() {
        for (name, got, want) in [
            ("short", tlv(OCTET_STRING, b"ab"), "04026162"),
            (
                "oid",
                oid(&[1, 2, 840, 10045, 4, 3, 2]),
                "06082a8648ce3d040302",
            ),
            ("oid with 2.x", oid(&[2, 5, 29, 37, 0]), "0604551d2500"),
            ("digitalSignature", named_bits(1), "03020780"),
            (
                "digitalSignature, keyEncipherment",
                named_bits(0b101),
                "030205a0",
            ),
            ("decipherOnly", named_bits(1 << 8), "0303070080"),
            ("no bits", named_bits(0), "030100"),
            ("whole bytes", bits(&[1, 2]), "0303000102"),
        ] {
            assert_eq!(hex::encode(got), want, "{name}");
        }
        let long = tlv(OCTET_STRING, &[7; 300]);
        assert_eq!(hex::encode(&long[..5]), "0482012c07");
        let long = tlv(OCTET_STRING, &[7; 200]);
        assert_eq!(hex::encode(&long[..4]), "0481c807");
        for (at, want) in [
            ("2026-01-02T03:04:05Z", &b"\x17\x0d260102030405Z"[..]),
            ("2050-01-02T03:04:05Z", &b"\x18\x0f20500102030405Z"[..]),
        ] {
            assert_eq!(time(at.parse().unwrap()), want, "{at}");
        }
    }
}
