//! A reference in its parts.

use crate::{normalize, reference::is_digest};

/// Where an image is and which one: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `HOST[:PORT]`; `docker.io` for what has none.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name as Docker does.
    ///
    /// # Errors
    /// [`crate::Error::Reference`] when it is none.
    pub fn parse(name: &str) -> Result<Reference, crate::Error> {
        let full = normalize(name)?;
        let bad = || crate::Error::Reference(name.to_string());
        let (rest, digest) = match full.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_string())),
            Some(_) => return Err(bad()),
            None => (full.as_str(), None),
        };
        let (registry, path) = rest.split_once('/').ok_or_else(bad)?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_string())),
            None => (path, None),
        };
        Ok(Reference {
            registry: registry.into(),
            repository: repository.into(),
            tag,
            digest,
        })
    }

    /// What the registry is asked for: the digest if there is one, else the tag.
    pub fn selector(&self) -> &str {
        let either = self.digest.as_deref().or(self.tag.as_deref());
        either.unwrap_or("latest")
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
