//! Who asks: the authenticated user of a request.

use std::sync::Arc;

use knarr_access::{
    User,
    user::{AUTHENTICATED, UNAUTHENTICATED},
};
use serde_json::{Value, json};

use crate::status::Failure;

pub use knarr_access::user::MASTERS;

/// The authenticated user of a request; kept in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Arc<User>);

impl Identity {
    /// A user that has proven who they are. `system:authenticated` is added to the groups.
    pub fn new(user: &str, groups: &[&str]) -> Identity {
        Identity::of(User::new(user, groups))
    }
    /// Like [`Identity::new`], with all there is to know of the user. Somebody in `system:unauthenticated` stays there.
    pub fn of(mut user: User) -> Identity {
        if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
            user.groups.push(AUTHENTICATED.into());
        }
        Identity(Arc::new(user))
    }
    /// Without credentials.
    pub fn anonymous() -> Identity {
        Identity::of(User::anonymous())
    }
    /// All that is known.
    pub fn info(&self) -> &User {
        &self.0
    }
    /// The server itself.
    pub fn loopback() -> Identity {
        Identity::new("system:apiserver", &[MASTERS])
    }
    /// User name.
    pub fn user(&self) -> &str {
        &self.0.name
    }
    /// Groups.
    pub fn groups(&self) -> &[String] {
        &self.0.groups
    }
    /// As an `authentication.k8s.io/v1` UserInfo.
    pub fn user_info(&self) -> Value {
        let mut info = json!({ "username": self.user() });
        if !self.0.uid.is_empty() {
            info["uid"] = self.0.uid.as_str().into();
        }
        if !self.0.groups.is_empty() {
            info["groups"] = json!(self.0.groups);
        }
        if !self.0.extra.is_empty() {
            info["extra"] = json!(self.0.extra);
        }
        info
    }
    /// May do everything.
    pub fn is_master(&self) -> bool {
        self.0.is_master()
    }
}

/// Paths anybody may read, even when nothing else works.
pub fn is_public(path: &str) -> bool {
    let root = path.trim_start_matches('/').split('/').next().unwrap_or("");
    matches!(root, "healthz" | "livez" | "readyz")
}

/// 401 in upstream's words.
pub fn unauthorized() -> Failure {
    Failure::new(401, "Unauthorized", "Unauthorized")
}
