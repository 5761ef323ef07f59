//! `--chmod`: octal, or symbolic as in chmod(1) without a umask (BSD's `setmode`, which BuildKit's frontend uses).

/// `--chmod` is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// A number that is none, or too large.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Number(String),
    /// Neither a number nor symbolic.
    #[error("invalid chmod parameter: '{0}'. it should be octal, or symbolic as u=rw,go=r")]
    Syntax(String),
}

/// What `--chmod` makes of a mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// These bits, whatever there was.
    Octal(u32),
    /// Changes, one after the other.
    Symbolic(Vec<Change>),
}

/// One change: whom it is about, what is done, with which bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `u`, `g` and `o` as a mask of permission bits with their set-id bits; 0 when nobody is named.
    who: u32,
    /// `+`, `-` or `=`
    op: char,
    bits: Bits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bits {
    /// `rwxst`
    Plain(u32),
    /// `X`: to execute, if it is a folder or anybody may execute it
    Some,
    /// `u`, `g`, `o`: what they have; how far their bits are from others'
    Of(u32),
}

const STANDARD: u32 = 0o6777;
const STICKY: u32 = 0o1000;

impl Mode {
    /// Reads it as it is written.
    ///
    /// # Errors
    /// In BuildKit's words for what looks like a number.
    pub fn parse(text: &str) -> Result<Mode, ModeError> {
        let number = || ModeError::Number(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Mode::Octal(mode)),
                _ => Err(number()),
            };
        }
        let syntax = || ModeError::Syntax(text.to_owned());
        let mut changes = vec![];
        for clause in text.split(',') {
            clause_of(clause, &mut changes).ok_or_else(syntax)?;
        }
        Ok(Mode::Symbolic(changes))
    }
    /// The permission bits (with set-id and sticky) of something that had `mode`.
    pub fn apply(&self, mode: u32, folder: bool) -> u32 {
        let before = mode & 0o7777;
        match self {
            Mode::Octal(mode) => *mode,
            Mode::Symbolic(changes) => changes
                .iter()
                .fold(before, |now, change| change.apply(now, before, folder)),
        }
    }
}

fn clause_of(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let rest = clause.trim_start_matches(['a', 'u', 'g', 'o']);
    let mut who = 0;
    for c in clause[..clause.len() - rest.len()].chars() {
        who |= match c {
            'a' => STANDARD,
            'u' => 0o4700,
            'g' => 0o2070,
            _ => 0o0007,
        };
    }
    if rest.is_empty() {
        return None;
    }
    let mut rest = rest.chars().peekable();
    while let Some(op) = rest.next() {
        if !matches!(op, '+' | '-' | '=') {
            return None;
        }
        let first = changes.len();
        let (mut plain, mut some, mut sticky) = (0, false, 0);
        while let Some(c) = rest.next_if(|c| !matches!(c, '+' | '-' | '=')) {
            match c {
                'r' => plain |= 0o444,
                'w' => plain |= 0o222,
                'x' => plain |= 0o111,
                'X' if op == '-' => plain |= 0o111,
                'X' => some = true,
                // of others alone there is no set-id and no sticky bit
                's' if who & !0o007 != 0 || who == 0 => plain |= 0o6000,
                't' if who & !0o007 != 0 || who == 0 => sticky = STICKY,
                's' | 't' => {}
                'u' => changes.push(Change {
                    who,
                    op,
                    bits: Bits::Of(6),
                }),
                'g' => changes.push(Change {
                    who,
                    op,
                    bits: Bits::Of(3),
                }),
                'o' => changes.push(Change {
                    who,
                    op,
                    bits: Bits::Of(0),
                }),
                _ => return None,
            }
        }
        // the plain bits of `=` clear first, so they come before what is copied or conditional
        if plain | sticky != 0 || (op == '=' && changes.len() == first) {
            let bits = Bits::Plain(plain | sticky);
            changes.insert(first, Change { who, op, bits });
        }
        if some {
            let op = if op == '=' { '+' } else { op };
            changes.push(Change {
                who,
                op,
                bits: Bits::Some,
            });
        }
    }
    Some(())
}

impl Change {
    fn apply(&self, now: u32, before: u32, folder: bool) -> u32 {
        let reach = match self.who {
            0 => STANDARD | STICKY,
            who => who | STICKY,
        };
        let bits = match self.bits {
            Bits::Plain(bits) => bits & reach,
            Bits::Some if folder || before & 0o111 != 0 => 0o111 & reach,
            Bits::Some => 0,
            Bits::Of(shift) => {
                let bits = (now >> shift) & 0o7;
                (bits << 6 | bits << 3 | bits) & reach
            }
        };
        match self.op {
            '+' => now | bits,
            '-' => now & !bits,
            // what is copied replaces the permissions only, the rest keeps
            _ if matches!(self.bits, Bits::Of(_)) => (now & !(reach & 0o777)) | bits,
            _ => {
                let cleared = if self.who == 0 { STANDARD } else { self.who };
                (now & !cleared) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        // expected: what the Go package of BuildKit's frontend makes of them
        let table = [
            ("644", 0o755, false, 0o644),
            ("0", 0o755, false, 0),
            ("4755", 0o644, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o777, false, 0o700),
            ("u=rwx,go=rx", 0o600, false, 0o755),
            ("=rw,+X", 0o711, false, 0o777),
            ("=rw,+X", 0o600, false, 0o666),
            ("=rw,+X", 0o600, true, 0o777),
            ("a=rX", 0o600, true, 0o555),
            ("go=u-w", 0o754, false, 0o755),
            ("go=u", 0o640, false, 0o666),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("o+t", 0o777, true, 0o777),
            ("u-s,g+w", 0o4755, false, 0o775),
            ("u+rw-x", 0o500, false, 0o600),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("g=o", 0o764, false, 0o744),
            ("u=g", 0o4751, false, 0o4551),
            ("=r", 0o7777, false, 0o1444),
            ("u=r", 0o7777, false, 0o3477),
            ("=u", 0o4700, false, 0o4777),
            ("g=ro", 0o705, false, 0o755),
            ("u=,g=u", 0o700, false, 0o0),
            ("u=rg", 0o450, false, 0o550),
            ("g-u", 0o770, false, 0o700),
        ];
        for (text, before, folder, want) in table {
            let got = Mode::parse(text).unwrap().apply(before, folder);
            assert_eq!(got, want, "{text} of {before:o}: {got:o} is not {want:o}");
        }
    }

    #[test]
    fn no_modes() {
        let number = |t: &str| ModeError::Number(t.into());
        let syntax = |t: &str| ModeError::Syntax(t.into());
        let table = [
            ("64a", number("64a")),
            ("10000", number("10000")),
            ("999", number("999")),
            ("", syntax("")),
            ("u", syntax("u")),
            ("u+q", syntax("u+q")),
            ("z=r", syntax("z=r")),
            ("u+r,", syntax("u+r,")),
            ("-1", syntax("-1")),
        ];
        for (text, want) in table {
            assert_eq!(Mode::parse(text), Err(want), "{text}");
        }
    }
}
