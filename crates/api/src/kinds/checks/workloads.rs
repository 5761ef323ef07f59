//! The checks of what keeps Pods running (`pkg/apis/apps/validation`, ReplicationControllers from `pkg/apis/core`).

use super::{
    path::{Errors, Go, Path, SELECTOR},
    pod, rules, selectors, volumes,
};
use crate::{
    kinds::{
        json::{list, map, str_of},
        template,
    },
    registry::FieldError,
};
use serde_json::{Value, json};

/// `selector` when it is there and can be used.
fn selector(spec: &Value, of: &str, errors: &mut Errors) -> bool {
    let at = Path::Root("spec.selector");
    let s = &spec["selector"];
    if !s.is_object() {
        errors.required(&at, "");
        // no selector selects nothing
        unselected(&spec["template"]["metadata"]["labels"], errors);
        return true;
    }
    let before = errors.0.len();
    selectors::labels(s, &at, errors);
    let sound = errors.0.len() == before;
    if selectors::is_empty(s) {
        let detail = format!("empty selector is invalid for {of}");
        errors.invalid_go(&at, s, &SELECTOR, &detail);
    }
    sound
}

/// Pods of a template that isn't selected would be nobody's.
fn selected(spec: &Value, errors: &mut Errors) {
    let labels = &spec["template"]["metadata"]["labels"];
    let s = &spec["selector"];
    if s.is_object() && !selectors::is_empty(s) && !template::matches(s, labels) {
        unselected(labels, errors);
    }
}

fn unselected(labels: &Value, errors: &mut Errors) {
    errors.invalid(
        &Path::Root("spec.template.metadata.labels"),
        labels.clone(),
        "`selector` does not match template `labels`",
    );
}

/// What runs for ever restarts always and has no deadline.
fn restarts(spec: &Value, of: &str, errors: &mut Errors) {
    let at = Path::Root("spec.template.spec");
    let policy = str_of(&spec["template"]["spec"], "restartPolicy");
    if policy != "Always" {
        errors.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
    }
    if !spec["template"]["spec"]["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {of} is not Supported");
        errors.forbidden(&at.child("activeDeadlineSeconds"), detail);
    }
}

fn nonnegative(spec: &Value, fields: &[&str], errors: &mut Errors) {
    let at = Path::Root("spec");
    for field in fields {
        errors.nonnegative(&at.child(field), &spec[*field]);
    }
}

/// The template of a ReplicaSet or Deployment.
fn replicated(spec: &Value, sound: bool, errors: &mut Errors) {
    if sound {
        selected(spec, errors);
        pod::template(&spec["template"], &Path::Root("spec.template"), errors);
        restarts(spec, "ReplicaSet", errors);
    } else {
        let at = Path::Root("spec.selector");
        errors.invalid_go(&at, &spec["selector"], &SELECTOR, "invalid label selector");
    }
}

pub(crate) fn deployment(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    nonnegative(spec, &["replicas"], &mut errors);
    let sound = selector(spec, "deployment", &mut errors);
    replicated(spec, sound, &mut errors);
    let strategy = &spec["strategy"];
    let at = Path::Root("spec.strategy");
    let rolling = &strategy["rollingUpdate"];
    let place = at.child("rollingUpdate");
    match str_of(strategy, "type") {
        "Recreate" => {
            if rolling.is_object() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&place, detail);
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            share(unavailable, &place.child("maxUnavailable"), &mut errors);
            share(surge, &place.child("maxSurge"), &mut errors);
            let at = place.child("maxUnavailable");
            if rules::share_of(unavailable) == 0 && rules::share_of(surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.invalid(&at, unavailable.clone(), detail);
            }
            at_most_all(unavailable, &at, &mut errors);
        }
        _ => {
            let known = ["Recreate", "RollingUpdate"];
            errors.not_supported_go(
                &at,
                strategy,
                &Go::Internal("apps.DeploymentStrategy"),
                &known,
            );
        }
    }
    nonnegative(
        spec,
        &[
            "minReadySeconds",
            "revisionHistoryLimit",
            "progressDeadlineSeconds",
        ],
        &mut errors,
    );
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if let Some(n) = spec["progressDeadlineSeconds"]
        .as_i64()
        .filter(|n| *n <= ready)
    {
        let at = Path::Root("spec.progressDeadlineSeconds");
        errors.invalid(&at, n, "must be greater than minReadySeconds");
    }
    errors.0
}

/// A count, or a share of a whole that is no more than it.
pub(crate) fn part_of_all(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    share(value, at, errors);
    at_most_all(value, at, errors);
}

