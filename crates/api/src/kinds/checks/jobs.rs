//! The checks of Jobs and CronJobs (`pkg/apis/batch/validation`).

mod policies;

use policies::{failure_policy, success_policy};

use super::{
    cron,
    path::{Errors, Go, Path, SELECTOR},
    pod, rules, selectors,
};
use crate::{
    kinds::{
        json::{list, str_of, yes},
        template,
    },
    registry::FieldError,
};
use serde_json::Value;

const INDEXED_MAX: i64 = 100_000;
const HIGH_COMPLETIONS: i64 = 100_000;
const HIGH_COMPLETIONS_PARALLEL_MAX: i64 = 10_000;
const MANAGED_BY_BYTES_MAX: usize = 63;

/// SuccessPolicy
const SUCCESS: Go = Go::Struct(&[("rules", "Rules", Go::Plain)]);

pub(crate) fn job(o: &Value, created: bool) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    generated_selector(o, &mut errors);
    job_spec(spec, &at, &mut errors);
    let place = at.child("selector");
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    let before = errors.0.len();
    if selector.is_object() {
        selectors::labels(selector, &place, &mut errors);
    } else {
        errors.required(&place, "");
    }
    let none = selector.is_null();
    if none || (errors.0.len() == before && !template::matches(selector, labels)) {
        let at = Path::Root("spec.template.metadata.labels");
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&at, labels.clone(), detail);
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    if created && spec["completionMode"] == "Indexed" && completions > 0 {
        let name = str_of(&o["metadata"], "name");
        let last = format!("{name}-{}", completions - 1);
        if !rules::dns_label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            errors.invalid(&Path::Root("metadata.name"), name, detail);
        }
    }
    errors.0
}

/// What the server made of the Job's uid must have stayed.
fn generated_selector(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    if yes(spec, "manualSelector") || !spec["selector"].is_object() {
        return;
    }
    let (uid, name) = (
        str_of(&o["metadata"], "uid"),
        str_of(&o["metadata"], "name"),
    );
    let at = Path::Root("spec.template.metadata");
    let at = at.child("labels");
    let labels = &spec["template"]["metadata"]["labels"];
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    for (key, want) in expected {
        match labels[key].as_str() {
            None => errors.required(&at.key(key), &format!("must be '{want}'")),
            Some(v) if v != want => {
                errors.invalid(&at.key(key), labels.clone(), format!("must be '{want}'"));
            }
            Some(_) => {}
        }
    }
    let made: serde_json::Map<String, Value> = expected
        .iter()
        .map(|(k, v)| ((*k).to_string(), (*v).into()))
        .collect();
    if !template::matches(&spec["selector"], &Value::Object(made)) {
        let at = Path::Root("spec.selector");
        let detail = "`selector` not auto-generated";
        errors.invalid_go(&at, &spec["selector"], &SELECTOR, detail);
    }
}

