//! `<<EOF`: text behind an instruction (Dockerfile reference, "Here-Documents").

use crate::words::{Escape, Words};

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; for `COPY` and `ADD` also the file's name.
    pub name: String,
    /// The number before `<<`, 0 when there is none.
    pub descriptor: u32,
    /// Variables in it are replaced: no part of the word was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs go.
    pub chomp: bool,
    /// The lines, each with its end; with their tabs.
    pub content: String,
}

impl Heredoc {
    /// A word that starts one: digits, `<<`, perhaps `-`, then one word without `<`.
    ///
    /// # Errors
    /// An open quote in the word.
    pub(crate) fn start(text: &str) -> Result<Option<Heredoc>, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = text.split_at(digits);
        let Some(rest) = rest.strip_prefix("<<") else {
            return Ok(None);
        };
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start();
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let words = Words::new(Escape::Backslash).keep_unset();
        let plain = words.expand(rest, &()).map_err(|e| e.to_string())?.words;
        let [name] = plain.as_slice() else {
            return Ok(None);
        };
        let raw = words
            .raw_quotes()
            .expand(rest, &())
            .map_err(|e| e.to_string())?;
        let quotes = |s: &str| s.matches(['\'', '"']).count();
        let expand = quotes(name) == raw.words.iter().map(|w| quotes(w)).sum::<usize>();
        Ok(Some(Heredoc {
            name: name.clone(),
            descriptor: number.parse().unwrap_or(0),
            expand,
            chomp,
            content: String::new(),
        }))
    }

    /// Those that a line starts.
    pub(crate) fn all_of(line: &str) -> Result<Vec<Heredoc>, String> {
        let words = Words::new(Escape::Backslash)
            .raw_quotes()
            .raw_escapes()
            .keep_unset();
        // what the shell makes of an open quote is the shell's matter
        let Ok(expanded) = words.expand(line, &()) else {
            return Ok(vec![]);
        };
        let mut all = vec![];
        for word in &expanded.words {
            all.extend(Heredoc::start(word)?);
        }
        Ok(all)
    }

    /// The contents, without leading tabs where `<<-` said so.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}
