//! Failures as `metav1.Status`, in upstream's words (apimachinery `pkg/api/errors`).

use serde_json::{Map, Value, json};

use crate::registry::Resource;

/// A request that failed: everything of the `metav1.Status` sent back.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure(Box<Inner>);

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    code: u16,
    reason: String,
    message: String,
    details: Map<String, Value>,
    continue_token: Option<String>,
    /// `details` is there even when it is empty
    detailed: bool,
    retry_after_seconds: Option<u32>,
    warnings: Vec<String>,
}

impl Failure {
    /// A failure with this HTTP code, reason and message and no details.
    pub fn new(code: u16, reason: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure(Box::new(Inner {
            code,
            reason: reason.into(),
            message: message.into(),
            details: Map::new(),
            continue_token: None,
            detailed: false,
            retry_after_seconds: None,
            warnings: vec![],
        }))
    }

    /// Names the object in `details` (`kind` is the plural, as upstream does for all but 422).
    fn about(mut self, name: &str, group: &str, kind: &str) -> Failure {
        let details = &mut self.0.details;
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        if !kind.is_empty() {
            details.insert("kind".into(), kind.into());
        }
        self
    }

    /// With what there is to warn of besides.
    pub fn warned(mut self, warnings: Vec<String>) -> Failure {
        self.0.warnings.extend(warnings);
        self
    }
    /// For the Warning header.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }
    /// With another code and reason.
    pub fn recoded(mut self, code: u16, reason: &str) -> Failure {
        self.0.code = code;
        self.0.reason = reason.to_string();
        self
    }
    /// With another message.
    pub fn told(mut self, message: &str) -> Failure {
        self.0.message = message.to_string();
        self
    }
    /// With these details instead of its own.
    pub fn detailed(mut self, details: Map<String, Value>) -> Failure {
        self.0.details = details;
        self
    }

    /// Adds one `details.causes` entry.
    pub fn cause(mut self, reason: &str, message: &str, field: &str) -> Failure {
        let mut cause = Map::new();
        if !reason.is_empty() {
            cause.insert("reason".into(), reason.into());
        }
        if !message.is_empty() {
            cause.insert("message".into(), message.into());
        }
        if !field.is_empty() {
            cause.insert("field".into(), field.into());
        }
        let causes = self.0.details.entry("causes").or_insert_with(|| json!([]));
        if let Some(list) = causes.as_array_mut() {
            list.push(Value::Object(cause));
        }
        self
    }

    /// With `details`, whatever is in it: upstream's errors from below the API machinery have them empty.
    pub fn with_details(mut self) -> Failure {
        self.0.detailed = true;
        self
    }

    /// `metadata.continue` of the Status (expired list continuations).
    pub fn with_continue(mut self, token: String) -> Failure {
        self.0.continue_token = Some(token);
        self
    }

    /// Asks the client to come back after so many seconds.
    pub fn retry_after(mut self, seconds: u32) -> Failure {
        self.0.retry_after_seconds = Some(seconds);
        self.0
            .details
            .insert("retryAfterSeconds".into(), seconds.into());
        self
    }

