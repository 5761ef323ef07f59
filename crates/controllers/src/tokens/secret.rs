//! Bootstrap tokens as they are kept: Secrets of a type of their own in `kube-system` (cluster-bootstrap `token/util/secrets`).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::objects::meta::{Meta, Seconds, nullable, object, parse_time};

/// Where the tokens are.
pub const NAMESPACE: &str = "kube-system";
/// What the list of them is narrowed to.
pub const SELECTOR: &str = "fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken";
const PREFIX: &str = "bootstrap-token-";

/// `v1.Secret`
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// metadata
    pub metadata: Meta,
    /// Base64
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<Box<str>, Box<str>>,
}
object!(Secret, "", "v1", "secrets", "Secret");

impl Secret {
    /// A value as text; empty when there is none.
    fn text(&self, key: &str) -> String {
        let value = self.data.get(key).and_then(|v| STANDARD.decode(&**v).ok());
        String::from_utf8(value.unwrap_or_default()).unwrap_or_default()
    }

    /// When the token ends; None: never. A time that can't be read has passed.
    pub fn end(&self) -> Option<Seconds> {
        match self.text("expiration").as_str() {
            "" => None,
            at => Some(parse_time(Some(at)).unwrap_or(0)),
        }
    }

    /// Id and secret of a token that may sign.
    pub fn signing(&self, now: Seconds) -> Option<(String, String)> {
        let (id, secret) = (self.text("token-id"), self.text("token-secret"));
        let named = self.metadata.name.strip_prefix(PREFIX)? == id;
        let ended = self.end().is_some_and(|at| at <= now);
        let signs = self.text("usage-bootstrap-signing") == "true";
        (named && !id.is_empty() && !secret.is_empty() && !ended && signs).then_some((id, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_tokens_sign() {
        let data = |extra: &[(&str, &str)]| {
            let mut data = BTreeMap::new();
            let base = [
                ("token-id", "abcdef"),
                ("token-secret", "s"),
                ("usage-bootstrap-signing", "true"),
            ];
            for (k, v) in base.iter().chain(extra) {
                data.insert((*k).into(), STANDARD.encode(v).into());
            }
            data
        };
        let yes = Some(("abcdef".to_string(), "s".to_string()));
        for (case, name, extra, wanted) in [
            ("plain", "bootstrap-token-abcdef", vec![], yes.clone()),
            ("another name", "bootstrap-token-other", vec![], None),
            ("no token's name", "abcdef", vec![], None),
            (
                "not for signing",
                "bootstrap-token-abcdef",
                vec![("usage-bootstrap-signing", "false")],
                None,
            ),
            (
                "no secret",
                "bootstrap-token-abcdef",
                vec![("token-secret", "")],
                None,
            ),
            (
                "ended",
                "bootstrap-token-abcdef",
                vec![("expiration", "2001-01-01T00:00:00Z")],
                None,
            ),
            (
                "ends later",
                "bootstrap-token-abcdef",
                vec![("expiration", "2101-01-01T00:00:00Z")],
                yes,
            ),
            (
                "ends at no time",
                "bootstrap-token-abcdef",
                vec![("expiration", "tomorrow")],
                None,
            ),
        ] {
            let secret = Secret {
                metadata: Meta {
                    name: name.into(),
                    ..Meta::default()
                },
                data: data(&extra),
            };
            assert_eq!(secret.signing(1_700_000_000), wanted, "{case}");
        }
    }
}
