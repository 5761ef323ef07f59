//! Text to tokens. Offsets count code points, as cel-go's places do.

use crate::issue::{Issue, Source};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tok {
    Ident,
    /// `` `kept-as.written` ``, a field name that is no identifier.
    Escaped,
    Int,
    Uint,
    Float,
    Str,
    Bytes,
    Punct(&'static str),
    Eof,
}

#[derive(Debug, Clone)]
pub(crate) struct Token<'s> {
    pub tok: Tok,
    pub text: &'s str,
    pub at: u32,
}

/// Longest first, so that `<=` is not `<`.
const PUNCT: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!",
    "?", ":", "+", "*", "/", "%",
];

struct Lexer<'s> {
    text: &'s str,
    /// Byte position.
    pos: usize,
    /// Code point position.
    at: u32,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.text[self.pos..]
    }
    fn advance(&mut self, bytes: usize) -> &'s str {
        let s = &self.text[self.pos..self.pos + bytes];
        self.pos += bytes;
        self.at += s.chars().count() as u32;
        s
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let blanks = rest.len()
                - rest
                    .trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}'])
                    .len();
            self.advance(blanks);
            if !self.rest().starts_with("//") {
                return;
            }
            let line = self.rest().find('\n').unwrap_or(self.rest().len());
            self.advance(line);
        }
    }

    fn digits(s: &str) -> usize {
        s.bytes().take_while(u8::is_ascii_digit).count()
    }

    fn number(s: &str) -> Option<(Tok, usize)> {
        let unsigned = |len: usize| match s.as_bytes().get(len) {
            Some(b'u' | b'U') => (Tok::Uint, len + 1),
            _ => (Tok::Int, len),
        };
        if let Some(hex) = s.strip_prefix("0x") {
            let n = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
            if n > 0 {
                return Some(unsigned(n + 2));
            }
        }
        let mut len = Self::digits(s);
        let mut float = false;
        if s[len..].starts_with('.') {
            let fraction = Self::digits(&s[len + 1..]);
            if fraction > 0 {
                float = true;
                len += 1 + fraction;
            }
        }
        if len == 0 {
            return None;
        }
        if s[len..].starts_with(['e', 'E']) {
            let sign = usize::from(s[len + 1..].starts_with(['+', '-']));
            let exp = Self::digits(&s[len + 1 + sign..]);
            if exp > 0 {
                float = true;
                len += 1 + sign + exp;
            }
        }
        Some(if float {
            (Tok::Float, len)
        } else {
            unsigned(len)
        })
    }

    /// The length of a quoted string, with its prefix, if `s` starts one that ends.
    fn quoted(s: &str) -> Option<(Tok, usize)> {
        let bytes = s.as_bytes();
        let mut i = 0;
        let mut tok = Tok::Str;
        if matches!(bytes.first(), Some(b'b' | b'B')) {
            tok = Tok::Bytes;
            i = 1;
        }
        let raw = matches!(bytes.get(i), Some(b'r' | b'R'));
        i += usize::from(raw);
        let quote = *bytes.get(i).filter(|q| matches!(q, b'"' | b'\''))?;
        let triple = bytes[i..].len() >= 3 && bytes[i + 1] == quote && bytes[i + 2] == quote;
        i += if triple { 3 } else { 1 };
        while let Some(&c) = bytes.get(i) {
            match c {
                b'\\' if !raw => i += Self::escape_len(&s[i..])?,
                b'\n' | b'\r' if !triple => return None,
                _ if c == quote && !triple => return Some((tok, i + 1)),
                _ if c == quote
                    && bytes[i..].len() >= 3
                    && bytes[i + 1] == quote
                    && bytes[i + 2] == quote =>
                {
                    return Some((tok, i + 3));
                }
                _ => i += 1,
            }
        }
        None
    }

    /// The length of the escape sequence `s` starts with.
    fn escape_len(s: &str) -> Option<usize> {
        let b = s.as_bytes();
        let hex = |n: usize| {
            (b.len() >= n + 2 && b[2..n + 2].iter().all(u8::is_ascii_hexdigit)).then_some(n + 2)
        };
        match b.get(1)? {
            b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => {
                Some(2)
            }
            b'x' | b'X' => hex(2),
            b'u' => hex(4),
            b'U' => hex(8),
            b'0'..=b'3' => {
                (b.len() >= 4 && b[2..4].iter().all(|d| (b'0'..=b'7').contains(d))).then_some(4)
            }
            _ => None,
        }
    }

    fn next(&mut self, issues: &mut Vec<Issue>) -> Token<'s> {
        loop {
            self.skip_blanks();
            let (at, rest) = (self.at, self.rest());
            let Some(first) = rest.chars().next() else {
                return Token {
                    tok: Tok::Eof,
                    text: "<EOF>",
                    at,
                };
            };
            if let Some((tok, len)) = Self::recognize(rest, first) {
                return Token {
                    tok,
                    text: self.advance(len),
                    at,
                };
            }
            issues.push(self.skip_unrecognized());
        }
    }

    fn recognize(rest: &str, first: char) -> Option<(Tok, usize)> {
        if let Some(found) = Self::quoted(rest).or_else(|| Self::number(rest)) {
            return Some(found);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            return Some((
                Tok::Ident,
                rest.bytes()
                    .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
                    .count(),
            ));
        }
        if let Some(body) = rest.strip_prefix('`') {
            let legal =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ');
            let end = body
                .find('`')
                .filter(|n| *n > 0 && body[..*n].chars().all(legal))?;
            return Some((Tok::Escaped, end + 2));
        }
        PUNCT
            .iter()
            .find(|p| rest.starts_with(**p))
            .map(|p| (Tok::Punct(p), p.len()))
    }

    /// Passes over what is no token: a whole unterminated string, or one character (and what could not continue it).
    fn skip_unrecognized(&mut self) -> Issue {
        let rest = self.rest();
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let len = if rest.starts_with(['"', '\'']) {
            let quote = rest.as_bytes()[0] as char;
            let mut chars = rest.char_indices().skip(1).peekable();
            let mut end = rest.len();
            while let Some((i, c)) = chars.next() {
                if c == '\n' || c == '\r' {
                    end = i;
                    break;
                }
                if c == '\\'
                    && !chars
                        .peek()
                        .is_some_and(|(_, n)| "abfnrtv\"'\\?`xXuU0123".contains(*n))
                {
                    end = (i + 1 + chars.peek().map_or(0, |(_, n)| n.len_utf8())).min(rest.len());
                    break;
                }
                if c == '\\' {
                    chars.next();
                }
                if c == quote {
                    end = i;
                    break;
                }
            }
            end
        } else if rest.starts_with(['=', '&', '|']) {
            // a half operator: ANTLR names it with the character that did not complete it
            rest.char_indices().nth(2).map_or(rest.len(), |(i, _)| i)
        } else {
            first
        };
        let shown = rest[..len].replace('\t', "\\t").replace('\n', "\\n");
        let issue = Source { text: self.text }.issue(
            self.at,
            format!("Syntax error: token recognition error at: '{shown}'"),
        );
        self.advance(len);
        issue
    }
}

/// All tokens, the last being `Eof`, and what was no token.
pub(crate) fn tokens(text: &str) -> (Vec<Token<'_>>, Vec<Issue>) {
    let mut lexer = Lexer {
        text,
        pos: 0,
        at: 0,
    };
    let (mut out, mut issues) = (Vec::new(), Vec::new());
    loop {
        let t = lexer.next(&mut issues);
        let end = t.tok == Tok::Eof;
        out.push(t);
        if end {
            return (out, issues);
        }
    }
}
