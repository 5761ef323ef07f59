//! JSON with line breaks and two spaces of indentation, as Go's `json.MarshalIndent` writes it, and YAML.

use serde_json::Value;

/// Indents compact JSON. The order of fields stays.
pub fn json(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 3 / 2);
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    let mut bytes = compact.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        if in_text {
            out.push(b);
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => {
                in_text = true;
                out.push(b);
            }
            b'{' | b'[' => {
                out.push(b);
                if bytes.peek().is_some_and(|n| matches!(n, b'}' | b']')) {
                    out.extend(bytes.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(b);
            }
            b',' => {
                out.push(b);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\t' | b'\r' => {}
            _ => out.push(b),
        }
    }
    out
}

/// JSON as a YAML document.
pub fn yaml(json: &[u8]) -> Result<Vec<u8>, crate::status::Failure> {
    let internal = |e: &dyn std::fmt::Display| {
        crate::status::Failure::internal(format!("an answer can't be written as YAML: {e}"))
    };
    let value: Value = serde_json::from_slice(json).map_err(|e| internal(&e))?;
    let text = serde_saphyr::to_string(&value).map_err(|e| internal(&e))?;
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json as j;

    #[test]
    fn indented_json_is_the_same_json() {
        let value = j!({"a": [], "b": {}, "c": [1, {"d": "x\"{,:\\"}], "e": {"f": null}});
        let pretty = super::json(value.to_string().as_bytes());
        assert_eq!(
            String::from_utf8(pretty).unwrap(),
            serde_json::to_string_pretty(&value).unwrap()
        );
    }

    #[test]
    fn yaml_reads_back_the_same() {
        let value = j!({"s": ["1", "true", "null", "~", "0400", "on", "a: b", "x\ny\n", "", " a", "#", "- a", "1e3", "=", "2020-01-01", "\u{1}é"],
            "n": [1, -2, 1.5, true, null], "m": {"a b": {}, "1": [], "yes": {"k": "v"}}});
        let text = super::yaml(value.to_string().as_bytes()).unwrap();
        assert_eq!(
            crate::decode::yaml(&text).unwrap(),
            value,
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}
