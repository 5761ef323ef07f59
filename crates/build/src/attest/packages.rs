//! Packages by what package managers and build tools leave behind. All of it is text; nothing is trusted to be right.

use serde_json::Value;

/// The tool that a package belongs to: a package URL's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Apk,
    Cargo,
    Deb,
    Golang,
    Npm,
    Pypi,
}

impl Kind {
    /// As package URLs write it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Apk => "apk",
            Kind::Cargo => "cargo",
            Kind::Deb => "deb",
            Kind::Golang => "golang",
            Kind::Npm => "npm",
            Kind::Pypi => "pypi",
        }
    }
}

/// A package that is in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub kind: Kind,
    pub name: String,
    pub version: String,
    /// Debian's and Alpine's.
    pub architecture: Option<String>,
    /// As the package says it; an SPDX expression or not.
    pub license: Option<String>,
    /// The file that tells of it, from the root.
    pub found_in: String,
}

impl Package {
    fn new(kind: Kind, name: &str, version: &str, found_in: &str) -> Package {
        Package {
            kind,
            name: name.trim().into(),
            version: version.trim().into(),
            architecture: None,
            license: None,
            found_in: found_in.into(),
        }
    }
    /// The package URL (purl-spec). `distribution`: the id of `/etc/os-release`, e.g. `debian`, and its version.
    pub fn purl(&self, distribution: Option<(&str, &str)>) -> String {
        let encode = |text: &str| {
            let keep = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
            let one = |c: char| match keep(c) {
                true => c.to_string(),
                false => c.to_string().bytes().map(|b| format!("%{b:02X}")).collect(),
            };
            text.chars().map(one).collect::<String>()
        };
        let name = match self.kind {
            // PyPI's names are equal in these spellings
            Kind::Pypi => encode(&self.name.to_lowercase().replace('_', "-")),
            // a module's path, a scope's slash
            Kind::Golang | Kind::Npm => {
                let parts: Vec<String> = self.name.split('/').map(encode).collect();
                parts.join("/")
            }
            _ => encode(&self.name),
        };
        let system = matches!(self.kind, Kind::Apk | Kind::Deb);
        let namespace = match distribution {
            Some((id, _)) if system => format!("{}/", encode(id)),
            _ => String::new(),
        };
        let mut purl = format!("pkg:{}/{namespace}{name}", self.kind.name());
        if !self.version.is_empty() {
            purl += &format!("@{}", encode(&self.version));
        }
        let mut more = vec![];
        if let Some(architecture) = &self.architecture {
            more.push(format!("arch={}", encode(architecture)));
        }
        if let (true, Some((id, version))) = (system, distribution) {
            more.push(format!("distro={}", encode(&format!("{id}-{version}"))));
        }
        if !more.is_empty() {
            purl += &format!("?{}", more.join("&"));
        }
        purl
    }
}

/// Paragraphs of `Key: value` (Debian's control files); what goes on in the next row is left out.
fn paragraphs(text: &str) -> impl Iterator<Item = Vec<(&str, &str)>> {
    text.split("\n\n").map(|paragraph| {
        let rows = paragraph.lines().filter(|r| !r.starts_with([' ', '\t']));
        rows.filter_map(|r| r.split_once(':'))
            .map(|(k, v)| (k, v.trim()))
            .collect()
    })
}

fn field<'a>(fields: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    let found = fields
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| *value).filter(|v| !v.is_empty())
}

/// `var/lib/dpkg/status`, and distroless' files in `status.d`: what is installed.
pub(crate) fn dpkg(text: &str, path: &str) -> Vec<Package> {
    let package = |fields: Vec<(&str, &str)>| {
        let installed = field(&fields, "Status").is_none_or(|s| s.ends_with(" installed"));
        let (name, version) = (field(&fields, "Package")?, field(&fields, "Version")?);
        installed.then(|| Package {
            architecture: field(&fields, "Architecture").map(str::to_owned),
            ..Package::new(Kind::Deb, name, version, path)
        })
    };
    paragraphs(text).filter_map(package).collect()
}

/// `lib/apk/db/installed`
pub(crate) fn apk(text: &str, path: &str) -> Vec<Package> {
    let package = |fields: Vec<(&str, &str)>| {
        // keys differ by their case only here
        let exact = |name: &str| fields.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        Some(Package {
            architecture: exact("A").map(str::to_owned),
            license: exact("L").map(str::to_owned),
            ..Package::new(Kind::Apk, exact("P")?, exact("V")?, path)
        })
    };
    paragraphs(text).filter_map(package).collect()
}

/// A `package.json`.
pub(crate) fn npm(text: &str, path: &str) -> Option<Package> {
    let value: Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| value[key].as_str().filter(|t| !t.is_empty());
    Some(Package {
        license: word("license").map(str::to_owned),
        ..Package::new(Kind::Npm, word("name")?, word("version")?, path)
    })
}

/// `METADATA` of a dist-info folder, or `PKG-INFO` of an egg.
pub(crate) fn python(text: &str, path: &str) -> Option<Package> {
    let head = text.split("\n\n").next()?;
    let fields = paragraphs(head).next()?;
    let license = field(&fields, "License-Expression").or_else(|| field(&fields, "License"));
    Some(Package {
        license: license.map(str::to_owned),
        ..Package::new(
            Kind::Pypi,
            field(&fields, "Name")?,
            field(&fields, "Version")?,
            path,
        )
    })
}

/// A `Cargo.lock`.
pub(crate) fn cargo_lock(text: &str, path: &str) -> Vec<Package> {
    let package = |block: &str| {
        let word = |key: &str| {
            let rows = block.lines().take_while(|r| !r.starts_with('['));
            let mut words = rows.filter_map(|r| r.split_once(" = "));
            words
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v.trim_matches('"'))
        };
        Some(Package::new(
            Kind::Cargo,
            word("name")?,
            word("version")?,
            path,
        ))
    };
    text.split("[[package]]\n")
        .skip(1)
        .filter_map(package)
        .collect()
}

/// What Go writes into its programs: the main module and what it was linked with.
pub(crate) fn go_modules(text: &str, go: &str, path: &str) -> Vec<Package> {
    let mut found = vec![];
    for row in text.lines() {
        let words: Vec<&str> = row.split('\t').collect();
        match words[..] {
            ["mod" | "dep", name, version, ..] => {
                found.push(Package::new(Kind::Golang, name, version, path));
            }
            // it takes the place of the one before
            ["=>", name, version, ..] => {
                found.pop();
                found.push(Package::new(Kind::Golang, name, version, path));
            }
            _ => {}
        }
    }
    if let Some(version) = go.strip_prefix("go") {
        let version = version.split(' ').next().unwrap_or(version);
        found.push(Package::new(Kind::Golang, "stdlib", version, path));
    }
    found
}

/// `cargo auditable`'s list in a program.
pub(crate) fn cargo_audit(text: &str, path: &str) -> Vec<Package> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let package = |p: &Value| {
        // what was needed to build only isn't in the program
        let built = p["kind"].as_str() == Some("build");
        let (name, version) = (p["name"].as_str()?, p["version"].as_str()?);
        (!built).then(|| Package::new(Kind::Cargo, name, version, path))
    };
    value["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(package)
        .collect()
}
