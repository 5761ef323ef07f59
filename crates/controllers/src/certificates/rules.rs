//! What is approved, what a signer signs, and when a request has been there for long enough. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::Subject;
use crate::objects::meta::Seconds;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

const DONE_S: Seconds = 3600;
const PENDING_S: Seconds = 24 * 3600;

/// The parts of a CertificateSigningRequest that decisions need.
#[derive(Debug, Default)]
pub struct Requested {
    pub signer: String,
    pub username: String,
    pub pem: Vec<u8>,
    pub usages: Vec<String>,
    pub seconds: Option<i64>,
    pub approved: bool,
    pub denied: bool,
    pub failed: bool,
    pub issued: bool,
}

impl Requested {
    pub fn read(csr: &Value) -> Requested {
        let spec = &csr["spec"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let has = |kind: &str| conditions(csr).any(|c| c["type"] == kind);
        Requested {
            signer: text(&spec["signerName"]),
            username: text(&spec["username"]),
            pem: from_base64(spec["request"].as_str().unwrap_or_default()),
            usages: spec["usages"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect(),
            seconds: spec["expirationSeconds"].as_i64(),
            approved: has("Approved"),
            denied: has("Denied"),
            failed: has("Failed"),
            issued: !text(&csr["status"]["certificate"]).is_empty(),
        }
    }
}

fn conditions(csr: &Value) -> impl Iterator<Item = &Value> {
    csr["status"]["conditions"].as_array().into_iter().flatten()
}

/// Appends a condition.
pub fn add_condition(csr: &mut Value, condition: Value) {
    let status = &mut csr["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(list) = status["conditions"].as_array_mut() {
        list.push(condition);
    }
}

/// One of the signers that this controller is.
pub fn ours(signer: &str) -> bool {
    [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer)
}

/// Whether a signer signs what is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Signing {
    Fine,
    /// why not
    Refused(String),
}

/// Upstream's `getCSRVerificationFuncForSignerName`.
pub fn check(signer: &str, subject: &Subject, usages: &[String]) -> Signing {
    let checked = match signer {
        CLIENT => client_usages(usages),
        KUBELET_CLIENT => kubelet_client(subject, usages),
        KUBELET_SERVING => kubelet_serving(subject, usages),
        _ => Ok(()),
    };
    match checked {
        Ok(()) => Signing::Fine,
        Err(why) => Signing::Refused(why),
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment"];
    for u in usages {
        if u != "client auth" && !optional.contains(&u.as_str()) {
            return Err(format!("invalid usage for client certificate: {u}"));
        }
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

/// The three usages, of which RSA alone needs the encipherment.
fn exactly(usages: &[String], purpose: &str) -> Result<(), String> {
    let mut given: Vec<&str> = usages.iter().map(String::as_str).collect();
    given.sort_unstable();
    given.dedup();
    let mut all = vec!["digital signature", "key encipherment", purpose];
    all.sort_unstable();
    let without: Vec<&str> = all
        .iter()
        .copied()
        .filter(|u| *u != "key encipherment")
        .collect();
    match given == all || given == without {
        true => Ok(()),
        false => Err(format!("usages did not match [{}]", all.join(" "))),
    }
}

fn of_nodes(subject: &Subject) -> Result<(), String> {
    match subject.organizations == ["system:nodes"] {
        true => Ok(()),
        false => Err("subject organization is not system:nodes".into()),
    }
}
fn node_name(subject: &Subject) -> Result<(), String> {
    match subject.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".into()),
    }
}

fn kubelet_serving(s: &Subject, usages: &[String]) -> Result<(), String> {
    of_nodes(s)?;
    let wrong = match s {
        s if s.dns_names == 0 && s.ip_addresses == 0 => "DNS or IP subjectAltName is required",
        s if s.emails > 0 => "Email subjectAltNames are not allowed",
        s if s.uris > 0 => "URI subjectAltNames are not allowed",
        _ => "",
    };
    if !wrong.is_empty() {
        return Err(wrong.into());
    }
    exactly(usages, "server auth")?;
    node_name(s)
}

fn kubelet_client(s: &Subject, usages: &[String]) -> Result<(), String> {
    of_nodes(s)?;
    for (n, what) in [
        (s.dns_names, "DNS"),
        (s.emails, "Email"),
        (s.ip_addresses, "IP"),
        (s.uris, "URI"),
    ] {
        if n > 0 {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    exactly(usages, "client auth")?;
    node_name(s)
}

/// The subresources whose `create` lets a request be approved by itself, with the condition's message; tried in order.
pub fn recognized(asked: &Requested, subject: &Subject) -> Vec<(&'static str, &'static str)> {
    let node = asked.signer == KUBELET_CLIENT && kubelet_client(subject, &asked.usages).is_ok();
    if !node {
        return vec![];
    }
    let any = (
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    );
    let own = (
        "selfnodeclient",
        "Auto approving self kubelet client certificate after SubjectAccessReview.",
    );
    match asked.username == subject.common_name {
        true => vec![own, any],
        false => vec![any],
    }
}

/// Seconds until the request is to be removed: 0 = now, None = nothing to wait for (`pkg/controller/certificates/cleaner`).
pub fn left_seconds(
    csr: &Value,
    now: Seconds,
    end: impl Fn(&[u8]) -> Option<Seconds>,
) -> Option<Seconds> {
    let stamp = |v: &Value| {
        let at: Option<jiff::Timestamp> = v.as_str().and_then(|t| t.parse().ok());
        at.map(|t| t.as_second())
    };
    let cert = csr["status"]["certificate"].as_str().unwrap_or_default();
    let mut deadlines = Vec::new();
    if conditions(csr).next().is_none() {
        deadlines.extend(stamp(&csr["metadata"]["creationTimestamp"]).map(|t| t + PENDING_S));
    }
    for c in conditions(csr) {
        let kept = match c["type"].as_str() {
            Some("Denied" | "Failed") => DONE_S,
            Some("Approved") if cert.is_empty() => PENDING_S,
            Some("Approved") => {
                deadlines.extend(end(&from_base64(cert)));
                DONE_S
            }
            _ => continue,
        };
        deadlines.extend(stamp(&c["lastUpdateTime"]).map(|t| t + kept));
    }
    // older than, not as old as
    deadlines.iter().min().map(|at| (at + 1 - now).max(0))
}

/// Bytes as JSON carries them.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
fn from_base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(cn: &str, organization: &str) -> Subject {
        Subject {
            common_name: cn.into(),
            organizations: vec![organization.into()],
            ..Subject::default()
        }
    }
    fn usages(text: &str) -> Vec<String> {
        text.split(", ").map(String::from).collect()
    }

    #[test]
    fn signers_sign_what_they_are_for() {
        let node = || subject("system:node:a", "system:nodes");
        let with_dns = || Subject {
            dns_names: 1,
            ..node()
        };
        let all = "key encipherment, digital signature";
        for (name, signer, subject, given, want) in [
            (
                "a client",
                CLIENT,
                subject("jane", "devs"),
                "client auth".to_string(),
                "",
            ),
            (
                "a client that serves",
                CLIENT,
                subject("jane", "devs"),
                "client auth, server auth".into(),
                "invalid usage for client certificate: server auth",
            ),
            (
                "a client that is none",
                CLIENT,
                subject("jane", "devs"),
                "digital signature".into(),
                "missing required usage for client certificate: client auth",
            ),
            (
                "a node",
                KUBELET_CLIENT,
                node(),
                format!("{all}, client auth"),
                "",
            ),
            (
                "a node without RSA",
                KUBELET_CLIENT,
                node(),
                "digital signature, client auth".into(),
                "",
            ),
            (
                "no node",
                KUBELET_CLIENT,
                subject("jane", "system:nodes"),
                format!("{all}, client auth"),
                "subject common name does not begin with system:node:",
            ),
            (
                "not of the nodes",
                KUBELET_CLIENT,
                subject("system:node:a", "devs"),
                format!("{all}, client auth"),
                "subject organization is not system:nodes",
            ),
            (
                "a node with names",
                KUBELET_CLIENT,
                with_dns(),
                format!("{all}, client auth"),
                "DNS subjectAltNames are not allowed",
            ),
            (
                "a node that serves",
                KUBELET_SERVING,
                with_dns(),
                format!("{all}, server auth"),
                "",
            ),
            (
                "a node that serves nobody",
                KUBELET_SERVING,
                node(),
                format!("{all}, server auth"),
                "DNS or IP subjectAltName is required",
            ),
            (
                "a server as client",
                KUBELET_SERVING,
                with_dns(),
                format!("{all}, client auth"),
                "usages did not match [digital signature key encipherment server auth]",
            ),
            (
                "anything",
                LEGACY,
                subject("x", "y"),
                "timestamping".into(),
                "",
            ),
        ] {
            let want = match want {
                "" => Signing::Fine,
                why => Signing::Refused(why.into()),
            };
            assert_eq!(check(signer, &subject, &usages(&given)), want, "{name}");
        }
    }

    #[test]
    fn requests_go_when_they_are_old() {
        let at = "2026-01-01T00:00:00Z";
        let now: Seconds = at.parse::<jiff::Timestamp>().unwrap().as_second();
        let with = |kind: &str, cert: &str| {
            json!({"metadata": {"creationTimestamp": at}, "status": {"certificate": cert,
                "conditions": [{"type": kind, "status": "True", "lastUpdateTime": at}]}})
        };
        let pending = json!({"metadata": {"creationTimestamp": at}});
        for (name, csr, cert_end, age, want) in [
            ("pending", pending.clone(), None, 0, Some(PENDING_S + 1)),
            ("pending for long", pending, None, PENDING_S + 1, Some(0)),
            ("denied", with("Denied", ""), None, DONE_S, Some(1)),
            (
                "denied for long",
                with("Denied", ""),
                None,
                DONE_S + 1,
                Some(0),
            ),
            (
                "failed for long",
                with("Failed", ""),
                None,
                DONE_S + 1,
                Some(0),
            ),
            (
                "approved, not issued",
                with("Approved", ""),
                None,
                DONE_S + 1,
                Some(PENDING_S - DONE_S),
            ),
            (
                "issued",
                with("Approved", "eA=="),
                None,
                60,
                Some(DONE_S - 59),
            ),
            (
                "issued for long",
                with("Approved", "eA=="),
                None,
                DONE_S + 1,
                Some(0),
            ),
            (
                "expired",
                with("Approved", "eA=="),
                Some(now + 10),
                11,
                Some(0),
            ),
            ("somebody's own", with("Odd", ""), None, 0, None),
        ] {
            assert_eq!(left_seconds(&csr, now + age, |_| cert_end), want, "{name}");
        }
    }

    #[test]
    fn only_nodes_are_recognized() {
        let node = subject("system:node:a", "system:nodes");
        let asked = |signer: &str, username: &str| Requested {
            signer: signer.into(),
            username: username.into(),
            usages: usages("digital signature, client auth"),
            ..Requested::default()
        };
        let names = |asked, subject: &Subject| -> Vec<&str> {
            recognized(&asked, subject)
                .into_iter()
                .map(|(s, _)| s)
                .collect()
        };
        assert_eq!(
            names(asked(KUBELET_CLIENT, "system:node:a"), &node),
            ["selfnodeclient", "nodeclient"]
        );
        assert_eq!(
            names(asked(KUBELET_CLIENT, "system:bootstrap:x"), &node),
            ["nodeclient"]
        );
        assert!(names(asked(CLIENT, "system:node:a"), &node).is_empty());
        assert!(names(asked(KUBELET_CLIENT, "jane"), &subject("jane", "devs")).is_empty());
    }
}
