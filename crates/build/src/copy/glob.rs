//! Go's `filepath.Match` and `filepath.Clean`, which say what a wildcard in a source means.

/// Does a name hold a wildcard that isn't escaped?
pub(crate) fn has_wildcards(name: &str) -> bool {
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// The folders before the first part with a wildcard, and the rest; both from the root, the rest without a slash.
pub(crate) fn split(pattern: &str) -> (String, String) {
    let clean = clean(pattern);
    let parts: Vec<&str> = clean.split('/').filter(|p| !p.is_empty()).collect();
    let first = parts
        .iter()
        .position(|p| has_wildcards(p))
        .unwrap_or(parts.len());
    (
        format!("/{}", parts[..first].join("/")),
        parts[first..].join("/"),
    )
}

/// `filepath.Clean` of `/` and the path.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// One piece of a pattern.
enum Piece {
    Char(char),
    One,
    Some,
    Class(bool, Vec<(char, char)>),
}

/// A pattern of `filepath.Match`: `*` and `?` stop at slashes, `**` is nothing but two stars.
pub(crate) struct Pattern(Vec<Piece>);

impl Pattern {
    /// `None` for a malformed one.
    pub fn parse(text: &str) -> Option<Pattern> {
        let mut pieces = vec![];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::Some,
                '?' => Piece::One,
                '\\' => Piece::Char(chars.next()?),
                '[' => class(&mut chars)?,
                c => Piece::Char(c),
            });
        }
        Some(Pattern(pieces))
    }
    /// All ways at once, a row a piece: no backtracking, whatever the pattern.
    pub fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut now = vec![false; text.len() + 1];
        now[0] = true;
        for piece in &self.0 {
            let mut next = vec![false; text.len() + 1];
            let mut open = false;
            for at in 0..=text.len() {
                if matches!(piece, Piece::Some) {
                    // from a place that is reached on until a slash
                    open |= now[at];
                    next[at] = open;
                    open &= text.get(at) != Some(&'/');
                } else if now[at]
                    && let Some(c) = text.get(at)
                    && piece.takes(*c)
                {
                    next[at + 1] = true;
                }
            }
            now = next;
        }
        now[text.len()]
    }
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Piece::Char(p) => *p == c,
            Piece::One => c != '/',
            Piece::Class(not, ranges) => {
                c != '/' && ranges.iter().any(|(a, b)| *a <= c && c <= *b) != *not
            }
            Piece::Some => false,
        }
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Piece> {
    let not = chars.next_if_eq(&'^').is_some();
    let mut ranges = vec![];
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Piece::Class(not, ranges));
        }
        let low = class_char(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => class_char(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        // Go's path/filepath/match_test.go, the cases that say something of their own
        let table = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("ab[c]", "abc", true),
            ("ab[^e-g]", "abc", true),
            ("ab[^c]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("[]a]", "]", false),
            ("[-]", "-", false),
            ("[x-]", "x", false),
            ("[a-b-c]", "a", false),
            ("[", "a", false),
            ("a[", "ab", false),
            ("*x", "xxx", true),
            ("**", "a/b", false),
            ("**/b", "a/b", true),
            ("**/b", "b", false),
            ("", "", true),
        ];
        for (pattern, text, want) in table {
            let got = Pattern::parse(pattern).is_some_and(|p| p.fits(text));
            assert_eq!(got, want, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn splits_at_the_first_wildcard() {
        let table = [
            ("a/b/*.txt", ("/a/b", "*.txt")),
            ("a/*/c/d", ("/a", "*/c/d")),
            ("*", ("/", "*")),
            ("a/b", ("/a/b", "")),
            ("a/\\*", ("/a/\\*", "")),
            ("../a/./b/", ("/a/b", "")),
            ("", ("/", "")),
        ];
        for (pattern, (folder, rest)) in table {
            assert_eq!(
                split(pattern),
                (folder.to_owned(), rest.to_owned()),
                "{pattern}"
            );
        }
    }
}
