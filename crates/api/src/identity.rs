//! Who asks, and whether they may.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::{catalog::Target, status::Failure};

/// The authenticated user of a request; kept in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Arc<(String, Vec<String>)>);

/// Group whose members may do everything.
pub const MASTERS: &str = "system:masters";

impl Identity {
    /// A user that has proven who they are. `system:authenticated` is added to the groups.
    pub fn new(user: &str, groups: &[&str]) -> Identity {
        let mut groups: Vec<String> = groups.iter().map(|g| g.to_string()).collect();
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".into());
        }
        Identity(Arc::new((user.to_string(), groups)))
    }
    /// The server itself.
    pub fn loopback() -> Identity {
        Identity::new("system:apiserver", &[MASTERS])
    }
    /// User name.
    pub fn user(&self) -> &str {
        &self.0.0
    }
    /// Groups.
    pub fn groups(&self) -> &[String] {
        &self.0.1
    }
    /// As an `authentication.k8s.io/v1` UserInfo.
    pub fn user_info(&self) -> Value {
        json!({"username": self.user(), "groups": self.groups()})
    }
    /// May do everything.
    pub fn is_master(&self) -> bool {
        self.groups().iter().any(|g| g == MASTERS)
    }
}

/// The user in whose name the request is made (`Impersonate-User`, `Impersonate-Group`); only masters may do that.
pub fn impersonated(who: Identity, headers: &HeaderMap) -> Result<Identity, Failure> {
    let text = |v: &HeaderValue| v.to_str().map(String::from).unwrap_or_default();
    let user = headers
        .get("impersonate-user")
        .map(text)
        .unwrap_or_default();
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .map(text)
        .collect();
    if user.is_empty() {
        if groups.is_empty() {
            return Ok(who);
        }
        return Err(Failure::bad_request(
            "requested group impersonation without impersonating a user",
        ));
    }
    if !who.is_master() {
        return Err(Failure::new(
            403,
            "Forbidden",
            format!(
                "users {user:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
                who.user()
            ),
        ));
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Ok(Identity::new(&user, &groups))
}

/// Paths anybody may read.
pub fn is_public(path: &str) -> bool {
    let root = path.trim_start_matches('/').split('/').next().unwrap_or("");
    matches!(root, "healthz" | "livez" | "readyz" | "version")
}

/// 401 in upstream's words.
pub fn unauthorized() -> Failure {
    Failure::new(401, "Unauthorized", "Unauthorized")
}

/// Masters may do everything; the rest only ask about themselves (roles come with RBAC).
pub fn authorize_resource(who: &Identity, verb: &str, t: &Target) -> Result<(), Failure> {
    if who.is_master() {
        return Ok(());
    }
    let mut plural = t.resource.plural.to_string();
    if !t.subresource.is_empty() {
        plural = format!("{plural}/{}", t.subresource);
    }
    let scope = if t.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace {:?}", t.namespace)
    };
    let why = format!(
        "User {:?} cannot {verb} resource {plural:?} in API group {:?} {scope}",
        who.user(),
        t.resource.group
    );
    Err(Failure::forbidden(&t.resource, &t.name, &why))
}

/// Non-resource paths: discovery is for every authenticated user, the rest for masters.
pub fn authorize_path(who: &Identity, verb: &str, path: &str) -> Result<(), Failure> {
    let root = path.trim_start_matches('/').split('/').next().unwrap_or("");
    if who.is_master() || matches!(root, "api" | "apis" | "openapi" | "") {
        return Ok(());
    }
    Err(Failure::new(
        403,
        "Forbidden",
        format!(
            "forbidden: User {:?} cannot {verb} path {path:?}",
            who.user()
        ),
    ))
}