fn job_spec(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.nonnegative(&at.child(field), &spec[field]);
    }
    let per_index = &spec["backoffLimitPerIndex"];
    let failed = spec["maxFailedIndexes"].as_i64();
    let (failed_at, per_index_at) = (
        at.child("maxFailedIndexes"),
        at.child("backoffLimitPerIndex"),
    );
    if failed.is_some() && per_index.is_null() {
        errors.required(&per_index_at, "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        let at = at.child("managedBy");
        rules::domain_prefixed_path(manager, &at, errors);
        if manager.len() > MANAGED_BY_BYTES_MAX {
            errors.too_long(&at, MANAGED_BY_BYTES_MAX);
        }
    }
    let modes = ["NonIndexed", "Indexed"];
    errors.supported(&at.child("completionMode"), &spec["completionMode"], &modes);
    let indexed = spec["completionMode"] == "Indexed";
    if indexed {
        self::indexed(spec, at, errors);
    }
    if spec["completionMode"].is_null() || spec["completionMode"] == "NonIndexed" {
        const DETAIL: &str = "requires indexed completion mode";
        if !per_index.is_null() {
            errors.invalid(&per_index_at, per_index.clone(), DETAIL);
        }
        if let Some(n) = failed {
            errors.invalid(&failed_at, n, DETAIL);
        }
    }
    if spec["podFailurePolicy"].is_object() {
        failure_policy(spec, &at.child("podFailurePolicy"), errors);
    }
    let success = &spec["successPolicy"];
    if success.is_object() {
        let at = at.child("successPolicy");
        if indexed {
            success_policy(spec, &at, errors);
        } else {
            let detail = "requires indexed completion mode";
            errors.invalid_go(&at, success, &SUCCESS, detail);
        }
    }
    let replacements: &[&str] = if spec["podFailurePolicy"].is_object() {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    errors.supported(
        &at.child("podReplacementPolicy"),
        &spec["podReplacementPolicy"],
        replacements,
    );
    pod::template(&spec["template"], &at.child("template"), errors);
    let place = at.child("template");
    let place = place.child("spec.restartPolicy");
    match str_of(&spec["template"]["spec"], "restartPolicy") {
        "Always" | "" => {
            errors.required(&place, "valid values: \"OnFailure\", \"Never\"");
        }
        "Never" => {}
        "OnFailure" => {
            if spec["podFailurePolicy"].is_object() {
                let detail = "only \"Never\" is supported when podFailurePolicy is specified";
                errors.invalid(&place, "OnFailure", detail);
            }
        }
        other => errors.not_supported(&place, other, &["OnFailure", "Never"]),
    }
}

fn indexed(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (completions, parallelism) = (spec["completions"].as_i64(), spec["parallelism"].as_i64());
    let failed = spec["maxFailedIndexes"].as_i64();
    let (failed_at, parallel_at) = (at.child("maxFailedIndexes"), at.child("parallelism"));
    if completions.is_none() {
        errors.required(&at.child("completions"), "when completion mode is Indexed");
    }
    if let Some(n) = parallelism.filter(|n| *n > INDEXED_MAX) {
        let detail =
            format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
        errors.invalid(&parallel_at, n, detail);
    }
    if let Some(n) = failed {
        if completions.is_some_and(|c| n > c) {
            let detail = "must be less than or equal to completions";
            errors.invalid(&failed_at, n, detail);
        }
        if n > INDEXED_MAX {
            let detail = format!("must be less than or equal to {INDEXED_MAX}");
            errors.invalid(&failed_at, n, detail);
        }
    }
    let high = completions.is_some_and(|c| c > HIGH_COMPLETIONS);
    if !high || spec["backoffLimitPerIndex"].is_null() {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {HIGH_COMPLETIONS}");
        errors.required(&failed_at, &detail);
    }
    for (value, at) in [(parallelism, &parallel_at), (failed, &failed_at)] {
        if let Some(n) = value.filter(|n| *n > HIGH_COMPLETIONS_PARALLEL_MAX) {
            let detail = format!(
                "must be less than or equal to {HIGH_COMPLETIONS_PARALLEL_MAX} when completions are above {HIGH_COMPLETIONS} and used with backoff limit per index"
            );
            errors.invalid(at, n, detail);
        }
    }
}

pub(crate) fn job_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::Root("spec");
    let place = at.child("completions");
    if is["completionMode"] != "Indexed" {
        errors.immutable(&place, &is["completions"], &was["completions"]);
    } else if is["completions"] != was["completions"]
        && !is["completions"].is_null()
        && is["completions"] != is["parallelism"]
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&place, is["completions"].clone(), detail);
    }
    let place = at.child("selector");
    errors.immutable_go(&place, &is["selector"], &was["selector"], &SELECTOR);
    template_update(new, old, &at.child("template"), &mut errors);
    for (field, go) in [
        ("completionMode", Go::Plain),
        ("podFailurePolicy", Go::Internal("batch.PodFailurePolicy")),
        ("backoffLimitPerIndex", Go::Plain),
        ("managedBy", Go::Plain),
        ("successPolicy", Go::Internal("batch.SuccessPolicy")),
    ] {
        errors.immutable_go(&at.child(field), &is[field], &was[field], &go);
    }
    errors.0
}