    /// 404 for an object.
    pub fn not_found(r: &Resource, name: &str) -> Failure {
        Failure::not_found_named(r.group, r.plural, name)
    }
    /// 404 for an object of a resource by its names.
    pub fn not_found_named(group: &str, plural: &str, name: &str) -> Failure {
        let message = format!("{} \"{name}\" not found", group_resource(group, plural));
        Failure::new(404, "NotFound", message).about(name, group, plural)
    }
    /// 404 for a path nothing is served at.
    pub fn no_such_path() -> Failure {
        Failure::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }
    /// 409 at create.
    pub fn already_exists(r: &Resource, name: &str) -> Failure {
        let message = format!(
            "{} \"{name}\" already exists",
            group_resource(r.group, r.plural)
        );
        Failure::new(409, "AlreadyExists", message).about(name, r.group, r.plural)
    }
    /// 409 at write: `Operation cannot be fulfilled on … : why`.
    pub fn conflict(r: &Resource, name: &str, why: &str) -> Failure {
        Failure::conflict_named(r.group, r.plural, name, why)
    }
    /// 409 about an object of a resource by its names.
    pub fn conflict_named(group: &str, plural: &str, name: &str, why: &str) -> Failure {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            group_resource(group, plural)
        );
        Failure::new(409, "Conflict", message).about(name, group, plural)
    }
    /// The 409 of optimistic concurrency.
    pub fn modified(r: &Resource, name: &str) -> Failure {
        Failure::conflict(
            r,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(400, "BadRequest", message)
    }
    /// 403 for an object.
    pub fn forbidden(r: &Resource, name: &str, why: &str) -> Failure {
        Failure::forbidden_named(r.group, r.plural, name, why)
    }
    /// 403 for an object of a resource by its names; without a resource, for a path.
    pub fn forbidden_named(group: &str, plural: &str, name: &str, why: &str) -> Failure {
        let gr = group_resource(group, plural);
        let message = match (plural, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{gr} is forbidden: {why}"),
            _ => format!("{gr} \"{name}\" is forbidden: {why}"),
        };
        Failure::new(403, "Forbidden", message).about(name, group, plural)
    }
    /// 405.
    pub fn method_not_allowed() -> Failure {
        Failure::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details()
    }
    /// 405 for a verb that the resource doesn't have while its path does.
    pub fn not_supported(r: &Resource, verb: &str) -> Failure {
        let of = group_resource(r.group, r.plural);
        let message = format!("{verb} is not supported on resources of kind {of:?}");
        Failure::new(405, "MethodNotAllowed", message).about("", r.group, r.plural)
    }
    /// 410 for lists and watches of a past the server no longer has.
    pub fn expired(message: impl Into<String>) -> Failure {
        Failure::new(410, "Expired", message)
    }
    /// 500.
    pub fn internal(why: impl std::fmt::Display) -> Failure {
        Failure::new(
            500,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
        .cause("", &why.to_string(), "")
    }
    /// 422 with one cause per failed field; `group`/`kind` may be empty, as for patches.
    pub fn invalid(
        group: &str,
        kind: &str,
        name: &str,
        errors: &[crate::registry::FieldError],
    ) -> Failure {
        let mut messages: Vec<String> = Vec::new();
        for error in errors {
            let m = error.to_string();
            if !messages.contains(&m) {
                messages.push(m);
            }
        }
        let text = match messages.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!(
            "{} \"{name}\" is invalid: {text}",
            group_resource(group, kind)
        );
        let mut failure = Failure::new(422, "Invalid", message).about(name, group, kind);
        for error in errors {
            failure = failure.cause(error.cause_reason(), &error.body(), error.field());
        }
        failure
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code
    }
    /// Machine-readable reason, e.g. `NotFound`.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
    /// Human-readable message.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// Value of the `Retry-After` header, in seconds.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.0.retry_after_seconds
    }

    /// The `metav1.Status` object.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.0.continue_token {
            metadata.insert("continue".into(), token.clone().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.0.message, "reason": self.0.reason, "code": self.0.code,
        });
        if self.0.reason.is_empty()
            && let Some(map) = status.as_object_mut()
        {
            map.remove("reason");
        }
        let always = matches!(self.0.reason.as_str(), "NotFound" | "Forbidden");
        if (!self.0.details.is_empty() || self.0.detailed || always)
            && let Some(map) = status.as_object_mut()
        {
            map.insert("details".into(), Value::Object(self.0.details.clone()));
        }
        status
    }
}

/// `deployments.apps`, or `pods` for the core group (schema.GroupResource.String).
pub fn group_resource(group: &str, plural: &str) -> String {
    if group.is_empty() {
        plural.to_string()
    } else {
        format!("{plural}.{group}")
    }
}
