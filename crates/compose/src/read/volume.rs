//! `[SOURCE:]TARGET[:OPTIONS]` (compose-go's `format` package).

use crate::tree::{Map, Mark, Node, Value};

/// A volume's short form, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Short {
    pub source: String,
    pub target: String,
    pub read_only: bool,
    pub no_copy: bool,
    pub propagation: Option<String>,
    pub selinux: Option<String>,
}

pub(super) fn parse(spec: &str) -> Result<Short, String> {
    let mut short = Short::default();
    if spec.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    if spec.len() <= 2 {
        short.target = spec.into();
        return Ok(short);
    }
    let wrong = |why: &str| format!("invalid spec: {spec}: {why}");
    let mut parts: Vec<String> = Vec::new();
    let mut part = String::new();
    let mut chars = spec.chars().peekable();
    while let Some(c) = chars.next() {
        // compose-go takes any `x:` for a drive, so that no volume may have a name of one letter.
        let drive = part.len() == 1
            && part.starts_with(|c: char| c.is_ascii_alphabetic())
            && chars.peek() == Some(&'\\');
        match c {
            ':' if !drive => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    if parts.iter().any(String::is_empty) {
        return Err(wrong("empty section between colons"));
    }
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(target), None) => short.target = target,
        (Some(source), Some(target)) => (short.source, short.target) = (source, target),
        _ => {}
    }
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(wrong("too many colons"));
    }
    for option in options.split(',') {
        match option {
            "ro" => short.read_only = true,
            "rw" => short.read_only = false,
            "nocopy" => short.no_copy = true,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                short.propagation = Some(option.into());
            }
            "z" | "Z" => short.selinux = Some(option.into()),
            _ => {}
        }
    }
    Ok(short)
}

impl Short {
    /// Whether the source is a path and not a volume's name.
    fn is_path(&self) -> bool {
        let mut chars = self.source.chars();
        matches!(chars.next(), Some('.' | '/' | '~'))
            || self.source.starts_with("\\\\")
            || (self.source.starts_with(|c: char| c.is_ascii_alphabetic())
                && self.source[1..].starts_with(":\\"))
    }

    /// The long form.
    pub fn long(self, mark: &Mark) -> Node {
        let text = |s: String| mark.node(Value::Text(s));
        let (mut all, mut bind, mut volume) = (Map::new(), Map::new(), Map::new());
        let is_path = self.is_path();
        all.insert(
            "type".into(),
            text(if is_path { "bind" } else { "volume" }.into()),
        );
        if let Some(p) = self.propagation {
            bind.insert("propagation".into(), text(p));
        }
        if let Some(s) = self.selinux {
            bind.insert("selinux".into(), text(s));
        }
        if self.no_copy {
            volume.insert("nocopy".into(), mark.node(Value::Bool(true)));
        }
        if is_path {
            bind.insert("create_host_path".into(), mark.node(Value::Bool(true)));
        }
        if !bind.is_empty() {
            all.insert("bind".into(), mark.node(Value::Map(bind)));
        }
        if !is_path || !volume.is_empty() {
            all.insert("volume".into(), mark.node(Value::Map(volume)));
        }
        if !self.source.is_empty() {
            all.insert("source".into(), text(self.source));
        }
        all.insert("target".into(), text(clean(&self.target)));
        if self.read_only {
            all.insert("read_only".into(), mark.node(Value::Bool(true)));
        }
        mark.node(Value::Map(all))
    }
}

/// A path without `.`, `..` and doubled slashes, as Go's `path.Clean`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            p => parts.push(p),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        let short = |source: &str, target: &str| Short {
            source: source.into(),
            target: target.into(),
            ..Short::default()
        };
        for (spec, want) in [
            ("/data", Ok(short("", "/data"))),
            ("data:/data", Ok(short("data", "/data"))),
            (
                "./a:/b:ro",
                Ok(Short {
                    read_only: true,
                    ..short("./a", "/b")
                }),
            ),
            (
                "ab:/b:nocopy,ro",
                Ok(Short {
                    read_only: true,
                    no_copy: true,
                    ..short("ab", "/b")
                }),
            ),
            (
                "/a:/b:rslave,z",
                Ok(Short {
                    propagation: Some("rslave".into()),
                    selinux: Some("z".into()),
                    ..short("/a", "/b")
                }),
            ),
            ("d:/d", Ok(short("d", "/d"))),
            ("C:\\x:/b", Ok(short("C:\\x", "/b"))),
            ("ab:/b:delegated", Ok(short("ab", "/b"))),
            ("", Err("invalid empty volume spec")),
            (
                "ab::b",
                Err("invalid spec: ab::b: empty section between colons"),
            ),
            (
                "ab:/b:ro:x",
                Err("invalid spec: ab:/b:ro:x: too many colons"),
            ),
        ] {
            assert_eq!(parse(spec), want.map_err(String::from), "{spec}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("a/..", "."),
            ("../a", "../a"),
            ("/", "/"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }
}