/// A count, or a share of a whole.
fn share(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    match value.as_str() {
        Some(text) => errors.broken(at, text, rules::percent(text)),
        None => errors.nonnegative(at, value),
    }
}

fn at_most_all(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    let percent = value.as_str().filter(|t| rules::percent(t).is_empty());
    if percent.is_some() && rules::share_of(value) > 100 {
        errors.invalid(at, value.clone(), "must not be greater than 100%");
    }
}

pub(crate) fn replica_set(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    nonnegative(spec, &["replicas", "minReadySeconds"], &mut errors);
    let sound = selector(spec, "deployment", &mut errors);
    replicated(spec, sound, &mut errors);
    errors.0
}

pub(crate) fn replication_controller(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    nonnegative(spec, &["minReadySeconds"], &mut errors);
    let empty = map(spec, "/selector").is_none_or(|m| m.is_empty());
    if empty {
        errors.required(&Path::Root("spec.selector"), "");
    }
    nonnegative(spec, &["replicas"], &mut errors);
    let at = Path::Root("spec.template");
    if !spec["template"].is_object() {
        errors.required(&at, "");
        return errors.0;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let selects = map(spec, "/selector")
        .into_iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    if !selects {
        unselected(labels, &mut errors);
    }
    pod::template(&spec["template"], &at, &mut errors);
    restarts(spec, "ReplicationController", &mut errors);
    errors.0
}

pub(crate) fn daemon_set(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    let s = &spec["selector"];
    let before = errors.0.len();
    selectors::labels(s, &at.child("selector"), &mut errors);
    let labels = &spec["template"]["metadata"]["labels"];
    // no selector selects nothing
    if errors.0.len() == before && (s.is_null() || !template::matches(s, labels)) {
        unselected(labels, &mut errors);
    }
    if s.is_object() && selectors::is_empty(s) {
        let detail = "empty selector is invalid for daemonset";
        errors.invalid_go(&at.child("selector"), s, &SELECTOR, detail);
    }
    pod::template(&spec["template"], &Path::Root("spec.template"), &mut errors);
    restarts(spec, "DaemonSet", &mut errors);
    nonnegative(spec, &["minReadySeconds"], &mut errors);
    let update = &spec["updateStrategy"];
    let place = at.child("updateStrategy");
    match str_of(update, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = &update["rollingUpdate"];
            let place = place.child("rollingUpdate");
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let (a, b) = (place.child("maxUnavailable"), place.child("maxSurge"));
            share(unavailable, &a, &mut errors);
            share(surge, &b, &mut errors);
            at_most_all(unavailable, &a, &mut errors);
            at_most_all(surge, &b, &mut errors);
            match (
                rules::share_of(unavailable) != 0,
                rules::share_of(surge) != 0,
            ) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(&b, surge.clone(), detail);
                }
                (false, false) => errors.required(&a, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => {
            let known = ["RollingUpdate", "OnDelete"];
            errors.not_supported_go(
                &place,
                update,
                &Go::Internal("apps.DaemonSetUpdateStrategy"),
                &known,
            );
        }
    }
    nonnegative(spec, &["revisionHistoryLimit"], &mut errors);
    errors.0
}

pub(crate) fn stateful_set(o: &Value, created: bool) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    match str_of(spec, "podManagementPolicy") {
        "" => errors.required(&at.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&at.child("podManagementPolicy"), other, detail);
        }
    }
    update_strategy(
        &spec["updateStrategy"],
        &at.child("updateStrategy"),
        &mut errors,
    );
    let policy = &spec["persistentVolumeClaimRetentionPolicy"];
    if policy.is_object() {
        let at = at.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let value = str_of(policy, field);
            if !["Retain", "Delete"].contains(&value) {
                errors.not_supported(&at.child(field), value, &["Retain", "Delete"]);
            }
        }
    }
    if created {
        let place = at.child("volumeClaimTemplates");
        for (i, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
            let at = place.index(i);
            volumes::claims::spec(&claim["spec"], &at.child("spec"), &mut errors);
        }
    }
    nonnegative(spec, &["replicas", "minReadySeconds"], &mut errors);
    errors.nonnegative(&at.child("ordinals.start"), &spec["ordinals"]["start"]);
    let service = str_of(spec, "serviceName");
    if created && !service.is_empty() {
        errors.broken(&at.child("serviceName"), service, rules::dns_label(service));
    }
    if selector(spec, "statefulset", &mut errors) {
        selected(spec, &mut errors);
        let t = claimed(spec);
        let at = Path::Root("spec.template");
        pod::template(&t, &at, &mut errors);
        // upstream looks at these once more
        let meta = &t["metadata"];
        rules::labels(&meta["labels"], &at.child("labels"), &mut errors);
        rules::annotations(&meta["annotations"], &at.child("annotations"), &mut errors);
    } else {
        let at = at.child("selector");
        errors.invalid_go(&at, &spec["selector"], &SELECTOR, "");
    }
    restarts(spec, "StatefulSet", &mut errors);
    errors.0
}

