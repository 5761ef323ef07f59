//! What is wrong with YAML, in the words of Go's reader (`go.yaml.in/yaml/v2`, a port of libyaml), as far as the error of
//! ours tells; and where the first of several documents ends, which is all that reader looks at.

/// Who finds the fault: it decides which line is named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Counts from one, and doesn't name the first.
    Scanner,
    /// Counts from zero, and doesn't name the first.
    Parser,
    /// Names no line.
    Other,
}

/// What ours says, and Go's words for it.
const WORDS: &[(&str, &str, By)] = &[
    (
        "unclosed quote",
        "found unexpected end of stream",
        By::Scanner,
    ),
    (
        "tabs disallowed",
        "found character that cannot start any token",
        By::Scanner,
    ),
    (
        "unexpected character: `\\u{",
        "control characters are not allowed",
        By::Other,
    ),
    (
        "did not find expected hexadecimal number",
        "did not find expected hexdecimal number",
        By::Scanner,
    ),
    (
        "surrogate",
        "found invalid Unicode character escape code",
        By::Scanner,
    ),
    (
        "unknown escape character",
        "found unknown escape character",
        By::Scanner,
    ),
    (
        "invalid !!binary base64",
        "!!binary value contains invalid base64 data",
        By::Other,
    ),
    (
        "mapping values are not allowed in this context",
        "mapping values are not allowed in this context",
        By::Scanner,
    ),
    (
        "block sequence entries are not allowed in this context",
        "block sequence entries are not allowed in this context",
        By::Scanner,
    ),
    (
        "did not find expected key",
        "did not find expected key",
        By::Parser,
    ),
    (
        "did not find expected '-' indicator",
        "did not find expected '-' indicator",
        By::Parser,
    ),
    (
        "did not find expected node content",
        "did not find expected node content",
        By::Parser,
    ),
];

/// Go's words for our error (`error: line 1 column 5: why\n…`).
pub fn of(text: &str, error: &str) -> String {
    let head = error.lines().next().unwrap_or(error);
    let head = head.strip_prefix("error: ").unwrap_or(head);
    let (line, column) = place(head);
    if head.contains("unknown anchor") {
        let name = alias_at(text, line, column).unwrap_or_default();
        return format!("unknown anchor '{name}' referenced");
    }
    if head.contains("unclosed bracket") {
        return located(unclosed(text), By::Parser, lines(text) + 1);
    }
    let known = WORDS.iter().find(|(ours, ..)| head.contains(ours));
    if let Some((_, words, by)) = known {
        // the fault is where the text ends
        let line = if head.contains("unclosed quote") {
            text.matches('\n').count() + 1
        } else {
            line
        };
        return located(words, *by, line);
    }
    match head.split_once(" column ") {
        Some((line, rest)) => match rest.split_once(": ") {
            Some((_, why)) => format!("{line}: {why}"),
            None => line.to_string(),
        },
        None => head.to_string(),
    }
}

fn located(words: &str, by: By, line: usize) -> String {
    let shown = match by {
        By::Scanner if line > 1 => line,
        By::Parser => line.saturating_sub(1),
        _ => 0,
    };
    match shown {
        0 => words.to_owned(),
        n => format!("line {n}: {words}"),
    }
}

/// Lines of the text, the last one even when it isn't ended.
fn lines(text: &str) -> usize {
    text.lines().count()
}

/// What is missed where a flow collection isn't closed.
fn unclosed(text: &str) -> &'static str {
    let mut open = Vec::new();
    for c in text.chars() {
        match c {
            '[' | '{' => open.push(c),
            ']' | '}' => {
                open.pop();
            }
            _ => {}
        }
    }
    match (text.trim_end().chars().next_back(), open.last()) {
        (Some('[' | '{' | ',' | ':'), _) => "did not find expected node content",
        (_, Some('[')) => "did not find expected ',' or ']'",
        _ => "did not find expected ',' or '}'",
    }
}

