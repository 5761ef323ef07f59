//! One line of a CRI log: `<RFC 3339 time> stdout|stderr F|P <text>`.

use jiff::Timestamp;

use crate::LogStream;

pub(super) struct Line<'a> {
    pub timestamp: &'a [u8],
    pub stream: LogStream,
    pub partial: bool,
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// `text` without its newline; None when it isn't in the format (a torn line).
    pub(super) fn parse(text: &'a [u8]) -> Option<Line<'a>> {
        let (timestamp, rest) = text.split_at(memchr::memchr(b' ', text)?);
        let (stream, rest) = match rest.split_first_chunk()? {
            (b" stdout ", rest) => (LogStream::Stdout, rest),
            (b" stderr ", rest) => (LogStream::Stderr, rest),
            _ => return None,
        };
        let (tags, content) = rest.split_at(memchr::memchr(b' ', rest)?);
        let content = &content[1..];
        // more tags may follow it
        let partial = matches!(tags, b"P" | [b'P', b':', ..]);
        Some(Line {
            timestamp,
            stream,
            partial,
            content,
        })
    }

    pub(super) fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.timestamp).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its time, stream, whether it is partial, and its text.
    type Parts<'a> = (&'a str, LogStream, bool, &'a str);

    #[test]
    fn lines_in_the_format_and_others() {
        let cases: [(&str, Option<Parts<'_>>); 12] = [
            (
                "2026-01-01T00:00:00Z stdout F text",
                Some(("2026-01-01T00:00:00Z", LogStream::Stdout, false, "text")),
            ),
            (
                "t stderr P a  b ",
                Some(("t", LogStream::Stderr, true, "a  b ")),
            ),
            ("t stdout F ", Some(("t", LogStream::Stdout, false, ""))),
            ("t stdout P:x y", Some(("t", LogStream::Stdout, true, "y"))),
            ("t stdout F:P y", Some(("t", LogStream::Stdout, false, "y"))),
            ("t stdout PP y", Some(("t", LogStream::Stdout, false, "y"))),
            ("t stdout F", None),
            ("t stdout ", None),
            ("t stdout", None),
            ("t stdin F text", None),
            ("broken", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let line = Line::parse(text.as_bytes());
            let seen = line.map(|l| {
                let text = |bytes| std::str::from_utf8(bytes).unwrap();
                (text(l.timestamp), l.stream, l.partial, text(l.content))
            });
            assert_eq!(seen, wanted, "{text:?}");
        }
    }
}
