//! CronJobs against the API server.

mod cluster;

use cluster::{Cluster, eventually, same, start};
use serde_json::{Value, json};

/// Due every second, so that a test needn't wait for a minute.
fn cron_job(name: &str, more: Value, exit: &str) -> Value {
    let mut spec = json!({"schedule":"@every 1s","jobTemplate":{
        "metadata":{"labels":{"from":name},"annotations":{"note":"kept"}},
        "spec":{"template":{"metadata":{"annotations":{"test/exit":exit}},"spec":{"restartPolicy":"Never",
            "containers":[{"name":"c","image":"i"}]}}}}});
    for (k, v) in more.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    json!({"metadata":{"name":name},"spec":spec})
}

async fn jobs(c: &Cluster) -> Vec<Value> {
    c.list("job").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_jobs_and_keeps_some_history() {
    let c = start().await;
    c.create(
        "cronjob",
        cron_job("tick", json!({"successfulJobsHistoryLimit":1}), "0"),
    )
    .await;
    let job = eventually("a job", || async {
        jobs(&c).await.into_iter().next().ok_or("none".into())
    })
    .await;
    let meta = &job["metadata"];
    assert_eq!(meta["labels"]["from"], "tick");
    assert_eq!(meta["annotations"]["note"], "kept");
    assert!(meta["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].is_string());
    assert_eq!(meta["ownerReferences"][0]["kind"], "CronJob");
    assert_eq!(meta["ownerReferences"][0]["controller"], true);
    eventually("it notes success", || async {
        let s = c.field("cronjob", "tick", "/status").await;
        same(
            (
                s["lastSuccessfulTime"].is_string(),
                s["lastScheduleTime"].is_string(),
            ),
            (true, true),
        )
    })
    .await;
    let events = eventually("events", || async {
        let e = c.events("tick").await;
        let seen = |what: &str| e.iter().any(|e| e.starts_with(what));
        match seen("SuccessfulCreate Created job tick-")
            && seen("SawCompletedJob Saw completed job: tick-")
        {
            true => Ok(e),
            false => Err(format!("{e:?}")),
        }
    })
    .await;
    assert!(
        !events.iter().any(|e| e.starts_with("Unexpected")),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_at_a_time_when_that_is_forbidden() {
    let c = start().await;
    // the job runs on
    let mut forbid = cron_job("forbid", json!({"concurrencyPolicy":"Forbid"}), "");
    forbid["spec"]["jobTemplate"]["spec"]["template"]["metadata"] = json!({});
    c.create("cronjob", forbid).await;
    let active = eventually("it runs", || async {
        let active = c.field("cronjob", "forbid", "/status/active").await;
        match active.as_array().map(Vec::len) {
            Some(1) => Ok(active),
            _ => Err(active.to_string()),
        }
    })
    .await;
    assert_eq!(active[0]["kind"], "Job");
    assert_eq!(active[0]["apiVersion"], "batch/v1");
    // names are of the minute; as if it were of an earlier one
    let mut earlier = active[0].clone();
    earlier["name"] = json!("forbid-1");
    eventually("the next is due", || async {
        let patch = json!({"status":{"active":[earlier.clone()]}});
        let patched = c
            .api("cronjob")
            .patch_status("forbid", &Default::default(), &kube::api::Patch::Merge(patch))
            .await;
        patched.map_err(|e| e.to_string())?;
        let e = c.events("forbid").await;
        let said = "JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid";
        same(e.iter().any(|e| e == said), true)
    })
    .await;
    assert_eq!(jobs(&c).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_is_said() {
    let c = start().await;
    let zone = json!({"schedule":"* * * * *","timeZone":"Nowhere/City"});
    let never = json!({"schedule":"59 23 31 2 *"});
    for (name, spec, event) in [
        (
            "zone",
            zone,
            "UnknownTimeZone invalid timeZone: \"Nowhere/City\"",
        ),
        (
            "never",
            never,
            "InvalidSchedule invalid schedule: 59 23 31 2 *",
        ),
    ] {
        let object = serde_json::from_value({
            let mut o = cron_job(name, spec, "0");
            o["apiVersion"] = json!("batch/v1");
            o["kind"] = json!("CronJob");
            o
        })
        .unwrap();
        // a server that checks more refuses it, which is as well
        if c.api("cronjob")
            .create(&Default::default(), &object)
            .await
            .is_err()
        {
            continue;
        }
        eventually(name, || async {
            let e = c.events(name).await;
            match e.iter().any(|e| e.starts_with(event)) {
                true => Ok(()),
                false => Err(format!("{e:?}")),
            }
        })
        .await;
    }
    assert_eq!(jobs(&c).await.len(), 0);
}
