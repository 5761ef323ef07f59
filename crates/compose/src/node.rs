//! A place in the parsed file: the value, its path, and errors that name both with the line.

use crate::Error;
use serde_json::{Map, Value};

/// One file: its name and text (for line numbers).
pub(crate) struct Document {
    pub file: String,
    pub text: String,
}

#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub document: &'a Document,
    pub value: &'a Value,
    pub path: Vec<String>,
}

static NULL: Value = Value::Null;

impl<'a> Node<'a> {
    pub fn error(&self, message: impl Into<String>) -> Error {
        self.document.error(&self.path, message)
    }

    pub fn get(&self, key: &str) -> Node<'a> {
        let mut path = self.path.clone();
        path.push(key.to_string());
        Node {
            document: self.document,
            value: self.value.get(key).unwrap_or(&NULL),
            path,
        }
    }

    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    fn map(&self) -> Result<&'a Map<String, Value>, Error> {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        match self.value {
            Value::Object(m) => Ok(m),
            Value::Null => Ok(&EMPTY),
            other => Err(self.error(format!("expected a mapping, found {}", kind(other)))),
        }
    }

    /// The entries of a mapping, extensions (`x-…`) left out.
    pub fn entries(&self) -> Result<Vec<(String, Node<'a>)>, Error> {
        Ok(self
            .map()?
            .keys()
            .filter(|k| !k.starts_with("x-"))
            .map(|k| (k.clone(), self.get(k)))
            .collect())
    }

    /// Fails on a key that is not in `known`; a key in `later` belongs to the specification, and knarr can't honour it yet.
    pub fn check_keys(&self, known: &[&str], later: &[&str]) -> Result<(), Error> {
        for (key, node) in self.entries()? {
            if later.contains(&key.as_str()) {
                return Err(node.error(
                    "knarr cannot honour this key yet: remove it, or move it to an x- extension",
                ));
            }
            if !known.contains(&key.as_str()) {
                let near = known
                    .iter()
                    .chain(later)
                    .min_by_key(|k| distance(k, &key))
                    .filter(|k| distance(k, &key) <= 2);
                let hint = near
                    .map(|k| format!(", did you mean {k:?}?"))
                    .unwrap_or_default();
                return Err(node.error(format!("unknown key{hint}")));
            }
        }
        Ok(())
    }

    /// A scalar as text.
    pub fn string(&self) -> Result<Option<String>, Error> {
        Ok(Some(match self.value {
            Value::Null => return Ok(None),
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            other => return Err(self.error(format!("expected a string, found {}", kind(other)))),
        }))
    }

    pub fn boolean(&self) -> Result<Option<bool>, Error> {
        match self.value {
            Value::Null => Ok(None),
            Value::Bool(b) => Ok(Some(*b)),
            Value::String(s) if s == "true" || s == "false" => Ok(Some(s == "true")),
            other => Err(self.error(format!("expected true or false, found {}", kind(other)))),
        }
    }

    pub fn integer(&self) -> Result<Option<i64>, Error> {
        let found = match self.value {
            Value::Null => return Ok(None),
            Value::Number(n) => n.as_i64(),
            Value::String(s) => s.parse().ok(),
            _ => None,
        };
        found.map(Some).ok_or_else(|| {
            self.error(format!(
                "expected a whole number, found {}",
                kind(self.value)
            ))
        })
    }

    pub fn list(&self) -> Result<Vec<Node<'a>>, Error> {
        match self.value {
            Value::Null => Ok(vec![]),
            Value::Array(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, value)| {
                    let mut path = self.path.clone();
                    path.push(format!("[{i}]"));
                    Node {
                        document: self.document,
                        value,
                        path,
                    }
                })
                .collect()),
            other => Err(self.error(format!("expected a list, found {}", kind(other)))),
        }
    }

    pub fn strings(&self) -> Result<Vec<String>, Error> {
        self.list()?
            .iter()
            .map(|n| n.string().map(Option::unwrap_or_default))
            .collect()
    }

    /// `command`-like: a list, or a string that is split as a shell splits words.
    pub fn words(&self) -> Result<Option<Vec<String>>, Error> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(s) => split_words(s)
                .map(Some)
                .ok_or_else(|| self.error("unbalanced quotes")),
            _ => self.strings().map(Some),
        }
    }

    /// `environment`-like: a mapping, or a list of `KEY=value`; `None` = take it from the surroundings.
    pub fn pairs(&self) -> Result<Vec<(String, Option<String>)>, Error> {
        if self.value.is_array() {
            return self.strings().map(|list| {
                list.into_iter()
                    .map(|s| match s.split_once('=') {
                        Some((k, v)) => (k.to_string(), Some(v.to_string())),
                        None => (s, None),
                    })
                    .collect()
            });
        }
        self.map()?
            .keys()
            .map(|k| Ok((k.clone(), self.get(k).string()?)))
            .collect()
    }
}

