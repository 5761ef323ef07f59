//! What a conversion may say, and its webhook.

use serde_json::Value;

use super::{errors::Errors, text};
use crate::{
    names,
    registry::{FieldError, NameRule},
};

pub(super) fn conversion(c: &Value, e: &mut Errors) {
    if c.is_null() {
        return;
    }
    let strategy = text(c, "strategy");
    match strategy {
        "" => e.required("spec.conversion.strategy", ""),
        "None" | "Webhook" => {}
        other => e.push(FieldError::NotSupported {
            field: "spec.conversion.strategy".into(),
            value: other.into(),
            supported: vec!["None".into(), "Webhook".into()],
        }),
    }
    let webhook = &c["webhook"];
    let reviews = webhook["conversionReviewVersions"].as_array();
    let client = &webhook["clientConfig"];
    let at = "spec.conversion.webhookClientConfig";
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if client.is_object() {
            e.forbidden(at, detail);
        }
        if reviews.is_some_and(|l| !l.is_empty()) {
            e.forbidden("spec.conversion.conversionReviewVersions", detail);
        }
        return;
    }
    if !client.is_object() {
        e.required(at, "required when strategy is set to Webhook");
    } else {
        match (client["url"].as_str(), client["service"].is_object()) {
            (Some(url), false) => webhook_url(url, &format!("{at}.url"), e),
            (None, true) => webhook_service(&client["service"], &format!("{at}.service"), e),
            _ => e.required(at, "exactly one of url or service is required"),
        }
    }
    let at = "spec.conversion.conversionReviewVersions";
    let reviews: Vec<&str> = reviews
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if reviews.is_empty() {
        return e.required(at, "");
    }
    for (i, v) in reviews.iter().enumerate() {
        if reviews[..i].contains(v) {
            e.invalid(format!("{at}[{i}]"), *v, "duplicate version");
        }
        for wrong in names::check(NameRule::Dns1035Label, v, false) {
            e.invalid(format!("{at}[{i}]"), *v, wrong);
        }
    }
    if !reviews.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        let detail = "must include at least one of v1, v1beta1";
        e.invalid(at, webhook["conversionReviewVersions"].clone(), detail);
    }
}

fn webhook_url(url: &str, at: &str, e: &mut Errors) {
    let form = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{form}");
        e.invalid(at, scheme, detail);
    }
    if host.is_empty() || scheme.is_empty() {
        e.invalid(at, "", format!("host must be specified{form}"));
    }
    if let Some((user, _)) = host.split_once('@') {
        e.invalid(at, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = url.split_once('#') {
        e.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    let plain = url.split('#').next().unwrap_or("");
    if let Some((_, query)) = plain.split_once('?') {
        e.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Value, at: &str, e: &mut Errors) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            e.required(format!("{at}.{key}"), "");
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        e.invalid(format!("{at}.port"), port, detail);
    }
    let path = text(service, "path");
    if !path.is_empty() && !path.starts_with('/') {
        e.invalid(format!("{at}.path"), path, "must start with a '/'");
    }
}
