//! Service-account tokens: JSON Web Tokens (RFC 7515, 7519) signed with ES256, their claims as upstream
//! `pkg/serviceaccount` has them, and the key as a JSON Web Key (RFC 7517).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

/// `iss` of tokens kept in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Clocks may differ by this much, in seconds (go-jose's default leeway).
pub const LEEWAY_SECONDS: i64 = 60;
/// Longest token looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
const ALGORITHM: &str = "ES256";

/// Why a key can't be used, or a token isn't taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not a P-256 key.
    #[error("not a P-256 private key in PKCS #8; remove the file to have a new key made")]
    Key,
    /// The system's random numbers failed.
    #[error("signing failed; the system gives no random numbers")]
    Sign,
    /// Not three parts of base64url with JSON in the first two.
    #[error("the token is malformed")]
    Malformed,
    /// Another key or algorithm.
    #[error("the token's signature is not ours")]
    Signature,
    /// Past `exp`.
    #[error("service account token has expired")]
    Expired,
    /// Before `nbf`.
    #[error("service account token is not valid yet")]
    NotYet,
    /// `iat` lies ahead.
    #[error("service account token is issued in the future")]
    FromTheFuture,
}

/// A named object a token speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ref {
    /// Name.
    pub name: String,
    /// UID; empty when it was not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    /// Namespace of the account and of what the token is bound to.
    pub namespace: String,
    /// The node, for tokens bound to one or to a Pod on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// The Pod it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    /// The Secret it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The account.
    pub serviceaccount: Ref,
    /// When the holder should have asked for a new one, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a token from the TokenRequest API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// For whom.
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub aud: Vec<String>,
    /// Until, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// Since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// By.
    pub iss: String,
    /// The token's own name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// Ours.
    #[serde(rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// `system:serviceaccount:<namespace>:<name>`
    pub sub: String,
    /// Ours, of tokens in Secrets.
    #[serde(flatten)]
    pub legacy: Legacy,
}

/// The claims of a token in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Legacy {
    /// Namespace.
    #[serde(
        rename = "kubernetes.io/serviceaccount/namespace",
        skip_serializing_if = "String::is_empty"
    )]
    pub namespace: String,
    /// The Secret.
    #[serde(
        rename = "kubernetes.io/serviceaccount/secret.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub secret: String,
    /// The account's name.
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub account: String,
    /// The account's UID.
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        skip_serializing_if = "String::is_empty"
    )]
    pub uid: String,
}

/// `aud` may be a string or a list.
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<Audience>::deserialize(d)? {
        None => vec![],
        Some(Audience::One(one)) => vec![one],
        Some(Audience::Many(many)) => many,
    })
}

impl Claims {
    /// Whether the times allow its use now.
    pub fn in_time(&self, now_seconds: i64) -> Result<(), Error> {
        if self.nbf.is_some_and(|t| now_seconds + LEEWAY_SECONDS < t) {
            return Err(Error::NotYet);
        }
        if self.exp.is_some_and(|t| now_seconds - LEEWAY_SECONDS > t) {
            return Err(Error::Expired);
        }
        if self.iat.is_some_and(|t| now_seconds + LEEWAY_SECONDS < t) {
            return Err(Error::FromTheFuture);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kid: String,
}

/// The key tokens are signed with.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("key_id", &self.key_id)
            .finish()
    }
}

/// What stands before an uncompressed P-256 point in a SubjectPublicKeyInfo (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl Signer {
    /// A P-256 key in PKCS #8 (DER).
    pub fn new(pkcs8: &[u8]) -> Result<Signer, Error> {
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
                .map_err(|_| Error::Key)?;
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(pair.public_key().as_ref());
        // as upstream derives it: what the key id tells must not be the key
        let key_id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &spki));
        Ok(Signer {
            pair,
            random,
            key_id,
        })
    }

    /// The public key's name.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key for `/openid/v1/jwks`.
    pub fn jwks(&self) -> serde_json::Value {
        let point = self.pair.public_key().as_ref();
        let half = |range: std::ops::Range<usize>| {
            URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default())
        };
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": ALGORITHM,
            "x": half(1..33), "y": half(33..65),
        }]})
    }

    /// The claims as a token.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let encode = |v: Result<Vec<u8>, serde_json::Error>| {
            v.map(|v| URL_SAFE_NO_PAD.encode(v))
                .map_err(|_| Error::Malformed)
        };
        let header = Header {
            alg: ALGORITHM.into(),
            kid: self.key_id.clone(),
        };
        let mut token = encode(serde_json::to_vec(&header))?;
        token.push('.');
        token.push_str(&encode(serde_json::to_vec(claims))?);
        let signature = self
            .pair
            .sign(&self.random, token.as_bytes())
            .map_err(|_| Error::Sign)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims of a token signed by this key. The times are not looked at.
    pub fn verify(&self, token: &str) -> Result<Claims, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::Malformed);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Error::Malformed);
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Error::Malformed)?;
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| Error::Malformed)?;
        // the token doesn't choose how it is checked (RFC 8725, 3.1)
        if header.alg != ALGORITHM || (!header.kid.is_empty() && header.kid != self.key_id) {
            return Err(Error::Signature);
        }
        UnparsedPublicKey::new(
            &signature::ECDSA_P256_SHA256_FIXED,
            self.pair.public_key().as_ref(),
        )
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| Error::Signature)?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| Error::Malformed)
    }
}

