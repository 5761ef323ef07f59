//! `--name=value` behind a keyword.

use crate::suggest;

/// An instruction's flags; each is taken once it is understood, and what remains is unknown.
pub(crate) struct Flags<'a> {
    left: Vec<(&'a str, Option<&'a str>)>,
    known: Vec<&'static str>,
}

type Answer<T> = Result<T, String>;

impl<'a> Flags<'a> {
    pub(crate) fn of(flags: &'a [String]) -> Flags<'a> {
        let left = flags
            .iter()
            .map(|f| {
                let f = f.strip_prefix("--").unwrap_or(f);
                match f.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (f, None),
                }
            })
            .collect();
        Flags {
            left,
            known: vec![],
        }
    }

    /// All values of a flag that may come more than once.
    pub(crate) fn all(&mut self, name: &'static str) -> Answer<Vec<String>> {
        self.known.push(name);
        let (mine, rest) = std::mem::take(&mut self.left)
            .into_iter()
            .partition::<Vec<_>, _>(|(n, _)| *n == name);
        self.left = rest;
        mine.into_iter()
            .map(|(n, v)| {
                v.map(str::to_owned)
                    .ok_or_else(|| format!("missing a value on flag: --{n}"))
            })
            .collect()
    }
    /// A flag with a value.
    pub(crate) fn text(&mut self, name: &'static str) -> Answer<Option<String>> {
        let mut all = self.all(name)?;
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(format!("duplicate flag specified: --{name}")),
        }
    }
    /// A flag that is true when it is there, unless it says otherwise.
    pub(crate) fn switch(&mut self, name: &'static str) -> Answer<Option<bool>> {
        self.known.push(name);
        let (mine, rest) = std::mem::take(&mut self.left)
            .into_iter()
            .partition::<Vec<_>, _>(|(n, _)| *n == name);
        self.left = rest;
        match mine.as_slice() {
            [] => Ok(None),
            [(_, None)] => Ok(Some(true)),
            [(_, Some(value))] => match value.to_ascii_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(format!(
                    "expecting boolean value for flag --{name}, not: {value}"
                )),
            },
            _ => Err(format!("duplicate flag specified: --{name}")),
        }
    }
    /// Nothing is left.
    pub(crate) fn end(self) -> Answer<()> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "unknown flag: --{name}{}",
                suggest::hint(name, self.known.iter().copied())
            )),
        }
    }
}
