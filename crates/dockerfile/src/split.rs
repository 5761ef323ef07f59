//! The words of an instruction, still with their quotes; flags apart.

use crate::words::Escape;

/// Where a word ends: quotes keep spaces, the escape keeps the next character. Quotes and escapes stay in the words.
pub(crate) fn words(text: &str, escape: Escape) -> Vec<String> {
    let escape = escape.char();
    let mut words = vec![];
    let (mut word, mut blank_counts, mut quote) = (String::new(), false, None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escaping = c == escape && quote != Some('\'');
        match quote {
            None if c.is_whitespace() => {
                if blank_counts || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                blank_counts = false;
                continue;
            }
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                blank_counts = true;
            }
            Some(q) if c == q => quote = None,
            _ => {}
        }
        if escaping {
            // one at the end is left out
            let Some(next) = chars.next() else { break };
            word.push(c);
            word.push(next);
        } else {
            word.push(c);
        }
    }
    if blank_counts || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Splits at blanks and nothing else.
pub(crate) fn blanks(text: &str) -> Vec<String> {
    let blank = |c: char| matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ');
    let mut parts = vec![];
    let mut rest = text;
    while let Some(at) = rest.find(blank) {
        parts.push(rest[..at].to_owned());
        rest = rest[at..].trim_start_matches(blank);
    }
    parts.push(rest.to_owned());
    parts
}

/// The first word and what follows the blanks behind it.
pub(crate) fn first(text: &str) -> (&str, Option<&str>) {
    let blank = |c: char| matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ');
    match text.find(blank) {
        Some(at) => (&text[..at], Some(text[at..].trim_start_matches(blank))),
        None => (text, None),
    }
}

/// The `--flags` at the start, without their quotes and escapes, and the rest; `--` ends them.
pub(crate) fn flags(text: &str, escape: Escape) -> (Vec<String>, &str) {
    let escape = escape.char();
    let mut found = vec![];
    let mut rest = text.trim_start();
    loop {
        if !rest.starts_with("--") {
            return (found, rest);
        }
        let (mut word, mut blank_counts, mut quote) = (String::new(), false, None);
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            if c == escape {
                word.extend(chars.next().map(|(_, c)| c));
                continue;
            }
            match quote {
                None if c.is_whitespace() => {
                    end = at;
                    break;
                }
                None if matches!(c, '\'' | '"') => {
                    quote = Some(c);
                    blank_counts = true;
                }
                Some(q) if c == q => quote = None,
                _ => word.push(c),
            }
        }
        rest = rest[end..].trim_start();
        if word == "--" {
            return (found, rest);
        }
        if blank_counts || !word.is_empty() {
            found.push(word);
        }
    }
}
