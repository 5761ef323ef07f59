//! Where in an object one is: a list of steps on the stack, made into text only when something is wrong there.

use std::fmt;

/// A place, and how it was reached.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The object itself: empty text.
    pub const ROOT: Path<'static> = Path {
        parent: None,
        step: Step::Root,
    };
    /// A path to start from; its text stands as it is.
    pub fn at(text: &'a str) -> Path<'a> {
        Path {
            parent: None,
            step: if text.is_empty() {
                Step::Root
            } else {
                Step::Field(text)
            },
        }
    }
    /// `path.name`
    pub fn child(&'a self, name: &'a str) -> Path<'a> {
        self.step(Step::Field(name))
    }
    /// `path[key]`
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        self.step(Step::Key(key))
    }
    /// `path[0]`
    pub fn index(&'a self, at: usize) -> Path<'a> {
        self.step(Step::Index(at))
    }
    /// Whether this is the object itself.
    pub fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }
    fn step(&'a self, step: Step<'a>) -> Path<'a> {
        Path {
            parent: Some(self),
            step,
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = match self.parent {
            Some(parent) => {
                parent.fmt(f)?;
                parent.is_root()
            }
            None => true,
        };
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if first => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(key) => write!(f, "[{key}]"),
            Step::Index(at) => write!(f, "[{at}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_upstream_prints_it() {
        let (a, b) = (Path::ROOT.child("spec"), Path::at("spec.versions[0]"));
        let c = a.child("list");
        let (d, e) = (c.index(3), b.child("properties"));
        assert_eq!(d.child("x").to_string(), "spec.list[3].x");
        assert_eq!(e.key("a.b").to_string(), "spec.versions[0].properties[a.b]");
        assert_eq!(Path::ROOT.to_string(), "");
    }
}
