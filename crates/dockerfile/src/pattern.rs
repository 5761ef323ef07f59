//! Shell patterns of `${name#pattern}` and its like: `*` is any text, `?` any character, neither a line break
//! (POSIX shell, 2.13, without bracket expressions).

/// One piece of a pattern.
#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Any,
    One,
    Char(char),
}

fn pieces(pattern: &str) -> Result<Vec<Piece>, String> {
    let mut chars = pattern.chars().peekable();
    let mut out = vec![];
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Piece::Any,
            '?' => Piece::One,
            '\\' => match chars.next() {
                // they had to be escaped inside `${}`
                Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Piece::Char(c),
                Some(c) => return Err(format!("invalid escape '\\{c}'")),
                None => return Err("invalid escape '\\' at the end".into()),
            },
            c => Piece::Char(c),
        });
    }
    Ok(out)
}

/// How many characters of the start of `text` the pattern may take: the fewest, the most.
fn prefix(pieces: &[Piece], text: &[char]) -> Option<(usize, usize)> {
    // the ends that are possible after each piece
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for piece in pieces {
        let mut next = vec![false; text.len() + 1];
        for (at, _) in ends.iter().enumerate().filter(|(_, there)| **there) {
            match piece {
                Piece::Any => {
                    for (end, there) in next.iter_mut().enumerate().skip(at) {
                        // what is behind is there already, from an earlier start
                        if std::mem::replace(there, true) || text.get(end) == Some(&'\n') {
                            break;
                        }
                    }
                }
                Piece::One => {
                    if text.get(at).is_some_and(|c| *c != '\n') {
                        next[at + 1] = true;
                    }
                }
                Piece::Char(c) => {
                    if text.get(at) == Some(c) {
                        next[at + 1] = true;
                    }
                }
            }
        }
        ends = next;
    }
    let fewest = ends.iter().position(|there| *there)?;
    let most = ends.iter().rposition(|there| *there)?;
    Some((fewest, most))
}

/// `${name#pattern}`, `##` when `longest`.
pub(crate) fn cut_prefix(pattern: &str, value: &str, longest: bool) -> Result<String, String> {
    let text: Vec<char> = value.chars().collect();
    Ok(match prefix(&pieces(pattern)?, &text) {
        Some((fewest, most)) => text[if longest { most } else { fewest }..].iter().collect(),
        None => value.to_owned(),
    })
}

/// `${name%pattern}`, `%%` when `longest`.
pub(crate) fn cut_suffix(pattern: &str, value: &str, longest: bool) -> Result<String, String> {
    let mut pieces = pieces(pattern)?;
    pieces.reverse();
    let mut text: Vec<char> = value.chars().collect();
    text.reverse();
    Ok(match prefix(&pieces, &text) {
        Some((fewest, most)) => {
            let cut = if longest { most } else { fewest };
            text[cut..].iter().rev().collect()
        }
        None => value.to_owned(),
    })
}

/// `${name/pattern/replacement}`: the first longest match, or every one.
pub(crate) fn replace(pattern: &str, value: &str, with: &str, all: bool) -> Result<String, String> {
    let pieces = pieces(pattern)?;
    let text: Vec<char> = value.chars().collect();
    let mut out = String::new();
    let (mut at, mut last_end) = (0, None);
    while at <= text.len() {
        let found = prefix(&pieces, &text[at..]).map(|(_, most)| at + most);
        match found {
            // nothing is put in right behind a match
            Some(end) if !(end == at && last_end == Some(at)) => {
                out.push_str(with);
                last_end = Some(end);
                if end == at {
                    out.extend(text.get(at));
                    at += 1;
                } else {
                    at = end;
                }
                if !all {
                    out.extend(text.get(at..).unwrap_or_default());
                    return Ok(out);
                }
            }
            _ => {
                out.extend(text.get(at));
                at += 1;
            }
        }
    }
    Ok(out)
}
