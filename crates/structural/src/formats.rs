//! Formats of strings: kube-openapi `pkg/validation/strfmt`, as far as apiextensions-apiserver supports them
//! (`pkg/apiserver/validation/formats.go`).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Of strings, without dashes.
const OF_STRINGS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// The format when it means something for values of the type, else nothing.
pub fn supported<'f>(ty: &str, format: &'f str) -> &'f str {
    let known = match ty {
        "" | "string" => OF_STRINGS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known { format } else { "" }
}

/// Whether the text has the format; None for formats that aren't of strings.
pub fn check(format: &str, text: &str) -> Option<bool> {
    Some(match format.replace('-', "").as_str() {
        "bsonobjectid" => text.len() == 24 && hex(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => is_ipv4(text),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hex(digits)
        }
        "rgbcolor" => is_rgb(text),
        "byte" => is_base64(text),
        "password" => true,
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => text.len() <= 63 && is_label(text),
        "k8slongname" => text.len() <= 253 && text.split('.').all(is_label),
        _ => return None,
    })
}

fn hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| inner(*b))
        && bytes.last().is_some_and(|b| inner(*b))
        && bytes.iter().all(|b| inner(*b) || *b == b'-')
}

/// An absolute path or URI, as Go's `url.ParseRequestURI` takes it.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    let escapes = text
        .split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.is_char_boundary(2) && hex(&after[..2]));
    if text.starts_with('/') || text == "*" {
        return escapes;
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let mut letters = scheme.bytes();
    let scheme_ok = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let host = rest
        .strip_prefix("//")
        .map(|r| r.split(['/', '?', '#']).next().unwrap_or(""));
    let host_ok = host.is_none_or(|h| {
        let h = h.rsplit('@').next().unwrap_or(h);
        let port = match h.rfind(']') {
            Some(at) => h[at + 1..].strip_prefix(':'),
            None => h.rsplit_once(':').map(|(_, p)| p),
        };
        !h.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '}', '|'])
            && port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()))
    });
    scheme_ok && host_ok && escapes && !rest.is_empty()
}

