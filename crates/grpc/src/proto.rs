//! Protocol buffers' wire format, as far as the messages we speak need it: written and read by hand, field by field.
//!
//! Source: protobuf.dev "Encoding"; fields at their default are left out, unknown ones are skipped.

use std::collections::BTreeMap;

/// String → string.
pub type Map = BTreeMap<String, String>;

/// A message being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub fn text(mut self, field: u32, text: &str) -> Self {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    /// Bytes as they are; left out when there are none.
    pub fn data(mut self, field: u32, bytes: &[u8]) -> Self {
        if !bytes.is_empty() {
            self.bytes(field, bytes);
        }
        self
    }

    pub fn texts<'a>(mut self, field: u32, all: impl IntoIterator<Item = &'a str>) -> Self {
        for text in all {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    pub fn number(mut self, field: u32, value: i64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value as u64);
        }
        self
    }

    pub fn flag(self, field: u32, value: bool) -> Self {
        self.number(field, value.into())
    }

    /// Also when it's empty: that a message is there may be all it says.
    pub fn message(mut self, field: u32, message: &Message) -> Self {
        self.bytes(field, &message.0);
        self
    }

    pub fn map(mut self, field: u32, map: &Map) -> Self {
        for (key, value) in map {
            let pair = Message::default().text(1, key).text(2, value);
            self.bytes(field, &pair.0);
        }
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One field that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub fn text(self) -> String {
        match self {
            Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::Number(_) => String::new(),
        }
    }
    pub fn number(self) -> i64 {
        match self {
            Value::Number(value) => value as i64,
            Value::Bytes(_) => 0,
        }
    }
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(_) => &[],
        }
    }
    /// The fields of a message in a message.
    pub fn fields(self) -> Fields<'a> {
        match self {
            Value::Bytes(bytes) => Fields(bytes),
            Value::Number(_) => Fields(&[]),
        }
    }
    /// The key and value of an entry of a map.
    pub fn pair(self) -> (String, String) {
        let mut pair = (String::new(), String::new());
        for (field, value) in self.fields() {
            match field {
                1 => pair.0 = value.text(),
                2 => pair.1 = value.text(),
                _ => {}
            }
        }
        pair
    }
}

/// The fields of a message, in order; reading ends where the bytes are no message.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
    fn next_field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((field, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let found = self.next_field();
        if found.is_none() {
            self.0 = &[];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().number(1, -1).flag(2, true);
        let map = Map::from([("k".into(), "v".into())]);
        let message = Message::default()
            .text(1, "id")
            .text(2, "")
            .number(3, 300)
            .number(4, 0)
            .message(5, &inner)
            .message(6, &Message::default())
            .map(7, &map)
            .texts(8, ["a", ""]);
        let fields: Vec<_> = Fields(message.as_bytes()).collect();
        assert_eq!(
            fields.iter().map(|(f, _)| *f).collect::<Vec<_>>(),
            [1, 3, 5, 6, 7, 8, 8]
        );
        assert_eq!(fields[0].1.text(), "id");
        assert_eq!(fields[1].1.number(), 300);
        let inner: Vec<_> = fields[2].1.fields().map(|(f, v)| (f, v.number())).collect();
        assert_eq!(inner, [(1, -1), (2, 1)]);
        assert_eq!(fields[4].1.pair(), ("k".into(), "v".into()));
        // protoc's own bytes for {1: "id", 3: 300}
        assert!(message.as_bytes().starts_with(b"\x0a\x02id\x18\xac\x02"));
    }

    #[test]
    fn broken_bytes_end_the_reading() {
        for bytes in [&b"\x0a\x05ab"[..], b"\xff", b"\x0b", b"\x18\xff\xff"] {
            assert_eq!(Fields(bytes).count(), 0, "{bytes:?}");
        }
        // fixed-width fields are skipped
        let mut fixed = vec![0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4];
        fixed.extend([0x18, 7]);
        assert_eq!(Fields(&fixed).last(), Some((3, Value::Number(7))));
    }
}
