//! `RUN --mount=…` (Dockerfile reference, "RUN --mount").

use crate::suggest;

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// One mount of a `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub kind: MountKind,
    /// Stage, image or context; "" for the build's own context.
    pub from: String,
    /// Path there; a secret's id.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Nothing may be written.
    pub read_only: bool,
    /// tmpfs: bytes; 0 for no limit.
    pub size: u64,
    /// Cache, secret or agent.
    pub id: String,
    /// Caches only.
    pub sharing: Option<Sharing>,
    /// Secret and ssh: the build fails without.
    pub required: bool,
    /// Secret: the variable that gets it; "" for its id.
    pub env: Option<String>,
    /// Cache, secret, ssh.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];
const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];
const SHARINGS: [(&str, Sharing); 3] = [
    ("shared", Sharing::Shared),
    ("private", Sharing::Private),
    ("locked", Sharing::Locked),
];

impl MountKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, k)| *k == self)
            .map_or("", |(n, _)| n)
    }
}

impl Mount {
    /// Reads `type=cache,target=/x,…`; each value goes through `expand`.
    ///
    /// # Errors
    /// What is wrong, in BuildKit's words.
    pub fn parse(
        text: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Mount, String> {
        let mut m = Mount {
            kind: MountKind::Bind,
            from: String::new(),
            source: String::new(),
            target: String::new(),
            read_only: true,
            size: 0,
            id: String::new(),
            sharing: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        let mut read_only = None;
        for field in fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((k, v)) => (k.to_lowercase(), Some(v)),
                None => (field.to_lowercase(), None),
            };
            let credential = matches!(m.kind, MountKind::Secret | MountKind::Ssh);
            let not_here = || {
                Err(format!(
                    "unexpected key '{key}' for mount type '{}'",
                    m.kind.name()
                ))
            };
            let Some(value) = value else {
                match key.as_str() {
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" if credential => m.required = true,
                    "required" => return not_here(),
                    _ => {
                        return Err(format!("invalid field '{field}' must be a key=value pair"));
                    }
                }
                continue;
            };
            if key == "from" && value.find('$').is_some_and(|at| at + 1 != value.len()) {
                return Err(format!(
                    "'{key}' doesn't support variable expansion, define alias stage instead"
                ));
            }
            let value = expand(value)?;
            let bad = || format!("invalid value for {key}: {value}");
            match key.as_str() {
                "type" => m.kind = one_of(&KINDS, &value, "mount type")?,
                "from" => m.from = value,
                "source" | "src" => m.source = value,
                "target" | "dst" | "destination" => m.target = value,
                "readonly" | "ro" => read_only = Some(boolean(&value).ok_or_else(bad)?),
                "readwrite" | "rw" => read_only = Some(!boolean(&value).ok_or_else(bad)?),
                "required" if credential => m.required = boolean(&value).ok_or_else(bad)?,
                "size" if m.kind == MountKind::Tmpfs => m.size = bytes(&value).ok_or_else(bad)?,
                "required" | "size" => return not_here(),
                "id" => m.id = value,
                "sharing" => m.sharing = Some(one_of(&SHARINGS, &value, "sharing value")?),
                "mode" => {
                    let mode = u32::from_str_radix(&value, 8)
                        .map_err(|_| format!("invalid value {value} for mode"))?;
                    m.mode = Some(mode);
                }
                "uid" | "gid" => {
                    let id = value
                        .parse()
                        .map_err(|_| format!("invalid value {value} for {key}"))?;
                    *(if key == "uid" { &mut m.uid } else { &mut m.gid }) = Some(id);
                }
                "env" => m.env = Some(value),
                _ => {
                    let hint = suggest::hint(&key, KEYS);
                    return Err(format!("unexpected key '{key}' in '{field}'{hint}"));
                }
            }
        }
        m.read_only = read_only.unwrap_or(!matches!(m.kind, MountKind::Cache | MountKind::Tmpfs));
        m.agrees()?;
        Ok(m)
    }

    fn agrees(&self) -> Result<(), String> {
        let kind = self.kind.name();
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (name, there) in [
                ("mode", self.mode.is_some()),
                ("uid", self.uid.is_some()),
                ("gid", self.gid.is_some()),
            ] {
                if there {
                    return Err(format!("{name} not allowed for \"{kind}\" type mounts"));
                }
            }
        }
        if self.kind == MountKind::Secret {
            let why = if !self.from.is_empty() {
                "secret mount should not have a from"
            } else if self.sharing.is_some() {
                "secret mount should not define sharing"
            } else if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                "invalid secret mount. one of source, target required"
            } else if !self.source.is_empty() && !self.id.is_empty() {
                "both source and id can't be set"
            } else {
                return Ok(());
            };
            return Err(why.into());
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(format!("invalid cache sharing set for {kind} mount"));
        }
        Ok(())
    }
}

fn one_of<T: std::marker::Copy>(
    all: &[(&'static str, T)],
    value: &str,
    what: &str,
) -> Result<T, String> {
    let low = value.to_lowercase();
    match all.iter().find(|(n, _)| *n == low) {
        Some((_, found)) => Ok(*found),
        None => Err(format!(
            "unsupported {what} {value:?}{}",
            suggest::hint(value, all.iter().map(|(n, _)| *n))
        )),
    }
}

/// `strconv.ParseBool`
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5GiB`: binary units, as `docker` reads them.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.len()
        - text
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            .len();
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start().to_ascii_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let value = number * 1024_f64.powi(power);
    (value >= 0.0 && value < 2_f64.powi(63)).then_some(value as u64)
}

/// Comma-separated values (RFC 4180): quoted ones may hold commas, a quote in them is doubled.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut all = vec![];
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    None => return Err("failed to parse csv mounts: a quote is not closed".into()),
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(c) => field.push(c),
                }
            }
            if !matches!(chars.peek(), None | Some(',')) {
                return Err("failed to parse csv mounts: text behind a closing quote".into());
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err("failed to parse csv mounts: a quote inside a bare field".into());
                }
                field.push(c);
            }
        }
        all.push(field);
        if chars.next().is_none() {
            return Ok(all);
        }
    }
}
