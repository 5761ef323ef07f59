//! The packages of a root, and the SPDX 2.3 document that lists them.

use super::{
    binaries,
    packages::{Package, apk, cargo_lock, dpkg, npm, python},
};
use crate::copy::{self, Tree};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// No file that tells of packages is longer, in bytes.
const TEXT_MAX: u64 = 64 << 20;
/// Nor are there more packages.
const PACKAGES_MAX: usize = 100_000;

/// Which kind of file tells of packages.
enum Tells {
    Dpkg,
    Apk,
    Npm,
    Python,
    Lock,
    /// Perhaps a program.
    Program,
}

fn tells(path: &str, executable: bool) -> Option<Tells> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    Some(match name {
        "status" if folder == "var/lib/dpkg" => Tells::Dpkg,
        _ if folder == "var/lib/dpkg/status.d" && !name.ends_with(".md5sums") => Tells::Dpkg,
        "installed" if folder.ends_with("lib/apk/db") => Tells::Apk,
        "package.json" if in_modules(folder) => Tells::Npm,
        "METADATA" if folder.ends_with(".dist-info") => Tells::Python,
        "PKG-INFO" if folder.ends_with(".egg-info") => Tells::Python,
        _ if name.ends_with(".egg-info") => Tells::Python,
        "Cargo.lock" => Tells::Lock,
        _ if executable => Tells::Program,
        _ => return None,
    })
}

/// `…/node_modules/NAME` or `…/node_modules/@SCOPE/NAME`: a package's own folder, not one inside of it.
fn in_modules(folder: &str) -> bool {
    let Some((parent, _)) = folder.rsplit_once('/') else {
        return false;
    };
    let scope = parent.rsplit_once('/');
    let own = |p: &str| p == "node_modules" || p.ends_with("/node_modules");
    own(parent) || scope.is_some_and(|(p, name)| name.starts_with('@') && own(p))
}

fn text(file: File) -> io::Result<String> {
    let mut bytes = vec![];
    file.take(TEXT_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// All packages below a root, sorted, each once. Blocking.
///
/// # Errors
/// When the root can't be walked. A file that can't be read, or isn't right, tells of nothing.
pub fn packages(root: &Tree) -> Result<Vec<Package>, copy::Error> {
    let mut found = BTreeSet::new();
    copy::each_file(root, &mut |path, executable, open| {
        let Some(tells) = tells(path, executable) else {
            return;
        };
        if found.len() > PACKAGES_MAX {
            return;
        }
        let Ok(file) = open() else { return };
        if matches!(tells, Tells::Program) {
            found.extend(binaries::packages(&file, path));
            return;
        }
        let Ok(text) = text(file) else { return };
        match tells {
            Tells::Dpkg => found.extend(dpkg(&text, path)),
            Tells::Apk => found.extend(apk(&text, path)),
            Tells::Npm => found.extend(npm(&text, path)),
            Tells::Python => found.extend(python(&text, path)),
            Tells::Lock => found.extend(cargo_lock(&text, path)),
            Tells::Program => {}
        }
    })?;
    Ok(found.into_iter().collect())
}

/// `ID` and `VERSION_ID` of a root's `os-release`.
fn distribution(root: &Tree) -> Option<(String, String)> {
    let read = |path: &str| text(root.open_file(Path::new(path)).ok()?).ok();
    let text = read("etc/os-release").or_else(|| read("usr/lib/os-release"))?;
    let word = |key: &str| {
        let mut rows = text.lines().filter_map(|r| r.split_once('='));
        let (_, value) = rows.find(|(k, _)| *k == key)?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    };
    Some((word("ID")?, word("VERSION_ID").unwrap_or_default()))
}

/// Letters, digits, dots and dashes only, as SPDX wants its ids.
fn id(text: &str) -> String {
    let keep = |c: char| match c.is_ascii_alphanumeric() || c == '.' {
        true => c,
        false => '-',
    };
    text.chars().map(keep).collect()
}

/// A license that is an SPDX expression by its look; anything else is no assertion.
fn license(package: &Package) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " .-+()".contains(c);
    match &package.license {
        Some(text) if !text.is_empty() && text.len() < 200 && text.chars().all(plain) => {
            let words = text.split([' ', '(', ')']).filter(|w| !w.is_empty());
            let pairs = words.collect::<Vec<_>>();
            let joined = |w: &&str| matches!(*w, "AND" | "OR" | "WITH");
            let names = pairs.iter().filter(|w| !joined(w)).count();
            match names == pairs.iter().filter(|w| joined(w)).count() + 1 {
                true => text.clone(),
                false => "NOASSERTION".into(),
            }
        }
        _ => "NOASSERTION".into(),
    }
}

/// The SPDX 2.3 document of a root. `name`: what it is called; `digest`: of the image's manifest; `created`: RFC 3339.
///
/// # Errors
/// As [`packages`].
pub fn document(
    root: &Tree,
    name: &str,
    digest: &str,
    created: &str,
) -> Result<Value, copy::Error> {
    let all = packages(root)?;
    let distribution = distribution(root);
    let distribution = distribution.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
    let hex = digest.trim_start_matches("sha256:");
    let image = "SPDXRef-DocumentRoot-Image";
    let mut listed = vec![json!({
        "SPDXID": image,
        "name": name,
        "versionInfo": digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": hex}],
    })];
    let relation = |a: &str, kind: &str, b: &str| json!({"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b});
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", image)];
    for (i, package) in all.iter().enumerate() {
        let own = format!(
            "SPDXRef-Package-{}-{}-{i}",
            package.kind.name(),
            id(&package.name)
        );
        let mut entry = json!({
            "SPDXID": own,
            "name": package.name,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": license(package),
            "copyrightText": "NOASSERTION",
            "sourceInfo": format!("acquired package info from: /{}", package.found_in),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.purl(distribution),
            }],
        });
        if !package.version.is_empty() {
            entry["versionInfo"] = package.version.clone().into();
        }
        listed.push(entry);
        relations.push(relation(image, "CONTAINS", &own));
    }
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/knarr/{}-{hex}", id(name)),
        "creationInfo": {
            "created": created,
            "creators": [concat!("Tool: knarr-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": listed,
        "relationships": relations,
    }))
}
