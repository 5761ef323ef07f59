//! `/statusz` and `/flagz`: what runs here and how it was started, for people, and as objects for programs that ask for
//! them by `as=` (apiserver `pkg/server/{statusz,flagz}`).

use std::{
    collections::BTreeMap,
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use http::{HeaderValue, Response, header};
use serde_json::{Value, json};

use crate::{
    body::Body,
    encoding::Negotiated,
    negotiate::{self, Media},
    object, pretty,
    server::{self, Answer, Call},
    status::Failure,
};

const COMPONENT: &str = "apiserver";
const TEXT: &str = "text/plain; charset=utf-8";
/// Encodings of the objects, in the order of preference.
const OBJECTS: [Media; 2] = [Media::Json, Media::Yaml];
/// Endpoints that are of use when something is amiss.
const PATHS: [&str; 7] = [
    "/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version",
];

/// What the pages tell.
pub struct Pages {
    started: (Instant, jiff::Timestamp),
    flags: OnceLock<BTreeMap<String, String>>,
}

impl Default for Pages {
    fn default() -> Pages {
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        Pages {
            started: (Instant::now(), now),
            flags: OnceLock::new(),
        }
    }
}

/// What is asked for.
enum Wanted {
    Text,
    Object(&'static str, Media),
}

/// The first that is accepted, and that the page has: text as it is, the others as the page's object only.
fn wanted(call: &Call, kind: &str) -> Result<Wanted, Failure> {
    let headers = &call.parts.headers;
    let given = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    if given.is_none_or(|g| g.trim().is_empty()) {
        return Ok(Wanted::Text);
    }
    for range in negotiate::accepts(headers) {
        let asked = range
            .param("as")
            .map(|a| (a, range.param("g"), range.param("v")));
        let version = match asked {
            Some((k, Some("config.k8s.io"), Some("v1beta1"))) if k == kind => Some("v1beta1"),
            Some((k, Some("config.k8s.io"), Some("v1alpha1"))) if k == kind => Some("v1alpha1"),
            _ => None,
        };
        let encoding = OBJECTS.into_iter().find(|m| range.covers(m.name()));
        if let (Some(version), Some(media)) = (version, encoding) {
            return Ok(Wanted::Object(version, media));
        }
        if asked.is_none() && range.covers("text/plain") {
            return Ok(Wanted::Text);
        }
    }
    Err(Failure::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml, text/plain",
    ))
}

fn object(
    call: &Call,
    page: &str,
    (version, media): (&str, Media),
    mut o: Value,
) -> Result<Response<Body>, Failure> {
    let kind = o["kind"].as_str().unwrap_or("").to_owned();
    o["apiVersion"] = format!("config.k8s.io/{version}").into();
    o["metadata"] = json!({"name": COMPONENT});
    let text = o.to_string();
    let body: Body = match media {
        Media::Yaml => pretty::yaml(text.as_bytes())?.into(),
        _ if negotiate::pretty(&call.parts) => pretty::json(text.as_bytes()).into(),
        _ => format!("{text}\n").into(),
    };
    let mut response = Answer::fixed(media.name(), body).into_response();
    let content = format!("{};g=config.k8s.io;v={version};as={kind}", media.name());
    if let Ok(v) = HeaderValue::from_str(&content) {
        response.headers_mut().insert(header::CONTENT_TYPE, v);
    }
    if version == "v1alpha1" {
        let text = format!(
            "299 - \"This version of the {page} endpoint is deprecated. Please use a newer version.\""
        );
        if let Ok(v) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(header::WARNING, v);
        }
    }
    Ok(response)
}

/// A refusal is JSON, whatever is accepted.
fn refused(f: &Failure) -> Response<Body> {
    let mut response = server::failure_response(f);
    response.extensions_mut().remove::<Negotiated>();
    response
}

fn head(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"
    )
}

impl Pages {
    /// What the server was started with, name and value of each flag; the first given stays.
    pub fn set_flags(&self, flags: BTreeMap<String, String>) {
        let _ = self.flags.set(flags);
    }

    /// `/flagz`
    pub fn flags(&self, call: &Call) -> Response<Body> {
        self.flagz(call).unwrap_or_else(|f| refused(&f))
    }

    /// `/statusz`
    pub fn status(&self, call: &Call) -> Response<Body> {
        self.statusz(call).unwrap_or_else(|f| refused(&f))
    }

    fn flagz(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let none = BTreeMap::new();
        let flags = self.flags.get().unwrap_or(&none);
        match wanted(call, "Flagz")? {
            Wanted::Object(version, media) => {
                let mut o = json!({"kind": "Flagz"});
                if !flags.is_empty() {
                    o["flags"] = json!(flags);
                }
                object(call, "flagz", (version, media), o)
            }
            Wanted::Text => {
                let mut text = head("flagz");
                for (name, value) in flags {
                    text.push_str(&format!("{name}={value}\n"));
                }
                Ok(Answer::fixed(TEXT, text).into_response())
            }
        }
    }

    fn statusz(&self, call: &Call) -> Result<Response<Body>, Failure> {
        let (since, started) = self.started;
        let up = since.elapsed().as_secs();
        let version = crate::health::GIT_VERSION.trim_start_matches('v');
        match wanted(call, "Statusz")? {
            Wanted::Object(of, media) => {
                let o = json!({
                    "kind": "Statusz", "startTime": object::timestamp(started), "uptimeSeconds": up,
                    "goVersion": "none", "binaryVersion": version, "emulationVersion": "1.36", "paths": PATHS,
                });
                object(call, "statusz", (of, media), o)
            }
            Wanted::Text => {
                let text = format!(
                    "{}\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: none\nBinary version: {version}\nEmulation version: 1.36\nPaths: {}\n",
                    head("statusz"),
                    started.strftime("%a %b %e %H:%M:%S UTC %Y"),
                    up / 3600,
                    up / 60 % 60,
                    up % 60,
                    PATHS.join(" "),
                );
                Ok(Answer::fixed(TEXT, text).into_response())
            }
        }
    }
}
