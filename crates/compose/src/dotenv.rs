//! `.env` and `env_file` files, as compose-go's `dotenv` package reads them.

use crate::interpolate::{self, Lookup, Wrong};
use std::collections::BTreeMap;

/// Reads `source` into `out`, later lines over earlier ones. `lookup` goes before what the file itself has said.
///
/// # Errors
/// What is wrong, with the line.
pub(crate) fn parse(
    source: &str,
    out: &mut BTreeMap<String, String>,
    lookup: Lookup<'_>,
) -> Result<(), String> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut at = Reader {
        whole: source,
        rest: source,
    };
    while at.next_statement() {
        let (key, inherited) = at.key()?;
        if key.contains(' ') {
            return Err(at.says("key cannot contain a space"));
        }
        if inherited {
            if let Some(value) = lookup(&key, false) {
                out.insert(key, value);
            }
            continue;
        }
        let value = at.value(out, lookup)?;
        if !key.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert(key, value);
        }
    }
    Ok(())
}

/// The lines of `format: raw`: everything after `=` is the value.
pub(crate) fn parse_raw(source: &str, out: &mut BTreeMap<String, String>, lookup: Lookup<'_>) {
    for line in source.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) => {
                out.insert(key.to_string(), value.to_string());
            }
            None => {
                if let Some(value) = lookup(line, false) {
                    out.insert(line.to_string(), value);
                }
            }
        }
    }
}

struct Reader<'a> {
    whole: &'a str,
    rest: &'a str,
}

/// A space that does not end the line.
fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\t' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{85}' | '\u{a0}'
    )
}

impl<'a> Reader<'a> {
    fn says(&self, what: &str) -> String {
        let read = self.whole.len() - self.rest.len();
        let line = self.whole[..read].matches('\n').count() + 1;
        format!("line {line}: {what}")
    }

    /// Skips blank lines and comments; false at the end.
    fn next_statement(&mut self) -> bool {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            self.rest = self.rest.find('\n').map_or("", |i| &self.rest[i..]);
        }
    }

    /// The name before `=` or `:`; true: the line has nothing but a name.
    fn key(&mut self) -> Result<(String, bool), String> {
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with(char::is_whitespace)
        {
            self.rest = after.trim_start_matches(is_blank);
        }
        for (i, c) in self.rest.char_indices() {
            match c {
                c if is_blank(c) => {}
                '=' | ':' | '\n' => {
                    let key = self.rest[..i].trim_end().to_string();
                    if c == '\n' && key.contains(' ') {
                        return Err(self.says("key cannot contain a space"));
                    }
                    self.rest = self.rest[i + 1..].trim_start_matches(is_blank);
                    return Ok((key, c == '\n'));
                }
                '_' | '.' | '-' | '[' | ']' => {}
                c if c.is_alphanumeric() => {}
                c => {
                    let line = self.rest.lines().next().unwrap_or_default();
                    return Err(self.says(&format!(
                        "unexpected character {:?} in variable name {line:?}",
                        c.to_string()
                    )));
                }
            }
        }
        // The file ends with a bare name.
        let key = self.rest.trim_end().to_string();
        self.rest = "";
        Ok((key, true))
    }

    fn value(
        &mut self,
        known: &BTreeMap<String, String>,
        lookup: Lookup<'_>,
    ) -> Result<String, String> {
        let expand = |text: &str| {
            interpolate::text(text, &|name, bare| {
                lookup(name, bare).or_else(|| known.get(name).cloned())
            })
            .map_err(|wrong| match wrong {
                Wrong::Template(t) => format!("Invalid template: {t:?}"),
                Wrong::Said(m) => m,
            })
        };
        let quote = match self.rest.chars().next() {
            Some(q @ ('"' | '\'')) => q,
            _ => {
                let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
                let value = line.split(" #").next().unwrap_or_default().trim_end();
                let value = expand(value).map_err(|e| self.says(&e))?;
                self.rest = rest;
                return Ok(value);
            }
        };
        let (mut text, mut escaped, mut end) = (String::new(), false, None);
        for (i, c) in self.rest.char_indices().skip(1) {
            if escaped {
                if c != quote {
                    text.push('\\');
                }
                text.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                end = Some(i + 1);
                break;
            } else {
                text.push(c);
            }
        }
        let Some(end) = end else {
            let line = self.rest.lines().next().unwrap_or_default();
            return Err(self.says(&format!("unterminated quoted value {line}")));
        };
        let value = match quote {
            '"' => expand(&escapes(&text)).map_err(|e| self.says(&e))?,
            _ => text,
        };
        self.rest = &self.rest[end..];
        Ok(value)
    }
}

