//! The words of a shell and their variables, as Dockerfile instructions have them (Dockerfile reference, "Environment
//! replacement"; BuildKit `frontend/dockerfile/shell`).

use std::collections::BTreeSet;

use crate::pattern;

/// The longest value that an expansion may make, bytes: `${a//x/…}` can grow what it is given.
const LONGEST: usize = 1 << 20;

/// What variables are worth.
pub trait Env {
    /// The value of a variable; `None` when it is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Env for std::collections::BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Nothing is set.
impl Env for () {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// What makes the next character mean itself: `\`, or what the file's `escape` directive says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    Backslash,
    Backtick,
}

impl Escape {
    /// The character.
    pub fn char(self) -> char {
        match self {
            Escape::Backslash => '\\',
            Escape::Backtick => '`',
        }
    }
}

/// Why words could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {source_text:?}: {why}")]
pub struct WordsError {
    source_text: String,
    why: String,
}

impl WordsError {
    /// A quote or a brace isn't closed: whatever the variables are.
    pub(crate) fn is_open(&self) -> bool {
        self.why.starts_with("unexpected end of statement")
    }
}

/// Splits and expands.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    escape: Escape,
    /// quotes stay in the result
    raw_quotes: bool,
    /// escapes stay in the result
    raw_escapes: bool,
    /// quotes mean nothing
    plain_quotes: bool,
    /// variables that are not set stay as they are written
    keep_unset: bool,
}

/// An expanded text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The whole, with its spaces.
    pub text: String,
    /// Its words: split after the expansion, quoted spaces apart.
    pub words: Vec<String>,
    /// Variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// Variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
}

impl Words {
    /// Quotes are taken off, variables that are not set are empty.
    pub fn new(escape: Escape) -> Words {
        Words {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keep_unset: false,
        }
    }
    /// Keep quotes.
    pub fn raw_quotes(mut self) -> Words {
        self.raw_quotes = true;
        self
    }
    /// Keep escapes.
    pub fn raw_escapes(mut self) -> Words {
        self.raw_escapes = true;
        self
    }
    /// Quotes are ordinary characters (the contents of a heredoc).
    pub fn plain_quotes(mut self) -> Words {
        self.plain_quotes = true;
        self
    }
    /// Keep variables that are not set.
    pub fn keep_unset(mut self) -> Words {
        self.keep_unset = true;
        self
    }

    /// Expands `text`.
    ///
    /// # Errors
    /// An open quote or brace, a substitution that does not exist, `${x:?…}` of one that is not set.
    pub fn expand(&self, text: &str, env: &dyn Env) -> std::result::Result<Expanded, WordsError> {
        let mut reader = Reader {
            how: *self,
            env,
            chars: text.chars().collect(),
            at: 0,
            depth: 0,
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        };
        let (text, words) = reader
            .until(None, self.raw_escapes)
            .map_err(|why| WordsError {
                source_text: text.to_owned(),
                why,
            })?;
        Ok(Expanded {
            text,
            words,
            used: reader.used,
            unset: reader.unset,
        })
    }
}

/// Substitutions may hold substitutions, this deep.
const DEEPEST: usize = 64;

struct Reader<'a> {
    how: Words,
    env: &'a dyn Env,
    chars: Vec<char>,
    at: usize,
    depth: usize,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

/// Words while they grow.
#[derive(Default)]
struct Growing {
    buffer: String,
    inside: bool,
    words: Vec<String>,
}

impl Growing {
    fn raw(&mut self, text: &str) {
        self.buffer.push_str(text);
        self.inside = true;
    }
    fn char(&mut self, c: char) {
        if !c.is_whitespace() {
            self.buffer.push(c);
            self.inside = true;
        } else if self.inside && !self.buffer.is_empty() {
            self.words.push(std::mem::take(&mut self.buffer));
            self.inside = false;
        }
    }
    fn end(mut self) -> Vec<String> {
        if !self.buffer.is_empty() {
            self.words.push(self.buffer);
        }
        self.words
    }
}