/// A suspended Job without Pods may still be placed elsewhere and sized anew.
fn template_update(new: &Value, old: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (is, mut was) = (&new["spec"]["template"], old["spec"]["template"].clone());
    let met = |kind: &str| {
        list(&old["status"], "conditions")
            .iter()
            .any(|c| c["type"] == kind && c["status"] == "True")
    };
    let suspended = yes(&old["spec"], "suspend");
    let active = old["status"]["active"].as_i64().unwrap_or(0);
    let mutable = suspended && met("Suspended") && active == 0;
    if mutable {
        let mut affinity = was["spec"]["affinity"].clone();
        let now = &is["spec"]["affinity"];
        if let Some(a) = affinity.as_object_mut() {
            a.remove("nodeAffinity");
        }
        if now.is_object() || affinity.as_object().is_some_and(|a| !a.is_empty()) {
            if affinity.is_null() {
                affinity = serde_json::json!({});
            }
            if !now["nodeAffinity"].is_null() {
                affinity["nodeAffinity"] = now["nodeAffinity"].clone();
            }
        } else {
            affinity = Value::Null;
        }
        put(&mut was["spec"], "affinity", &affinity);
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            put(&mut was["spec"], field, &is["spec"][field]);
        }
        for field in ["annotations", "labels"] {
            put(&mut was["metadata"], field, &is["metadata"][field]);
        }
        for field in ["containers", "initContainers"] {
            let now = list(&is["spec"], field);
            if let Some(then) = was["spec"].get_mut(field).and_then(Value::as_array_mut)
                && then.len() == now.len()
            {
                for (c, n) in then.iter_mut().zip(now) {
                    if c["name"] == n["name"] {
                        put(c, "resources", &n["resources"]);
                    }
                }
            }
        }
        let go = Go::Internal("core.PodSpec");
        errors.immutable_go(&at.child("spec"), &is["spec"], &was["spec"], &go);
        return;
    }
    errors.immutable_go(at, is, &was, &Go::Internal("core.PodTemplateSpec"));
}

/// Sets a field, or takes it away.
fn put(o: &mut Value, field: &str, value: &Value) {
    if let Some(map) = o.as_object_mut() {
        if value.is_null() {
            map.remove(field);
        } else {
            map.insert(field.to_string(), value.clone());
        }
    }
}

pub(crate) fn cron_job(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    let schedule = str_of(spec, "schedule");
    let place = at.child("schedule");
    if schedule.is_empty() {
        errors.required(&place, "");
    } else {
        if let Err(e) = cron::check(schedule) {
            errors.invalid(&place, schedule, e);
        }
        if schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&place, schedule, detail);
        }
    }
    errors.nonnegative(
        &at.child("startingDeadlineSeconds"),
        &spec["startingDeadlineSeconds"],
    );
    if let Some(zone) = spec["timeZone"].as_str() {
        time_zone(zone, &at.child("timeZone"), &mut errors);
    }
    errors.one_of(
        &at.child("concurrencyPolicy"),
        &spec["concurrencyPolicy"],
        &["Allow", "Forbid", "Replace"],
    );
    let job = &spec["jobTemplate"]["spec"];
    let place = at.child("jobTemplate");
    let place = place.child("spec");
    job_spec(job, &place, &mut errors);
    if job["selector"].is_object() {
        let detail = "`selector` will be auto-generated";
        errors.invalid(&place.child("selector"), job["selector"].clone(), detail);
    }
    if yes(job, "manualSelector") {
        errors.not_supported(&place.child("manualSelector"), true, &["nil", "false"]);
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.nonnegative(&at.child(field), &spec[field]);
    }
    errors.0
}

/// A CronJob's Jobs get eleven characters more than its name.
pub(crate) fn cron_job_name(o: &Value) -> Option<FieldError> {
    const CHARACTERS_MAX: usize = 52;
    let name = str_of(&o["metadata"], "name");
    (name.len() > CHARACTERS_MAX).then(|| FieldError::Invalid {
        field: "metadata.name".into(),
        value: name.into(),
        detail: format!("must be no more than {CHARACTERS_MAX} characters"),
    })
}

fn time_zone(zone: &str, at: &Path<'_>, errors: &mut Errors) {
    if zone.is_empty() {
        errors.invalid(at, zone, "timeZone must be nil or non-empty string");
        return;
    }
    let unknown = format!("unknown time zone {zone}");
    let word = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    let sound = |p: &str| {
        !matches!(p, "." | ".." | "") && !p.starts_with('-') && p.len() <= 14 && p.bytes().all(word)
    };
    if !zone.split('/').all(sound) {
        errors.invalid(at, zone, unknown);
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        errors.invalid(
            at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    if zone != "Local" && jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(at, zone, unknown);
    }
}
