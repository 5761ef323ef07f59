//! `.dockerignore` (Dockerfile reference, ".dockerignore file"; moby's `patternmatcher`).

/// A line that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the ignore file: {why}")]
pub struct IgnoreError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// Which files of a context are left out.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// Which patterns have taken a folder: what is in it is judged by that ([`Ignore::judge`]).
#[derive(Debug, Clone, Default)]
pub struct Judged(Vec<bool>);

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    keeps: bool,
    parts: Vec<Part>,
}

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Char(char),
    /// `?`: one character, no slash
    One,
    /// `*`: no slash
    Some,
    /// `**`: anything
    All,
    /// `**/`: nothing, or folders
    Folders,
    /// `[a-z]`, `[^a-z]`
    Class(bool, Vec<(char, char)>),
}

impl Ignore {
    /// Reads an ignore file.
    ///
    /// # Errors
    /// A lone `!`, an open `[`, an escape at the end.
    pub fn parse(text: &str) -> Result<Ignore, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = vec![];
        for (i, row) in text.lines().enumerate() {
            if row.starts_with('#') || row.trim().is_empty() {
                continue;
            }
            let at = |why: String| IgnoreError { line: i + 1, why };
            patterns.push(Pattern::parse(row.trim()).map_err(at)?);
        }
        Ok(Ignore { patterns })
    }
    /// Patterns one by one (`--exclude`).
    ///
    /// # Errors
    /// As [`Ignore::parse`]; the line counts the patterns.
    pub fn of(patterns: &[String]) -> Result<Ignore, IgnoreError> {
        let read = |(i, p): (usize, &String)| {
            Pattern::parse(p.trim()).map_err(|why| IgnoreError { line: i + 1, why })
        };
        let patterns = patterns
            .iter()
            .enumerate()
            .map(read)
            .collect::<Result<_, _>>()?;
        Ok(Ignore { patterns })
    }
    /// Some lines begin with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|p| p.keeps)
    }
    /// There is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
    /// Is a path (relative, with `/`) left out? The last pattern that fits it or a folder it is in decides.
    pub fn leaves_out(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        let mut out = false;
        for pattern in &self.patterns {
            if pattern.keeps != out {
                continue;
            }
            let mut folders = path.match_indices('/').map(|(at, _)| &path[..at]);
            if pattern.fits(path) || folders.any(|f| pattern.fits(f)) {
                out = !pattern.keeps;
            }
        }
        out
    }
    /// [`Ignore::leaves_out`] on a walk from the top down, as `MatchesUsingParentResults`: a pattern that has taken a folder
    /// takes all that is in it, and one that wasn't asked about the folder isn't asked about it again. So `!a` behind
    /// `a/b` doesn't bring `a/b` back. Is `path` left out, and what its own entries are to be judged with?
    pub fn judge(&self, path: &str, folder: &Judged) -> (bool, Judged) {
        let path = path.trim_start_matches('/');
        let mut out = false;
        let mut taken = vec![false; self.patterns.len()];
        let chars: Vec<char> = path.chars().collect();
        for (i, pattern) in self.patterns.iter().enumerate() {
            let by_folder = folder.0.get(i).copied().unwrap_or(false);
            if !by_folder && pattern.keeps != out {
                continue;
            }
            if by_folder || fits(&pattern.parts, &chars) {
                taken[i] = true;
                out = !pattern.keeps;
            }
        }
        (out, Judged(taken))
    }
    /// May a pattern that isn't an exception fit something in this folder?
    pub fn may_fit_below(&self, folder: &str) -> bool {
        let folder = format!("{}/", folder.trim_matches('/'));
        self.patterns.iter().filter(|p| !p.keeps).any(|p| {
            let plain = p.plain_start();
            plain.starts_with(&folder) || folder.starts_with(&plain)
        })
    }
    /// Everything is left out.
    pub(crate) fn leaves_out_all(&self) -> bool {
        let all = |p: &Pattern| !p.keeps && matches!(p.text.as_str(), "*" | "**" | "**/*");
        self.patterns.iter().any(all)
    }
    /// May a folder that is left out hold something that isn't?
    pub fn may_keep_below(&self, folder: &str) -> bool {
        let folder = format!("{}/", folder.trim_matches('/'));
        self.patterns.iter().filter(|p| p.keeps).any(|p| {
            let plain = p.plain_start();
            plain.starts_with(&folder) || folder.starts_with(&plain)
        })
    }
}

