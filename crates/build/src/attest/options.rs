//! `--sbom`, `--provenance`, `--attest` (buildx `util/buildflags`, buildkit `frontend/attestations`).

/// A flag that isn't right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AttestationsError(String);

/// What is to be said of how the image was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// `mode=max`, the default: with the Dockerfile, the values of arguments, and the names of secrets.
    pub max: bool,
    /// `version=v0.2`: the older format of SLSA.
    pub old: bool,
    /// `builder-id=`
    pub builder: String,
    /// `reproducible=true`
    pub reproducible: bool,
}

/// Which attestations are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attestations {
    pub sbom: bool,
    pub provenance: Option<Provenance>,
}

impl Attestations {
    /// None is wanted.
    pub fn is_empty(&self) -> bool {
        !self.sbom && self.provenance.is_none()
    }
    /// Adds a flag: `sbom`'s or `provenance`'s value, or a whole `type=…,…`.
    ///
    /// # Errors
    /// Other types, values that are none, a scanner of one's own: ours is built in.
    pub fn add(&mut self, kind: &str, value: &str) -> Result<(), AttestationsError> {
        let wrong = |why: String| Err(AttestationsError(why));
        let mut kind = kind.to_owned();
        let mut options: Vec<(&str, &str)> = vec![];
        let mut wanted = true;
        for part in value.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match part.split_once('=') {
                Some(("type", of)) => of.clone_into(&mut kind),
                Some(("disabled", on)) => wanted = !boolean("disabled", on)?,
                Some(option) => options.push(option),
                None => wanted = boolean(&kind, part)?,
            }
        }
        match kind.as_str() {
            "sbom" => {
                match options.first() {
                    None => {}
                    Some(("generator", _)) => {
                        return wrong(
                            "a generator for SBOMs can't be chosen: the builder finds packages itself"
                                .into(),
                        );
                    }
                    Some((key, _)) => return wrong(format!("{key} is no option of sbom")),
                }
                self.sbom = wanted;
            }
            "provenance" => {
                let mut provenance = Provenance {
                    max: true,
                    ..Provenance::default()
                };
                for (key, value) in options {
                    match (key, value) {
                        ("mode", "min" | "max") => provenance.max = value == "max",
                        ("mode", _) => {
                            return wrong(format!("invalid mode {value:?}: min or max"));
                        }
                        ("version", "v1" | "v0.2") => provenance.old = value == "v0.2",
                        ("version", _) => {
                            return wrong(format!("invalid provenance SLSA version: {value}"));
                        }
                        ("builder-id", _) => value.clone_into(&mut provenance.builder),
                        ("reproducible", _) => provenance.reproducible = boolean(key, value)?,
                        // the predicate is in a manifest of its own in any case
                        ("inline-only", _) => drop(boolean(key, value)?),
                        _ => return wrong(format!("{key} is no option of provenance")),
                    }
                }
                self.provenance = wanted.then_some(provenance);
            }
            "" => return wrong("attestation type not specified".into()),
            other => {
                return wrong(format!(
                    "unknown attestation type {other:?}: sbom or provenance"
                ));
            }
        }
        Ok(())
    }
}

fn boolean(what: &str, text: &str) -> Result<bool, AttestationsError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(AttestationsError(format!(
            "{what}: {text:?} is neither true nor false"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let min = Provenance::default();
        let max = Provenance {
            max: true,
            ..Provenance::default()
        };
        let old = Provenance {
            max: true,
            old: true,
            builder: "https://x/y".into(),
            ..Provenance::default()
        };
        let table = [
            ("sbom", "true", Ok((true, None))),
            ("sbom", "false", Ok((false, None))),
            ("provenance", "true", Ok((false, Some(max.clone())))),
            ("provenance", "mode=min", Ok((false, Some(min)))),
            ("", "type=provenance,mode=max", Ok((false, Some(max)))),
            (
                "",
                "type=provenance,version=v0.2,builder-id=https://x/y",
                Ok((false, Some(old))),
            ),
            ("", "type=sbom", Ok((true, None))),
            ("", "type=sbom,disabled=true", Ok((false, None))),
            (
                "",
                "type=x",
                Err("unknown attestation type \"x\": sbom or provenance"),
            ),
            ("", "mode=max", Err("attestation type not specified")),
            (
                "provenance",
                "mode=mid",
                Err("invalid mode \"mid\": min or max"),
            ),
            (
                "provenance",
                "maybe",
                Err("provenance: \"maybe\" is neither true nor false"),
            ),
        ];
        for (kind, value, want) in table {
            let mut all = Attestations::default();
            let got = all.add(kind, value);
            match want {
                Ok((sbom, provenance)) => {
                    assert_eq!(got, Ok(()), "{kind} {value}");
                    assert_eq!(all, Attestations { sbom, provenance }, "{kind} {value}");
                }
                Err(why) => assert_eq!(got.unwrap_err().to_string(), why),
            }
        }
    }
}