fn is_email(text: &str) -> bool {
    // `Name <address>` is one, too
    let address = match (text.rfind('<'), text.ends_with('>')) {
        (Some(at), true) => &text[at + 1..text.len() - 1],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let dotted = |part: &str| {
        part.split('.')
            .all(|a| !a.is_empty() && a.chars().all(atom))
    };
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (quoted || dotted(local)) && (literal || dotted(domain))
}

fn is_hostname(text: &str) -> bool {
    if text.is_empty() || text.len() > 255 {
        return false;
    }
    let symbol =
        |c: char| c.is_alphanumeric() && (c.is_ascii() || c.is_alphabetic()) || !c.is_ascii();
    let parts: Vec<&str> = text.split('.').collect();
    let segment = |p: &&str| {
        !p.is_empty()
            && p.len() <= 63
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.chars().all(|c| symbol(c) || c == '-')
    };
    let Some((top, _)) = parts.split_last() else {
        return false;
    };
    let top_ok =
        parts.len() == 1 || top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
    parts.iter().all(segment) && top_ok
}

/// Leading zeros are tolerated, as before Go 1.17.
fn is_ipv4(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let plain = parts.len() == 4
        && parts.iter().all(|p| {
            !p.is_empty()
                && p.len() <= 16
                && p.bytes().all(|b| b.is_ascii_digit())
                && p.parse::<u64>().is_ok_and(|n| n < 256)
        });
    plain
        || text.parse::<Ipv4Addr>().is_ok()
        || text.contains('.') && text.parse::<Ipv6Addr>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let digits = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
    let Some(bits) = bits.parse::<u32>().ok().filter(|_| digits) else {
        return false;
    };
    if address.contains(':') {
        address.parse::<Ipv6Addr>().is_ok() && bits <= 128
    } else {
        is_ipv4(address) && bits <= 32
    }
}

/// Go's `net.ParseMAC`: 6, 8 or 20 bytes with colons, dashes or dots.
fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        let good = parts.iter().all(|p| p.len() == digits && hex(p));
        good && matches!(parts.len() * digits, 12 | 16 | 40)
    };
    groups(':', 2) || groups('-', 2) || groups('.', 4)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut rest = text;
    let mut digits = String::with_capacity(32);
    for (i, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        match rest.get(..length).filter(|p| hex(p)) {
            Some(part) => digits.push_str(part),
            None => return false,
        }
        rest = &rest[length..];
    }
    let at = |i: usize| digits.as_bytes()[i] as char;
    rest.is_empty()
        && version.is_none_or(|v| at(12) == v)
        && (!matches!(version, Some('4' | '5')) || "89abAB".contains(at(16)))
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits_of(text);
    let mut sum = 0;
    for (i, b) in text.bytes().enumerate() {
        let value = match b {
            b'0'..=b'9' => u32::from(b - b'0'),
            b'X' if i == 9 => 10,
            _ => return false,
        };
        sum += (10 - i.min(10) as u32) * value;
    }
    text.len() == 10 && sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = digits_of(text);
    let sum: u32 = text
        .bytes()
        .enumerate()
        .map(|(i, b)| u32::from(b.wrapping_sub(b'0')) * if i % 2 == 0 { 1 } else { 3 })
        .sum();
    text.len() == 13 && text.bytes().all(|b| b.is_ascii_digit()) && sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let n = digits.len();
    let head = |k: usize| digits.iter().take(k).fold(0, |n, d| n * 10 + d);
    let issuer = match n {
        13 | 16 if head(1) == 4 => true,
        16 => {
            (51..=55).contains(&head(2))
                || head(4) == 6011
                || head(2) == 65
                || (2221..=2720).contains(&head(4))
        }
        15 => matches!(head(2), 34 | 37) || matches!(head(4), 2131 | 1800),
        14 => (300..=305).contains(&head(3)) || matches!(head(2), 36 | 38),
        _ => false,
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| match i % 2 {
            0 => *d,
            _ => d * 2 / 10 + d * 2 % 10,
        })
        .sum();
    issuer && sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let b = text.as_bytes();
    let digits = text.bytes().filter(u8::is_ascii_digit).count() == 9;
    let shape = match b.len() {
        9 => true,
        10 => matches!(b[3], b'-' | b' ') || matches!(b[5], b'-' | b' '),
        11 => matches!(b[3], b'-' | b' ') && matches!(b[6], b'-' | b' '),
        _ => false,
    };
    digits && shape
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')'));
    inner.is_some_and(|t| {
        let parts: Vec<&str> = t.split(',').map(str::trim).collect();
        parts.len() == 3
            && parts.iter().all(|p| {
                p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n <= 255)
            })
    })
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn is_date(text: &str) -> bool {
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    shape && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else {
        return false;
    };
    let b = time.as_bytes();
    let two = |at: usize, max: u8| {
        let digits = b
            .get(at..at + 2)
            .filter(|d| d.iter().all(u8::is_ascii_digit));
        digits.is_some_and(|d| (d[0] - b'0') * 10 + (d[1] - b'0') <= max)
    };
    let clock = two(0, 23)
        && b.get(2) == Some(&b':')
        && two(3, 59)
        && b.get(5) == Some(&b':')
        && two(6, 59);
    if !is_date(date) || !clock || !time.is_char_boundary(8) {
        return false;
    }
    let rest = &time[8..];
    let zone = match rest.char_indices().nth(1) {
        Some((after, c)) if c.is_ascii_digit() && !rest.starts_with(['+', '-']) => {
            rest[after..].trim_start_matches(|c: char| c.is_ascii_digit())
        }
        _ => rest,
    };
    let z = zone.as_bytes();
    zone == "z"
        || z.len() == 6
            && matches!(z[0], b'+' | b'-')
            && z[3] == b':'
            && [1, 2, 4, 5].iter().all(|i| z[*i].is_ascii_digit())
}

fn is_duration(text: &str) -> bool {
    go_duration(text) || scala_duration(text)
}

/// Go's `time.ParseDuration`.
fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = &rest[..end];
        if number.matches('.').count() > 1 || !number.bytes().any(|b| b.is_ascii_digit()) {
            return false;
        }
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return false,
        };
        nanos += number.trim_end_matches('.').parse::<f64>().unwrap_or(0.0) * unit;
        rest = &rest[end..];
    }
    nanos < 9.3e18
}

