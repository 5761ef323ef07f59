//! What is wrong with an expression, in cel-go's words.

use std::fmt;

/// One thing wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// 1-based line, or -1 when the issue has no place.
    pub line: i64,
    /// 1-based column in code points, or 0 when the issue has no place.
    pub column: i64,
    /// The bare message: `undefined field 'foo'`.
    pub message: String,
    /// The message with its place and the source line: `ERROR: <input>:1:5: undefined field 'foo'\n | ...`.
    pub rendered: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// Longer lines are not shown.
const MAX_SNIPPET: usize = 16_384;

/// At most this many issues are told.
const MAX_ISSUES: usize = 100;

/// The source text, for places and snippets.
pub(crate) struct Source<'s> {
    pub text: &'s str,
}

impl Source<'_> {
    /// 0-based line and column of a code point offset.
    fn place(&self, offset: u32) -> (usize, usize) {
        let (mut line, mut column) = (0, 0);
        for c in self.text.chars().take(offset as usize) {
            if c == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        (line, column)
    }

    pub fn issue(&self, offset: u32, message: impl Into<String>) -> Issue {
        let message = message.into();
        let (line, column) = self.place(offset);
        let mut rendered = format!("ERROR: <input>:{}:{}: {message}", line + 1, column + 1);
        if let Some(snippet) = self
            .text
            .split('\n')
            .nth(line)
            .filter(|s| s.len() <= MAX_SNIPPET)
        {
            let snippet = snippet.replace('\t', " ");
            rendered.push_str("\n | ");
            rendered.push_str(&snippet);
            rendered.push_str("\n | ");
            let mut chars = snippet.chars();
            for c in chars.by_ref().take(column) {
                rendered.push(if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
            }
            rendered.push(if chars.next().is_some_and(|c| c.len_utf8() > 1) {
                '\u{ff3e}'
            } else {
                '^'
            });
        }
        Issue {
            line: line as i64 + 1,
            column: column as i64 + 1,
            message,
            rendered,
        }
    }

    /// An issue of the expression as a whole.
    pub fn unplaced(message: impl Into<String>) -> Issue {
        let message = message.into();
        let rendered = format!("ERROR: <input>:-1:0: {message}");
        Issue {
            line: -1,
            column: 0,
            message,
            rendered,
        }
    }
}

/// Several issues as cel-go prints them: by place, one under the other.
pub fn render(issues: &[Issue]) -> String {
    let mut sorted: Vec<&Issue> = issues.iter().collect();
    sorted.sort_by_key(|i| (i.line, i.column));
    sorted
        .iter()
        .map(|i| i.rendered.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn sorted(mut issues: Vec<Issue>) -> Vec<Issue> {
    issues.sort_by_key(|i| (i.line, i.column));
    issues.truncate(MAX_ISSUES);
    issues
}
