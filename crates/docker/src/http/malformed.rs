//! What is wrong with malformed JSON, in the words of Go's `encoding/json`, which dockerd tells.
//!
//! SOURCE: go `encoding/json/scanner.go`

/// `told` is what our reader made of it.
pub(super) fn told(text: &[u8], told: &serde_json::Error) -> String {
    if text.iter().all(u8::is_ascii_whitespace) {
        return "got EOF while reading request body".into();
    }
    if told.is_eof() {
        return "unexpected EOF".into();
    }
    let line = text.split(|b| *b == b'\n').nth(told.line().max(1) - 1);
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let column = told.column().max(1) - 1;
    let rest = line.get(column..).unwrap_or_default();
    let words = told.to_string();
    let place = [
        (
            "key must be a string",
            "looking for beginning of object key string",
        ),
        ("trailing comma", "looking for beginning of value"),
        ("expected value", "looking for beginning of value"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
        ("invalid number", "in numeric literal"),
    ];
    let place = place.iter().find(|(ours, _)| words.starts_with(ours));
    match (place, rest.chars().next()) {
        (Some(("trailing comma", _)), Some('}')) => {
            "invalid character '}' looking for beginning of object key string".into()
        }
        (Some((_, place)), Some(found)) => {
            let shown = match found {
                '\'' => "\\'".to_string(),
                '"' => "\"".into(),
                found => found.escape_debug().to_string(),
            };
            format!("invalid character '{shown}' {place}")
        }
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_gos() {
        for (text, wanted) in [
            (" ", "got EOF while reading request body"),
            ("{", "unexpected EOF"),
            (r#"{"a": "#, "unexpected EOF"),
            (
                "{invalid json",
                "invalid character 'i' looking for beginning of object key string",
            ),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (
                r#"{"a": 1 "b"}"#,
                "invalid character '\"' after object key:value pair",
            ),
            (
                r#"{"a": [1 2]}"#,
                "invalid character '2' after array element",
            ),
            (
                r#"{"a": ]}"#,
                "invalid character ']' looking for beginning of value",
            ),
            (
                r#"{"a": 1,}"#,
                "invalid character '}' looking for beginning of object key string",
            ),
            (
                "{\n \"a\": 1,\n 'b': 2}",
                "invalid character '\\'' looking for beginning of object key string",
            ),
        ] {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            assert_eq!(super::told(text.as_bytes(), &error), wanted, "{text}");
        }
    }
}