impl Document {
    pub fn error(&self, path: &[String], message: impl Into<String>) -> Error {
        Error {
            file: self.file.clone(),
            line: self.line(path),
            path: path.join(".").replace(".[", "["),
            message: message.into(),
        }
    }

    /// The line of the deepest key of `path` that the text shows: each key is looked for below the one before it.
    fn line(&self, path: &[String]) -> Option<usize> {
        let lines: Vec<&str> = self.text.lines().collect();
        let indent = |l: &str| l.len() - l.trim_start().len();
        let (mut at, mut depth, mut found) = (0, None::<usize>, None);
        for key in path {
            if let Some(index) = key
                .strip_prefix('[')
                .and_then(|k| k.strip_suffix(']'))
                .and_then(|k| k.parse::<usize>().ok())
            {
                let items: Vec<usize> = (at..lines.len())
                    .take_while(|i| {
                        lines[*i].trim().is_empty()
                            || depth.is_none_or(|d| {
                                indent(lines[*i]) > d || lines[*i].trim_start().starts_with('-')
                            })
                    })
                    .filter(|i| lines[*i].trim_start().starts_with('-'))
                    .collect();
                match items.get(index) {
                    Some(i) => (at, found) = (i + 1, Some(i + 1)),
                    None => break,
                }
                continue;
            }
            let hit = (at..lines.len())
                .take_while(|i| {
                    *i == at
                        || depth.is_none()
                        || lines[*i].trim().is_empty()
                        || lines[*i].trim_start().starts_with('#')
                        || indent(lines[*i]) > depth.unwrap_or(0)
                })
                .find(|i| {
                    let l = lines[*i]
                        .trim_start()
                        .trim_start_matches("- ")
                        .trim_matches('"');
                    depth.is_none_or(|d| indent(lines[*i]) > d)
                        && l.strip_prefix(key.as_str()).is_some_and(|r| {
                            r.trim_start_matches(['"', '\''])
                                .trim_start()
                                .starts_with(':')
                        })
                });
            match hit {
                Some(i) => (at, depth, found) = (i + 1, Some(indent(lines[i])), Some(i + 1)),
                None => break,
            }
        }
        found
    }
}

pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the string {s:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    }
}

/// POSIX shell word splitting: quotes and backslashes, no expansion. None: unbalanced.
fn split_words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut open, mut quote) = (vec![], String::new(), false, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.push(c),
            (_, '\\') => {
                word.push(chars.next()?);
                open = true;
            }
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                open = true;
            }
            (None, c) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (None, c) => word.push(c),
        }
    }
    if quote.is_some() {
        return None;
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    Some(words)
}

/// Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_as_in_a_shell() {
        for (text, want) in [
            ("a b", Some(vec!["a", "b"])),
            ("sh -c 'a \"b\" c'", Some(vec!["sh", "-c", "a \"b\" c"])),
            ("a\\ b \"\" c\"d\"e", Some(vec!["a b", "", "cde"])),
            ("'open", None),
        ] {
            assert_eq!(
                split_words(text),
                want.map(|w| w.into_iter().map(String::from).collect()),
                "{text}"
            );
        }
    }
}
