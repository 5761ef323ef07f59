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
        let mut parts = text.splitn(4, |b| *b == b' ');
        let timestamp = parts.next()?;
        let stream = parts.next()?;
        let tags = parts.next()?;
        let content = parts.next()?;
        let stream = match stream {
            b"stdout" => LogStream::Stdout,
            b"stderr" => LogStream::Stderr,
            _ => return None,
        };
        let partial = tags.split(|b| *b == b':').next() == Some(b"P");
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
