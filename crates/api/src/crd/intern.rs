//! Names of custom resources as static texts. They are few and come again and again, so that what is given out is kept
//! for good, up to a bound.

use std::{collections::HashSet, sync::LazyLock};

use parking_lot::Mutex;

/// Most bytes of names ever given out by one process. A definition has some 200: it takes 20,000 different ones.
const BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct Names {
    texts: HashSet<&'static str>,
    lists: HashSet<&'static [&'static str]>,
    bytes: usize,
}

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// Too many different names were defined since the server started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many different names of custom resources since the server's start: restart it to serve more"
)]
pub struct Exhausted;

/// The text, for good.
pub fn text(text: &str) -> Result<&'static str, Exhausted> {
    NAMES.lock().text(text)
}

/// The texts, for good.
pub fn list(texts: &[String]) -> Result<&'static [&'static str], Exhausted> {
    let mut names = NAMES.lock();
    let texts = texts
        .iter()
        .map(|t| names.text(t))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(known) = names.lists.get(texts.as_slice()) {
        return Ok(known);
    }
    names.charge(texts.len() * size_of::<&str>())?;
    let kept: &'static [&'static str] = texts.leak();
    names.lists.insert(kept);
    Ok(kept)
}

impl Names {
    fn text(&mut self, text: &str) -> Result<&'static str, Exhausted> {
        if let Some(known) = self.texts.get(text) {
            return Ok(known);
        }
        self.charge(text.len() + size_of::<&str>())?;
        let kept: &'static str = text.to_owned().leak();
        self.texts.insert(kept);
        Ok(kept)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if self.bytes + bytes > BYTES_MAX {
            return Err(Exhausted);
        }
        self.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_the_same_and_costs_once() {
        let a = list(&["one".into(), "two".into()]).unwrap();
        let b = list(&["one".into(), "two".into()]).unwrap();
        assert!(std::ptr::eq(a, b) && std::ptr::eq(a[0], text("one").unwrap()));
    }

    #[test]
    fn there_is_a_bound() {
        let mut names = Names {
            bytes: BYTES_MAX - 20,
            ..Names::default()
        };
        assert_eq!(names.text("much too long to fit").err(), Some(Exhausted));
        assert_eq!(names.text("fits").ok(), Some("fits"));
    }
}
