//! Digests (image-spec, descriptor.md): the two registered algorithms.

use sha2::{Digest as _, Sha256, Sha512};
use std::{fmt, str::FromStr};

/// How content is digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = String;
    fn from_str(text: &str) -> Result<Algorithm, String> {
        match text {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(format!(
                "digest algorithm {text:?} is not supported: use sha256 or sha512"
            )),
        }
    }
}

/// A digest that has been checked for its form: safe as a part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    pub algorithm: Algorithm,
    pub hex: String,
}

impl Digest {
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let hex = match algorithm {
            Algorithm::Sha256 => hex::encode(Sha256::digest(bytes)),
            Algorithm::Sha512 => hex::encode(Sha512::digest(bytes)),
        };
        Digest { algorithm, hex }
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Digest, String> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| {
            format!("{text:?} is no digest: expected ALGORITHM:HEX, e.g. sha256:…")
        })?;
        let algorithm: Algorithm = algorithm.parse()?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(lower) {
            return Err(format!(
                "{text:?} is no digest: {} has {} lower-case hexadecimal digits",
                algorithm.name(),
                algorithm.hex_len()
            ));
        }
        Ok(Digest {
            algorithm,
            hex: hex.to_string(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Digests a stream: always by sha256, which the store keeps content by, and by sha512 when a client asks for it.
#[derive(Clone)]
pub struct Hasher {
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Hasher {
    pub fn new(with: Option<Algorithm>) -> Hasher {
        Hasher {
            sha256: Sha256::new(),
            sha512: (with == Some(Algorithm::Sha512)).then(Sha512::new),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    /// Has it digested by this algorithm from the first byte on?
    pub fn knows(&self, algorithm: Algorithm) -> bool {
        algorithm == Algorithm::Sha256 || self.sha512.is_some()
    }

    /// The digests by sha256 and, where it was asked for, by sha512.
    pub fn finish(self) -> (Digest, Option<Digest>) {
        let digest = |algorithm, hex| Digest { algorithm, hex };
        (
            digest(Algorithm::Sha256, hex::encode(self.sha256.finalize())),
            self.sha512
                .map(|sha512| digest(Algorithm::Sha512, hex::encode(sha512.finalize()))),
        )
    }
}