/// The escapes that double quotes know: `\n` and its like, `\"`, `\\`, `\$`, `\0123`; others stay as they are.
fn escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        let plain = match c {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '"' => Some('"'),
            '\\' => Some('\\'),
            _ => None,
        };
        let octal = rest
            .get(1..4)
            .filter(|d| c == '0' && d.bytes().all(|b| (b'0'..b'8').contains(&b)))
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (plain, octal, c) {
            (Some(p), ..) => {
                out.push(p);
                rest = &rest[1..];
            }
            (_, Some(byte), _) => {
                out.push(char::from(byte));
                rest = &rest[4..];
            }
            (.., '$') => {
                out.push_str("$$");
                rest = &rest[1..];
            }
            _ => out.push('\\'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Result<Vec<(String, String)>, String> {
        let mut out = BTreeMap::new();
        parse(source, &mut out, &|name, _| {
            (name == "OUT").then(|| "side".to_string())
        })?;
        Ok(out.into_iter().collect())
    }

    #[test]
    fn files_read_as_compose_reads_them() {
        for (name, source, want) in [
            (
                "plain",
                "A=1\nB = 2\nC:3\nD=\n",
                vec![("A", "1"), ("B", "2"), ("C", "3"), ("D", "")],
            ),
            (
                "comments",
                "# c\n\nA=1 # tail\nB=a#b\n#C=3\n",
                vec![("A", "1"), ("B", "a#b")],
            ),
            (
                "export",
                "export A=1\nexport\tB=2\nexportC=3",
                vec![("A", "1"), ("B", "2"), ("exportC", "3")],
            ),
            (
                "single quotes",
                "A='a $OUT \\n'\nB='it\\'s'",
                vec![("A", "a $OUT \\n"), ("B", "it's")],
            ),
            (
                "double quotes",
                "A=\"v ${OUT}\\n\\\"q\\\"\"\nB=\"\\$OUT\"",
                vec![("A", "v side\n\"q\""), ("B", "$OUT")],
            ),
            (
                "several lines",
                "A=\"one\ntwo\"\nB='x\n y'\nC=1",
                vec![("A", "one\ntwo"), ("B", "x\n y"), ("C", "1")],
            ),
            (
                "interpolation",
                "A=1\nB=$A-${C:-d}-$OUT\n",
                vec![("A", "1"), ("B", "1-d-side")],
            ),
            (
                "inherited",
                "OUT\nNONE\nA=1",
                vec![("A", "1"), ("OUT", "side")],
            ),
            (
                "windows",
                "A=1\r\nB=\"2\"\r\n",
                vec![("A", "1"), ("B", "2")],
            ),
            ("byte order mark", "\u{feff}A=1", vec![("A", "1")]),
            (
                "tail after quotes",
                "A=\"x\" # c\nB=2",
                vec![("A", "x"), ("B", "2")],
            ),
            ("octal", "A=\"\\0101\"", vec![("A", "A")]),
        ] {
            let want: Vec<(String, String)> = want
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
            assert_eq!(read(source), Ok(want), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (source, want) in [
            ("A=1\nB='x\n", "line 2: unterminated quoted value 'x"),
            (
                "A=1\n!B=2\n",
                "line 2: unexpected character \"!\" in variable name \"!B=2\"",
            ),
            ("A B=1\n", "key cannot contain a space"),
            ("A=${X\n", "line 1: Invalid template"),
        ] {
            let error = read(source).unwrap_err();
            assert!(error.contains(want), "{source:?}: {error}");
        }
    }

    #[test]
    fn raw_files_keep_every_character() {
        let mut out = BTreeMap::new();
        parse_raw("A='x' # $B\n# c\n\nOUT\nB=\n", &mut out, &|name, _| {
            (name == "OUT").then(|| "side".to_string())
        });
        let want = [("A", "'x' # $B"), ("B", ""), ("OUT", "side")];
        assert_eq!(
            out,
            want.map(|(k, v)| (k.to_string(), v.to_string())).into()
        );
    }
}