/// `line 3 column 5: …`
fn place(head: &str) -> (usize, usize) {
    let number = |after: &str| {
        let rest = head.split(after).nth(1)?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    (number("line ").unwrap_or(1), number("column ").unwrap_or(1))
}

fn alias_at(text: &str, line: usize, column: usize) -> Option<&str> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let rest = line.get(column.checked_sub(1)?..)?;
    let rest = &rest[rest.find('*')? + 1..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')));
    Some(&rest[..end.unwrap_or(rest.len())])
}

/// Go's words for bytes that aren't UTF-8.
pub fn no_utf8(bytes: &[u8], e: std::str::Utf8Error) -> &'static str {
    let before = &bytes[..e.valid_up_to().min(bytes.len())];
    if before.iter().any(|b| *b < b' ' && !b"\t\n\r".contains(b)) {
        return "control characters are not allowed";
    }
    let first = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
    match (first, e.error_len()) {
        (0x80..0xc0 | 0xf8.., _) => "invalid leading UTF-8 octet",
        (0xc0 | 0xc1, _) => "invalid length of a UTF-8 sequence",
        (_, None) => "incomplete UTF-8 octet sequence",
        _ => "invalid trailing UTF-8 octet",
    }
}

/// The first document, when the error says that there is more behind it.
pub fn first_document<'t>(text: &'t str, error: &str) -> Option<&'t str> {
    let head = error.lines().next()?;
    if head.contains("multiple YAML documents") {
        let mut at = 0;
        let mut begun = false;
        for line in text.split_inclusive('\n') {
            let bare = line.trim_end();
            let mark = bare == "---" || bare.starts_with("--- ") || bare == "...";
            if mark && begun {
                return Some(&text[..at]);
            }
            begun |= !mark && !bare.is_empty() && !bare.starts_with('#');
            at += line.len();
        }
        return None;
    }
    if !head.contains("<document start>") {
        return None;
    }
    let (line, column) = place(head.strip_prefix("error: ").unwrap_or(head));
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = text.get(before..)?;
    let within: usize = rest
        .chars()
        .take(column.saturating_sub(1))
        .map(char::len_utf8)
        .sum();
    text.get(..before + within).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_go_says() {
        for (name, text, error, want) in [
            (
                "brace",
                "{ ",
                "error: line 1 column 1: unclosed bracket '{'",
                "line 1: did not find expected node content",
            ),
            (
                "bracket",
                "a: [b",
                "error: line 1 column 4: unclosed bracket '['",
                "line 1: did not find expected ',' or ']'",
            ),
            (
                "quote",
                "a: \"b",
                "error: line 1 column 4: unclosed quote",
                "found unexpected end of stream",
            ),
            (
                "late quote",
                "x: y\na: \"b",
                "error: line 2 column 4: unclosed quote",
                "line 2: found unexpected end of stream",
            ),
            (
                "tab",
                "a:\n\t- b",
                "error: line 2 column 1: tabs disallowed within this context",
                "line 2: found character that cannot start any token",
            ),
            (
                "alias",
                "a: *b",
                "error: line 1 column 4: alias references unknown anchor",
                "unknown anchor 'b' referenced",
            ),
            (
                "other",
                "a",
                "error: line 7 column 4: something else",
                "line 7: something else",
            ),
        ] {
            assert_eq!(of(text, error), want, "{name}");
        }
    }

    #[test]
    fn the_first_document_is_all_that_counts() {
        for (text, error, want) in [
            (
                "a: b\n---\nc: d\n",
                "error: line 3 column 1: multiple YAML documents detected",
                Some("a: b\n"),
            ),
            (
                "---\na: b\n--- c\n",
                "error: multiple YAML documents detected",
                Some("---\na: b\n"),
            ),
            (
                "{} x",
                "error: line 1 column 4: did not find expected <document start>",
                Some("{} "),
            ),
            ("a", "error: line 1 column 4: something else", None),
        ] {
            assert_eq!(first_document(text, error), want, "{text}");
        }
    }
}
