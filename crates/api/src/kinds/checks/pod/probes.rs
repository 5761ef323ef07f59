//! Probes and lifecycle hooks.

use super::Scope;
use crate::kinds::{
    checks::path::{Errors, Path},
    checks::rules,
    json::{list, str_of},
};
use serde_json::Value;

/// The probe `field`, if there is one.
pub(super) fn probe(field: &str, p: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    if p.is_null() {
        return;
    }
    handler(
        p,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        scope,
        at,
        errors,
    );
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.nonnegative(&at.child(key), &p[key]);
    }
    let grace = &p["terminationGracePeriodSeconds"];
    errors.positive(&at.child("terminationGracePeriodSeconds"), grace);
    if field == "readinessProbe" {
        if let Some(seconds) = grace.as_i64() {
            let detail = "must not be set for readinessProbes";
            errors.invalid(&at.child("terminationGracePeriodSeconds"), seconds, detail);
        }
    } else if p["successThreshold"] != 1 {
        let value = p["successThreshold"].clone();
        errors.invalid(&at.child("successThreshold"), value, "must be 1");
    }
}

/// `lifecycle`, if there is one.
pub(super) fn lifecycle(l: &Value, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        if !l[hook].is_null() {
            let kinds = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(&l[hook], &kinds, scope, &at.child(hook), errors);
        }
    }
    if let Some(signal) = l["stopSignal"].as_str() {
        stop_signal(signal, scope, &at.child("stopSignal"), errors);
    }
}

fn handler(h: &Value, kinds: &[&str], scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    for kind in kinds.iter().filter(|k| !h[**k].is_null()) {
        let (action, at) = (&h[*kind], at.child(kind));
        if found {
            errors.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" if list(action, "command").is_empty() => {
                errors.required(&at.child("command"), "");
            }
            "httpGet" => http(action, &at, errors),
            "tcpSocket" | "grpc" => {
                rules::port_or_name(&action["port"], &at.child("port"), errors);
            }
            "sleep" => {
                let seconds = action["seconds"].as_i64().unwrap_or(0);
                if let Some(grace) = scope.grace
                    && (seconds < 0 || seconds > grace)
                {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    errors.invalid(&at, seconds, detail);
                }
            }
            _ => {}
        }
    }
    if !found {
        errors.required(at, "must specify a handler type");
    }
}

fn http(action: &Value, at: &Path<'_>, errors: &mut Errors) {
    if str_of(action, "path").is_empty() {
        errors.required(&at.child("path"), "");
    }
    rules::port_or_name(&action["port"], &at.child("port"), errors);
    let schemes = ["HTTP", "HTTPS"];
    if !schemes.contains(&str_of(action, "scheme")) {
        let scheme = str_of(action, "scheme");
        errors.not_supported(&at.child("scheme"), scheme, &schemes);
    }
    for header in list(action, "httpHeaders") {
        let name = str_of(header, "name");
        errors.broken(&at.child("httpHeaders"), name, rules::header(name));
    }
}

fn stop_signal(signal: &str, scope: &Scope<'_>, at: &Path<'_>, errors: &mut Errors) {
    match scope.os {
        None => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.forbidden(at, detail);
        }
        Some("windows") => {
            let known = ["SIGKILL", "SIGTERM"];
            if !known.contains(&signal) {
                errors.not_supported(at, signal, &known);
            }
        }
        Some("linux") => {
            let known = linux_signals();
            if !known.iter().any(|k| k == signal) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                errors.not_supported(at, signal, &known);
            }
        }
        Some(_) => {}
    }
}

/// All names in alphabetical order, as upstream lists them.
fn linux_signals() -> Vec<String> {
    let mut all: Vec<String> = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP",
        "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
        "XCPU", "XFSZ",
    ]
    .iter()
    .map(|s| format!("SIG{s}"))
    .collect();
    all.extend((1..=15).map(|n| format!("SIGRTMIN+{n}")));
    all.extend((1..=14).map(|n| format!("SIGRTMAX-{n}")));
    all.sort_unstable();
    all
}