fn update_strategy(update: &Value, at: &Path<'_>, errors: &mut Errors) {
    let rolling = &update["rollingUpdate"];
    let place = at.child("rollingUpdate");
    match str_of(update, "type") {
        "" => errors.required(at, ""),
        "OnDelete" => {
            if rolling.is_object() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                let go = Go::Internal("apps.RollingUpdateStatefulSetStrategy");
                errors.invalid_go(&place, rolling, &go, detail);
            }
        }
        "RollingUpdate" => {
            errors.nonnegative(&place.child("partition"), &rolling["partition"]);
            let most = &rolling["maxUnavailable"];
            let at = place.child("maxUnavailable");
            if !most.is_null() {
                share(most, &at, errors);
                if rules::share_of(most) == 0 {
                    errors.invalid(&at, most.clone(), "cannot be 0");
                }
                at_most_all(most, &at, errors);
            }
        }
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            let go = Go::Internal("apps.StatefulSetUpdateStrategy");
            errors.invalid_go(at, update, &go, detail);
        }
    }
}

/// The template with what the controller will put into it: the claims' volumes, and no names of its own.
fn claimed(spec: &Value) -> Value {
    let mut t = spec["template"].clone();
    let claims = list(spec, "volumeClaimTemplates");
    let names = || claims.iter().map(|c| &c["metadata"]["name"]);
    if let Some(s) = t.get_mut("spec").and_then(Value::as_object_mut) {
        s.remove("hostname");
        s.remove("subdomain");
        if !claims.is_empty() {
            // claims of one name are one volume
            let once = |(i, n): &(usize, &Value)| !names().take(*i).any(|before| before == *n);
            let mut volumes: Vec<Value> = names()
                .enumerate()
                .filter(once)
                .map(|(_, n)| json!({"name": n, "persistentVolumeClaim": {"claimName": n}}))
                .collect();
            let own = s.get("volumes").and_then(Value::as_array);
            let kept = own.into_iter().flatten();
            volumes.extend(kept.filter(|v| !names().any(|n| *n == v["name"])).cloned());
            s.insert("volumes".into(), volumes.into());
        }
    }
    t
}

pub(crate) fn stateful_set_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let fixed = |o: &Value| {
        let mut spec = o["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            for key in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ] {
                map.remove(key);
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(&Path::Root("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
    errors.0
}

/// Counts of a status: none negative, none above `replicas`, no more available than ready.
pub(crate) fn counts(
    new: &Value,
    old: &Value,
    fields: &[&str],
    parts: &[&str],
    ready: &str,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (status, at) = (&new["status"], Path::Root("status"));
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    for field in fields {
        errors.nonnegative(&at.child(field), &status[*field]);
    }
    for field in parts.iter().filter(|f| count(f) > count("replicas")) {
        let detail = "cannot be greater than status.replicas";
        errors.invalid(&at.child(field), count(field), detail);
    }
    let available = count("availableReplicas");
    if parts.contains(&"availableReplicas") && available > count("readyReplicas") {
        let detail = format!("cannot be greater than {ready}");
        errors.invalid(&at.child("availableReplicas"), available, detail);
    }
    let before = old["status"]["collisionCount"].as_i64();
    if fields.contains(&"collisionCount") && before.is_some_and(|n| n > count("collisionCount")) {
        let at = at.child("collisionCount");
        errors.invalid(&at, count("collisionCount"), "cannot be decremented");
    }
    errors.0
}

pub(crate) fn revision(o: &Value, created: bool) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.nonnegative(&Path::Root("revision"), &o["revision"]);
    if created {
        let at = Path::Root("data");
        match &o["data"] {
            Value::Null => errors.required(&at, "data is mandatory"),
            Value::Object(_) => {}
            _ => errors.required(&at, "data must be a valid JSON object"),
        }
    }
    errors.0
}

pub(crate) fn revision_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.immutable(&Path::Root("data"), &new["data"], &old["data"]);
    errors.0
}

/// `spec.selector` stays.
pub(crate) fn immutable_selector(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec.selector");
    let (is, was) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    errors.immutable_go(&at, is, was, &SELECTOR);
    errors.0
}
