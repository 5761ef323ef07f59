//! Job, CronJob.

use super::{
    PLAIN, age,
    cells::{AGE, NAME, column, containers, or_none, selector, wide},
    checks::jobs,
    json::{child, default, items, items_mut, map, number, text},
    pod_prepare, template,
    workloads::{self, CONTAINERS, IMAGES, SELECTOR},
};
use crate::registry::{FieldError, Lookup, Resource, Strategy};
use serde_json::{Value, json};

struct Job;
impl Strategy for Job {
    fn default(&self, o: &mut Value) {
        template::fill(o);
        let Some(spec) = child(o, "spec") else { return };
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            default(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        let per_index = !spec["backoffLimitPerIndex"].is_null();
        let limit = if per_index { i64::from(i32::MAX) } else { 6 };
        default(spec, "backoffLimit", limit);
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        let policy = spec["podFailurePolicy"].is_object();
        default(
            spec,
            "podReplacementPolicy",
            if policy {
                "Failed"
            } else {
                "TerminatingOrFailed"
            },
        );
        failure_policy(spec);
        let labels = o["spec"]["template"]["metadata"]["labels"].clone();
        if labels.is_object() && map(o, "/metadata/labels").is_none_or(|m| m.is_empty()) {
            o["metadata"]["labels"] = labels;
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        pod_prepare::drop_disabled(&mut o["spec"]["template"]["spec"]);
        if o["spec"]["manualSelector"] == true {
            return Ok(());
        }
        // The engine has set the uid: it names this Job's pods.
        let (uid, name) = (o["metadata"]["uid"].clone(), o["metadata"]["name"].clone());
        let shared = o["metadata"]["labels"] == o["spec"]["template"]["metadata"]["labels"];
        if let Some(selector) = child(&mut o["spec"], "selector")
            && let Some(labels) = child(selector, "matchLabels")
        {
            default(labels, "batch.kubernetes.io/controller-uid", uid.clone());
        }
        let template = &mut o["spec"]["template"];
        if let Some(meta) = child(template, "metadata")
            && let Some(labels) = child(meta, "labels")
        {
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &name),
                ("job-name", &name),
            ] {
                default(labels, key, value.clone());
            }
        }
        // labels that came from the template are the template's
        if shared {
            o["metadata"]["labels"] = o["spec"]["template"]["metadata"]["labels"].clone();
        }
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        let mut all: Vec<String> = workloads::name_warning(o).into_iter().collect();
        all.extend(workloads::template_warnings(
            &o["spec"]["template"],
            "spec.template",
        ));
        all
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        jobs::job(o, false)
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        jobs::job(o, true)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        jobs::job_update(new, old)
    }
}

/// What a failure policy's patterns leave out.
fn failure_policy(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy").filter(|p| p.is_object()) else {
        return;
    };
    for rule in items_mut(policy, "rules") {
        for pattern in items_mut(rule, "onPodConditions") {
            if text(pattern, "/status").is_empty() {
                pattern["status"] = "True".into();
            }
        }
    }
}

struct CronJob;
impl Strategy for CronJob {
    fn default(&self, o: &mut Value) {
        let Some(spec) = child(o, "spec") else { return };
        default(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = spec.get_mut("jobTemplate") {
            template::fill(job);
            if let Some(spec) = job.get_mut("spec") {
                failure_policy(spec);
            }
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        let template = &o["spec"]["jobTemplate"]["spec"]["template"];
        let mut all: Vec<String> = workloads::name_warning(o).into_iter().collect();
        all.extend(workloads::template_warnings(
            template,
            "spec.jobTemplate.spec.template",
        ));
        all
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        jobs::cron_job(o)
    }
    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = jobs::cron_job(o);
        errors.extend(jobs::cron_job_name(o));
        errors
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            group: "batch",
            kind: "Job",
            plural: "jobs",
            singular: "job",
            categories: &["all"],
            has_status: true,
            strategy: &Job,
            selectable_fields: &[("status.successful", |o| {
                number(o, "/status/succeeded").to_string()
            })],
            columns: const {
                &[
                    NAME,
                    column("Status", "string", |o| {
                        let met = |t: &str| {
                            items(o, "/status/conditions")
                                .iter()
                                .any(|c| c["type"] == t && c["status"] == "True")
                        };
                        [
                            "Complete",
                            "Failed",
                            "Suspended",
                            "FailureTarget",
                            "SuccessCriteriaMet",
                        ]
                        .into_iter()
                        .find(|t| met(t))
                        .unwrap_or("Running")
                        .into()
                    }),
                    column(
                        "Completions",
                        "string",
                        |o| match o["spec"]["completions"].as_i64() {
                            Some(n) => format!("{}/{n}", number(o, "/status/succeeded")).into(),
                            None => format!("{}/1", number(o, "/status/succeeded")).into(),
                        },
                    ),
                    column("Duration", "string", |o| {
                        let at = |p: &str| {
                            text(o, p)
                                .parse::<jiff::Timestamp>()
                                .ok()
                                .map(jiff::Timestamp::as_second)
                        };
                        match (at("/status/startTime"), at("/status/completionTime")) {
                            (Some(a), Some(b)) => age::human(b - a).into(),
                            (Some(a), None) => {
                                age::human(jiff::Timestamp::now().as_second() - a).into()
                            }
                            _ => "".into(),
                        }
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "batch",
            kind: "CronJob",
            plural: "cronjobs",
            singular: "cronjob",
            short_names: &["cj"],
            categories: &["all"],
            has_status: true,
            strategy: &CronJob,
            columns: const {
                &[
                    NAME,
                    column("Schedule", "string", |o| text(o, "/spec/schedule").into()),
                    column("Timezone", "string", |o| {
                        or_none(text(o, "/spec/timeZone").into())
                    }),
                    column("Suspend", "boolean", |o| {
                        let held = o["spec"]["suspend"] == true;
                        if held { "True" } else { "False" }.into()
                    }),
                    column("Active", "integer", |o| {
                        items(o, "/status/active").len().into()
                    }),
                    column("Last Schedule", "string", |o| {
                        match text(o, "/status/lastScheduleTime") {
                            "" => "<none>".into(),
                            _ => age::since(&o["status"]["lastScheduleTime"]).into(),
                        }
                    }),
                    AGE,
                    wide("Containers", "string", |o| {
                        containers(&o["spec"]["jobTemplate"], "name")
                    }),
                    wide("Images", "string", |o| {
                        containers(&o["spec"]["jobTemplate"], "image")
                    }),
                    wide("Selector", "string", |o| {
                        selector(&o["spec"]["jobTemplate"]["spec"]["selector"])
                    }),
                ]
            },
            ..PLAIN
        },
    ]
}