/// `3 days`, anywhere in the text.
fn scala_duration(text: &str) -> bool {
    const UNITS: [(&[&str], &str); 8] = [
        (&["ns"], "nano"),
        (&["us", "µs"], "micro"),
        (&["ms"], "milli"),
        (&["s"], "sec"),
        (&["m"], "min"),
        (&["h", "hr"], "hour"),
        (&["d"], "day"),
        (&["w", "wk"], "week"),
    ];
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let after = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
        let word = after.trim_start();
        let end = word
            .find(|c: char| !c.is_ascii_alphabetic() && c != 'µ')
            .unwrap_or(word.len());
        let unit = word[..end].to_lowercase();
        let known = UNITS
            .iter()
            .any(|(exact, prefix)| exact.contains(&unit.as_str()) || unit.starts_with(prefix));
        if known {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            (
                "uri",
                vec!["https://a.b/c?d", "/p", "urn:x:y"],
                vec!["a b", "nope", "http://[::1:x"],
            ),
            (
                "email",
                vec!["a@b.c", "N <a@b>"],
                vec!["a", "@b", "a@", "a@b..c"],
            ),
            (
                "hostname",
                vec!["a", "a.example", "1.example"],
                vec!["", "-a", "a.1", "a_b"],
            ),
            (
                "ipv4",
                vec!["1.2.3.4", "01.2.3.4"],
                vec!["1.2.3", "256.1.1.1", "::1"],
            ),
            ("ipv6", vec!["::1", "fe80::1"], vec!["1.2.3.4", "x"]),
            (
                "cidr",
                vec!["10.0.0.0/8", "fd00::/64"],
                vec!["10.0.0.0", "10.0.0.0/33"],
            ),
            (
                "mac",
                vec!["00:11:22:33:44:55", "0011.2233.4455"],
                vec!["00:11", "zz:11:22:33:44:55"],
            ),
            (
                "uuid",
                vec![
                    "123e4567-e89b-12d3-a456-426614174000",
                    "123E4567e89b12d3a456426614174000",
                ],
                vec!["123e4567"],
            ),
            (
                "uuid4",
                vec!["123e4567-e89b-42d3-a456-426614174000"],
                vec!["123e4567-e89b-12d3-a456-426614174000"],
            ),
            (
                "isbn",
                vec!["0321751043", "978-0321751041"],
                vec!["0321751044"],
            ),
            (
                "creditcard",
                vec!["4111 1111 1111 1111"],
                vec!["4111 1111 1111 1112"],
            ),
            ("ssn", vec!["111-11-1111", "111111111"], vec!["111-11-111"]),
            ("hexcolor", vec!["#fff", "abcdef"], vec!["#ffff"]),
            (
                "rgbcolor",
                vec!["rgb(1, 2,255)"],
                vec!["rgb(1,2,256)", "rgb(1,2)"],
            ),
            ("byte", vec!["YQ==", "YWJj"], vec!["YQ=", "a", ""]),
            ("date", vec!["2024-02-29"], vec!["2023-02-29", "2023-2-1"]),
            (
                "date-time",
                vec!["2024-02-29T10:11:12Z", "2024-02-29t10:11:12.5+01:00"],
                vec!["2024-02-29", "2024-02-29T25:11:12Z", "2024-02-29T10:11:12"],
            ),
            (
                "duration",
                vec!["1h30m", "3 days", "1.5s", "-2ms"],
                vec!["x", "1", ""],
            ),
            ("k8s-short-name", vec!["a-1"], vec!["A", "a.b", "-a"]),
            ("k8s-long-name", vec!["a.b-1"], vec!["a..b"]),
        ] {
            assert_ne!(supported("string", format), "", "{format}");
            for text in good {
                assert_eq!(check(format, text), Some(true), "{format} {text}");
            }
            for text in bad {
                assert_eq!(check(format, text), Some(false), "{format} {text}");
            }
        }
        for (ty, format, known) in [
            ("integer", "int32", true),
            ("integer", "date", false),
            ("number", "double", true),
            ("object", "date", false),
            ("string", "int32", false),
            ("", "date-time", true),
        ] {
            assert_eq!(!supported(ty, format).is_empty(), known, "{ty} {format}");
        }
    }
}