/// `iss` of a token, whoever signed it; None when it isn't a token at all.
pub fn issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        #[serde(default)]
        iss: String,
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<Issuer>(&claims)
        .ok()
        .map(|i| i.iss)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let key = EcdsaKeyPair::generate_pkcs8(
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &SystemRandom::new(),
        )
        .unwrap();
        Signer::new(key.as_ref()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["a".into()],
            exp: Some(2000),
            iat: Some(1000),
            nbf: Some(1000),
            iss: "me".into(),
            jti: "j".into(),
            sub: "system:serviceaccount:ns:sa".into(),
            kubernetes: Some(Kubernetes {
                namespace: "ns".into(),
                serviceaccount: Ref {
                    name: "sa".into(),
                    uid: "u".into(),
                },
                ..Kubernetes::default()
            }),
            legacy: Legacy::default(),
        }
    }

    #[test]
    fn what_is_signed_verifies() {
        let s = signer();
        let token = s.sign(&claims()).unwrap();
        assert_eq!(s.verify(&token), Ok(claims()));
        assert_eq!(issuer(&token).as_deref(), Some("me"));
        let text = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"aud":["a"],"exp":2000,"iat":1000,"iss":"me","jti":"j","kubernetes.io":{"namespace":"ns","serviceaccount":{"name":"sa","uid":"u"}},"nbf":1000,"sub":"system:serviceaccount:ns:sa"}"#
        );
    }

    #[test]
    fn legacy_claims_have_upstreams_names() {
        let s = signer();
        let given = Claims {
            iss: LEGACY_ISSUER.into(),
            sub: "system:serviceaccount:ns:sa".into(),
            legacy: Legacy {
                namespace: "ns".into(),
                secret: "t".into(),
                account: "sa".into(),
                uid: "u".into(),
            },
            ..Claims::default()
        };
        let token = s.sign(&given).unwrap();
        assert_eq!(s.verify(&token), Ok(given));
        let text = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"iss":"kubernetes/serviceaccount","sub":"system:serviceaccount:ns:sa","kubernetes.io/serviceaccount/namespace":"ns","kubernetes.io/serviceaccount/secret.name":"t","kubernetes.io/serviceaccount/service-account.name":"sa","kubernetes.io/serviceaccount/service-account.uid":"u"}"#
        );
    }

    #[test]
    fn forgeries_are_refused() {
        let (s, other) = (signer(), signer());
        let good = s.sign(&claims()).unwrap();
        let parts: Vec<&str> = good.split('.').collect();
        let with = |header: &str, claims: &str, sig: &str| format!("{header}.{claims}.{sig}");
        let enc = |t: &str| URL_SAFE_NO_PAD.encode(t);
        let none = enc(r#"{"alg":"none"}"#);
        let hs = enc(r#"{"alg":"HS256"}"#);
        let changed = enc(
            &String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap())
                .unwrap()
                .replace("ns:sa", "ns:xx"),
        );
        let cases = [
            (
                "another's key",
                other.sign(&claims()).unwrap(),
                Error::Signature,
            ),
            ("no algorithm", with(&none, parts[1], ""), Error::Signature),
            (
                "another algorithm",
                with(&hs, parts[1], parts[2]),
                Error::Signature,
            ),
            (
                "other claims",
                with(parts[0], &changed, parts[2]),
                Error::Signature,
            ),
            (
                "no signature",
                with(parts[0], parts[1], ""),
                Error::Signature,
            ),
            (
                "two parts",
                format!("{}.{}", parts[0], parts[1]),
                Error::Malformed,
            ),
            ("four parts", format!("{good}.x"), Error::Malformed),
            ("empty", String::new(), Error::Malformed),
            ("not base64", "a!.b.c".into(), Error::Malformed),
            (
                "too long",
                "a".repeat(TOKEN_BYTES_MAX + 1),
                Error::Malformed,
            ),
        ];
        for (name, token, want) in cases {
            let got = s.verify(&token).unwrap_err();
            assert!(got == want || got == Error::Malformed, "{name}: {got}");
        }
        assert!(s.verify(&good).is_ok());
    }

    #[test]
    fn times() {
        let cases = [
            (1000, Ok(())),
            (940, Ok(())),
            (939, Err(Error::NotYet)),
            (2060, Ok(())),
            (2061, Err(Error::Expired)),
        ];
        for (now, want) in cases {
            assert_eq!(claims().in_time(now), want, "{now}");
        }
        let eternal = Claims::default();
        assert_eq!(eternal.in_time(i64::MAX - 100), Ok(()));
    }

    #[test]
    fn audiences_may_be_one() {
        let c: Claims = serde_json::from_str(r#"{"aud":"x"}"#).unwrap();
        assert_eq!(c.aud, ["x"]);
    }

    #[test]
    fn keys_are_published_with_their_id() {
        let s = signer();
        let jwks = s.jwks();
        assert_eq!(jwks["keys"][0]["kid"], s.key_id());
        assert_eq!(jwks["keys"][0]["x"].as_str().unwrap().len(), 43);
        assert_eq!(jwks["keys"][0]["y"].as_str().unwrap().len(), 43);
    }
}