type Step<T> = std::result::Result<T, String>;

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }
    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Up to `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Step<(String, Vec<String>)> {
        let before = std::mem::replace(&mut self.how.raw_escapes, raw_escapes);
        self.depth += 1;
        let result = if self.depth > DEEPEST {
            Err(format!("substitutions are nested more than {DEEPEST} deep"))
        } else {
            self.until_inner(stop)
        };
        self.depth -= 1;
        self.how.raw_escapes = before;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Step<(String, Vec<String>)> {
        let mut text = String::new();
        let mut words = Growing::default();
        while let Some(c) = self.peek() {
            if text.len() > LONGEST {
                return Err(format!("the expansion is longer than {LONGEST} bytes"));
            }
            if Some(c) == stop {
                self.at += 1;
                return Ok((text, words.end()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                    value.chars().for_each(|c| words.char(c));
                }
                '\'' | '"' if !self.how.plain_quotes => {
                    let quoted = if c == '"' {
                        self.double_quoted()?
                    } else {
                        self.single_quoted()?
                    };
                    text.push_str(&quoted);
                    words.raw(&quoted);
                }
                '<' => {
                    let start = self.heredoc_start();
                    text.push_str(&start);
                    words.raw(&start);
                }
                c if c == self.how.escape.char() => {
                    self.at += 1;
                    if self.how.raw_escapes {
                        text.push(c);
                        words.raw(c.encode_utf8(&mut [0; 4]));
                    }
                    let Some(escaped) = self.next() else { break };
                    text.push(escaped);
                    words.raw(escaped.encode_utf8(&mut [0; 4]));
                }
                c => {
                    self.at += 1;
                    text.push(c);
                    words.char(c);
                }
            }
        }
        match stop {
            Some(c) => Err(format!(
                "unexpected end of statement while looking for matching {c}"
            )),
            None => Ok((text, words.end())),
        }
    }

    /// `<<` and the spaces behind it belong to one word.
    fn heredoc_start(&mut self) -> String {
        self.at += 1;
        if self.peek() != Some('<') {
            return "<".into();
        }
        self.at += 1;
        let mut start = String::from("<<");
        while let Some(c @ ('\t' | '\r' | ' ')) = self.peek() {
            start.push(c);
            self.at += 1;
        }
        start
    }

    fn single_quoted(&mut self) -> Step<String> {
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.next() {
            if c == '\'' {
                return Ok(if self.how.raw_quotes {
                    format!("'{text}'")
                } else {
                    text
                });
            }
            text.push(c);
        }
        Err("unexpected end of statement while looking for matching single-quote".into())
    }

    fn double_quoted(&mut self) -> Step<String> {
        self.at += 1;
        let escape = self.how.escape.char();
        let mut text = String::new();
        if self.how.raw_quotes {
            text.push('"');
        }
        while let Some(c) = self.peek() {
            match c {
                '"' => {
                    self.at += 1;
                    if self.how.raw_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                '$' => text.push_str(&self.dollar()?),
                _ => {
                    self.at += 1;
                    if c != escape {
                        text.push(c);
                        continue;
                    }
                    if self.how.raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        // only these can be escaped; before others the escape stays
                        Some(e) if e == '"' || e == '$' || e == escape => {
                            self.at += 1;
                            text.push(e);
                        }
                        Some(_) => text.push(c),
                    }
                }
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".into())
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).map(str::to_owned);
        let asked = match value {
            Some(_) => &mut self.used,
            None => &mut self.unset,
        };
        asked.insert(name.to_owned());
        value
    }

    fn dollar(&mut self) -> Step<String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.value(&name) {
                Some(value) => value,
                None if self.how.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let missing = || "syntax error: missing '}'".to_owned();
        let operator = self.next().ok_or_else(missing)?;
        match operator {
            '}' => Ok(match self.value(&name) {
                Some(value) => value,
                None if self.how.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => {
                let operator = self.next().ok_or_else(missing)?;
                if matches!(operator, '#' | '%') {
                    return Err(unsupported(&format!(":{operator}")));
                }
                self.substitute(&name, operator, true)
            }
            '+' | '-' | '?' | '#' | '%' => self.substitute(&name, operator, false),
            '/' => self.replace(&name),
            other => Err(unsupported(other.encode_utf8(&mut [0; 4]))),
        }
    }

    /// `${name:-word}` and its like, from behind the operator.
    fn substitute(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Step<String> {
        let cuts = matches!(operator, '#' | '%');
        let (mut word, _) = self.until(Some('}'), cuts).map_err(|why| {
            if self.peek().is_none() {
                "syntax error: missing '}'".into()
            } else {
                why
            }
        })?;
        let value = self.value(name);
        let colon = if empty_is_unset { ":" } else { "" };
        if self.how.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let there = value
            .as_ref()
            .is_some_and(|v| !(empty_is_unset && v.is_empty()));
        match operator {
            '-' if there => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if there => Ok(word),
            '+' => Ok(String::new()),
            '?' if there => Ok(value.unwrap_or_default()),
            '?' => {
                if word.is_empty() {
                    let how = if value.is_none() { "unset" } else { "empty" };
                    word = format!("is not allowed to be {how}");
                }
                Err(format!("{name}: {word}"))
            }
            '#' | '%' => {
                let longest = word.starts_with(operator);
                let pattern = if longest { &word[1..] } else { &word };
                let value = value.unwrap_or_default();
                let cut = if operator == '#' {
                    pattern::cut_prefix
                } else {
                    pattern::cut_suffix
                };
                cut(pattern, &value, longest)
                    .map_err(|e| format!("invalid pattern ({pattern}) in substitution: {e}"))
            }
            other => Err(unsupported(&format!("{colon}{other}"))),
        }
    }

    /// `${name/pattern/replacement}` and `${name//…}`, from behind the first slash.
    fn replace(&mut self, name: &str) -> Step<String> {
        let all = self.peek() == Some('/');
        if all {
            self.at += 1;
        }
        let (pattern, _) = self.until(Some('/'), true).map_err(|why| {
            if self.peek().is_none() {
                "syntax error: missing '/' in ${}".into()
            } else {
                why
            }
        })?;
        let (with, _) = self.until(Some('}'), true).map_err(|why| {
            if self.peek().is_none() {
                "syntax error: missing '}'".into()
            } else {
                why
            }
        })?;
        let value = self.value(name);
        if self.how.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{with}}}"));
        }
        pattern::replace(&pattern, &value.unwrap_or_default(), &with, all)
            .map_err(|e| format!("invalid pattern ({pattern}) in substitution: {e}"))
    }

    /// A variable's name: letters, digits and `_`; all digits; or one special parameter (POSIX shell, 2.5.2).
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_ascii_digit() {
                while let Some(c) = self.peek().filter(char::is_ascii_digit) {
                    name.push(c);
                    self.at += 1;
                }
                return name;
            }
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.at += 1;
                return c.to_string();
            }
            if !c.is_alphanumeric() && c != '_' {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }
}

fn unsupported(operator: &str) -> String {
    format!("unsupported modifier ({operator}) in substitution")
}
