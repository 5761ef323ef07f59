//! Bodies that aren't quite text, as Go's JSON reads them: what isn't UTF-8 in a string, or half a surrogate pair in an
//! escape, is U+FFFD there, and the reading goes on.

use std::borrow::Cow;

use bytes::Bytes;

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
const REPLACEMENT_ESCAPE: &[u8] = b"\\ufffd";

/// The body as it is to be read; the bytes themselves unless something in them has to be replaced.
pub fn mended(content_type: &str, body: Bytes) -> Bytes {
    let json = matches!(
        content_type,
        "" | "application/json"
            | "application/json-patch+json"
            | "application/merge-patch+json"
            | "application/strategic-merge-patch+json"
    );
    if !json {
        return body;
    }
    match mend(&body) {
        Cow::Owned(mended) => mended.into(),
        Cow::Borrowed(_) => body,
    }
}

fn mend(json: &[u8]) -> Cow<'_, [u8]> {
    let halves = json.windows(3).any(|w| matches!(w, b"\\ud" | b"\\uD"));
    if !halves && std::str::from_utf8(json).is_ok() {
        return Cow::Borrowed(json);
    }
    let mut out = Vec::with_capacity(json.len() + REPLACEMENT.len());
    let (mut at, mut in_string) = (0, false);
    while let Some(&b) = json.get(at) {
        let rest = &json[at..];
        let taken = match b {
            b'"' => {
                in_string = !in_string;
                1
            }
            b'\\' if in_string => match escaped(rest) {
                Escape::Half => {
                    out.extend_from_slice(REPLACEMENT_ESCAPE);
                    at += 6;
                    continue;
                }
                Escape::Whole(length) => length.min(rest.len()),
            },
            0x80.. if in_string => match char_length(rest) {
                Some(length) => length,
                None => {
                    out.extend_from_slice(REPLACEMENT);
                    at += 1;
                    continue;
                }
            },
            _ => 1,
        };
        out.extend_from_slice(&rest[..taken]);
        at += taken;
    }
    Cow::Owned(out)
}

enum Escape {
    /// Half a surrogate pair: six bytes.
    Half,
    /// Anything else, of this length.
    Whole(usize),
}

/// What begins with this backslash.
fn escaped(rest: &[u8]) -> Escape {
    let unit = |at: usize| {
        let text = rest.get(at..at + 6)?;
        let digits = text.strip_prefix(b"\\u")?;
        let digits = std::str::from_utf8(digits).ok()?;
        let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| hex)
    };
    match (unit(0), unit(6)) {
        (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => Escape::Whole(12),
        (Some(0xd800..0xe000), _) => Escape::Half,
        (Some(_), _) => Escape::Whole(6),
        (None, _) => Escape::Whole(2),
    }
}

/// Length of the character that the bytes begin with; None when they begin with none.
fn char_length(rest: &[u8]) -> Option<usize> {
    (2..=4).find(|length| {
        rest.get(..*length)
            .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_mended_as_go_does() {
        for (name, given, want) in [
            ("plain", &b"{\"a\":\"\xc3\xa4\"}"[..], "{\"a\":\"ä\"}"),
            ("a byte", b"{\"a\":\"x\xffy\"}", "{\"a\":\"x\u{fffd}y\"}"),
            ("cut short", b"\"\xe2\x82\"", "\"\u{fffd}\u{fffd}\""),
            ("high half", br#""\ud800x""#, r#""\ufffdx""#),
            ("low half", br#""\udc00""#, r#""\ufffd""#),
            (
                "two high",
                br#""\ud800\ud83d\ude00""#,
                r#""\ufffd\ud83d\ude00""#,
            ),
            ("a pair", br#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            ("an escaped backslash", br#""\\ud800""#, r#""\\ud800""#),
            ("at the end", br#""\"#, r#""\"#),
        ] {
            assert_eq!(String::from_utf8_lossy(&mend(given)), want, "{name}");
        }
        assert_eq!(&*mend(b"{\xff}"), b"{\xff}", "outside of strings");
    }
}