impl Pattern {
    fn parse(row: &str) -> Result<Pattern, String> {
        let (keeps, rest) = match row.strip_prefix('!') {
            Some("") => return Err("illegal exclusion pattern: \"!\"".into()),
            Some(rest) => (true, rest.trim()),
            None => (false, row),
        };
        let text = clean(rest);
        let mut parts = vec![];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    // more stars say nothing more
                    while chars.next_if_eq(&'*').is_some() {}
                    if chars.next_if_eq(&'/').is_some() {
                        Part::Folders
                    } else {
                        Part::All
                    }
                }
                '*' => Part::Some,
                '?' => Part::One,
                '\\' => Part::Char(chars.next().ok_or("an escape at the end")?),
                '[' => class(&mut chars)?,
                c => Part::Char(c),
            });
        }
        Ok(Pattern { text, keeps, parts })
    }
    /// What every path that fits begins with.
    fn plain_start(&self) -> String {
        let plain = |part: &Part| match part {
            Part::Char(c) => Some(*c),
            _ => None,
        };
        self.parts.iter().map_while(plain).collect()
    }
    fn fits(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        fits(&self.parts, &path)
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Part, String> {
    let open = || "syntax error in pattern: [ without ]".to_owned();
    let not = chars.next_if_eq(&'^').is_some();
    let mut ranges = vec![];
    loop {
        let mut one = || match chars.next() {
            Some('\\') => chars.next().ok_or_else(open).map(|c| (c, true)),
            Some(c) => Ok((c, false)),
            None => Err(open()),
        };
        let (low, escaped) = one()?;
        if low == ']' && !escaped && !ranges.is_empty() {
            return Ok(Part::Class(not, ranges));
        }
        if chars.next_if_eq(&'-').is_some() {
            let high = match chars.next().ok_or_else(open)? {
                '\\' => chars.next().ok_or_else(open)?,
                c => c,
            };
            ranges.push((low, high));
        } else {
            ranges.push((low, low));
        }
    }
}

/// `filepath.Clean`, without slashes at the ends.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                // above the context is nothing
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    match parts.is_empty() {
        true => ".".into(),
        false => parts.join("/"),
    }
}

/// The states that a part leads to, one row a part: no backtracking, whatever the pattern.
fn fits(parts: &[Part], path: &[char]) -> bool {
    let mut now = vec![false; path.len() + 1];
    now[0] = true;
    for part in parts {
        let mut next = vec![false; path.len() + 1];
        let mut started = false;
        for at in (0..=path.len()).filter(|at| now[*at]) {
            let first = !std::mem::replace(&mut started, true);
            let c = path.get(at);
            match part {
                Part::Char(p) if c == Some(p) => next[at + 1] = true,
                Part::One if c.is_some_and(|c| *c != '/') => next[at + 1] = true,
                Part::Class(not, ranges) => {
                    if let Some(c) = c
                        && *c != '/'
                        && ranges.iter().any(|(a, b)| a <= c && c <= b) != *not
                    {
                        next[at + 1] = true;
                    }
                }
                Part::Some => {
                    for (end, there) in next.iter_mut().enumerate().skip(at) {
                        // what is behind is there already, from an earlier start
                        if std::mem::replace(there, true) || path.get(end).is_none_or(|c| *c == '/')
                        {
                            break;
                        }
                    }
                }
                // from the first start on, whatever the others
                Part::All => {
                    next[at..].fill(true);
                    break;
                }
                Part::Folders => {
                    next[at] = true;
                    if first {
                        for end in (at..path.len()).filter(|end| path[*end] == '/') {
                            next[end + 1] = true;
                        }
                    }
                }
                Part::Char(_) | Part::One => {}
            }
        }
        now = next;
    }
    now[path.len()]
}
