//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook (`apiserver/pkg/admission/plugin/webhook`).

mod call;

use std::{collections::HashSet, time::Duration};

use futures::{StreamExt, future::BoxFuture};
use serde_json::{Value, json};

use super::{
    Attributes,
    conditions::Conditions,
    configured::Configured,
    json::{items, text},
    matching::{Hit, Matcher, is_configuration},
    review,
    versioned::{Forms, Versioned},
};
use crate::{
    expressions::{Asker, Input},
    server::Inner,
    status::Failure,
    webhook::Target,
};
use call::Said;
pub use call::conformed;

const MUTATING: &[&str] =
    &["/registry/admissionregistration.k8s.io/mutatingwebhookconfigurations/"];
const VALIDATING: &[&str] =
    &["/registry/admissionregistration.k8s.io/validatingwebhookconfigurations/"];
/// Webhooks asked at once by one request.
const CONCURRENCY: usize = 16;

/// One webhook, read.
struct Hook {
    configuration: String,
    name: String,
    matcher: Matcher,
    conditions: Conditions,
    target: Result<Target, String>,
    fail_open: bool,
    reinvoke: bool,
    timeout: Duration,
    /// None: not even a dry run may be asked about it.
    side_effects: Option<String>,
    /// The first one that is known here.
    version: Option<&'static str>,
}

/// All webhooks of one kind, in the order they are asked.
#[derive(Default)]
struct Hooks(Vec<Hook>);

/// The webhooks configured.
pub struct State {
    mutating: Configured<Hooks>,
    validating: Configured<Hooks>,
}
impl Default for State {
    fn default() -> State {
        State {
            mutating: Configured::new(MUTATING),
            validating: Configured::new(VALIDATING),
        }
    }
}

fn read(configurations: &[Vec<Value>]) -> Hooks {
    let mut hooks = Vec::new();
    for configuration in configurations.iter().flatten() {
        for hook in items(configuration, "/webhooks") {
            let versions = items(hook, "/admissionReviewVersions");
            hooks.push(Hook {
                configuration: text(configuration, "/metadata/name").to_string(),
                name: text(hook, "/name").to_string(),
                matcher: Matcher::of_webhook(hook),
                conditions: Conditions::read(hook, false),
                target: Target::read(&hook["clientConfig"]).map_err(|e| e.to_string()),
                fail_open: hook["failurePolicy"] == "Ignore",
                reinvoke: hook["reinvocationPolicy"] == "IfNeeded",
                timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
                side_effects: hook["sideEffects"].as_str().map(String::from),
                version: versions.iter().find_map(|v| match v.as_str() {
                    Some("v1") => Some("v1"),
                    Some("v1beta1") => Some("v1beta1"),
                    _ => None,
                }),
            });
        }
    }
    Hooks(hooks)
}

/// What is remembered between the first round of the mutating webhooks and the second.
#[derive(Default)]
pub struct Rounds {
    /// This is the second.
    second: bool,
    /// As the webhooks left it.
    left: Option<Value>,
    /// Asked already, and willing to be asked again.
    willing: HashSet<usize>,
    /// To be asked again.
    again: HashSet<usize>,
    /// A second round is wanted.
    pub wanted: bool,
}
impl Rounds {
    /// The second round begins.
    pub fn turn(&mut self) {
        self.second = true;
    }
    fn changed(&mut self) {
        self.again.extend(self.willing.drain());
    }
}

/// Is the request this webhook's business?
async fn hit(
    inner: &Inner,
    hook: &Hook,
    a: &Attributes<'_>,
    forms: &mut Forms,
    mutating: bool,
) -> Result<Option<Hit>, Failure> {
    let Some(hit) = hook.matcher.hit(inner, a)? else {
        return Ok(None);
    };
    if hook.conditions.is_empty() {
        return Ok(Some(hit));
    }
    let seen = hit.versioned(inner, a, forms).await.map_err(|why| {
        let failure = Failure::internal(why);
        // upstream wraps it twice
        if mutating {
            Failure::internal(failure.message())
        } else {
            failure
        }
    })?;
    let holds = holds(inner, hook, a, &seen)?;
    drop(seen);
    Ok(holds.then_some(hit))
}

/// Do its match conditions hold?
fn holds(
    inner: &Inner,
    hook: &Hook,
    a: &Attributes<'_>,
    v: &Versioned<'_>,
) -> Result<bool, Failure> {
    let request = review::request(a, v);
    let asker = Asker::new(inner, a.who.info());
    let null = Value::Null;
    let input = Input {
        object: v.object.as_deref().unwrap_or(&null),
        old: v.old.as_deref().unwrap_or(&null),
        request: &request,
        namespace: &null,
        params: &null,
        asker: &asker,
    };
    match hook.conditions.hold(&input) {
        Ok(holds) => Ok(holds),
        Err(_) if hook.fail_open => Ok(false),
        Err(why) => Err(Failure::forbidden(a.resource, &a.name, &why)),
    }
}

/// The mutating webhooks, one after the other.
pub async fn mutate(
    inner: &Inner,
    a: &mut Attributes<'_>,
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    if is_configuration(a) {
        return Ok(());
    }
    let hooks = inner.hooks.mutating.get(inner, read);
    if hooks.0.is_empty() {
        return Ok(());
    }
    if rounds.second && rounds.left != a.object {
        rounds.changed();
    }
    let mut forms = Forms::default();
    for (i, hook) in hooks.0.iter().enumerate() {
        // a webhook that was not asked in the first round isn't in the second
        if rounds.second && !rounds.again.contains(&i) {
            continue;
        }
        let Some(hit) = hit(inner, hook, a, &mut forms, true).await? else {
            continue;
        };
        let round = u8::from(rounds.second);
        let said = call::mutating(inner, hook, &hit, a, &mut forms).await;
        let index = format!("round_{round}_index_{i}");
        let mut changed = false;
        let outcome = match said {
            Ok(Said::Changed(object, patch)) => {
                let note = json!({"configuration": hook.configuration, "webhook": hook.name,
                    "patch": patch, "patchType": "JSONPatch"});
                a.annotate(
                    &format!("patch.webhook.admission.k8s.io/{index}"),
                    &note.to_string(),
                );
                if a.object.as_ref() != Some(&object) {
                    a.object = Some(object);
                    a.changed = true;
                    changed = true;
                }
                Ok(())
            }
            Ok(Said::Fine) => Ok(()),
            Err(e) => Err(e),
        };
        let note =
            json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
        a.annotate(
            &format!("mutation.webhook.admission.k8s.io/{index}"),
            &note.to_string(),
        );
        if changed {
            rounds.changed();
            rounds.wanted = true;
        }
        if hook.reinvoke {
            rounds.willing.insert(i);
        }
        match outcome {
            Ok(()) => {}
            Err(call::Error::Call(why)) if hook.fail_open => {
                tracing::warn!(
                    webhook = hook.name,
                    "failed calling webhook, failing open: {why}"
                );
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{index}");
                a.annotate(&key, &hook.name);
            }
            Err(e) => return Err(e.failure(hook)),
        }
    }
    rounds.left = a.object.clone();
    Ok(())
}

/// The validating webhooks, all at once.
pub async fn validate(inner: &Inner, a: &mut Attributes<'_>) -> Result<(), Failure> {
    if is_configuration(a) {
        return Ok(());
    }
    let hooks = inner.hooks.validating.get(inner, read);
    if hooks.0.is_empty() {
        return Ok(());
    }
    let mut forms = Forms::default();
    let mut hits = Vec::new();
    for hook in &hooks.0 {
        if let Some(hit) = hit(inner, hook, a, &mut forms, false).await? {
            hits.push((hook, hit));
        }
    }
    if hits.is_empty() {
        return Ok(());
    }
    let shared: &Attributes<'_> = a;
    let mut asked = Vec::with_capacity(hits.len());
    for (hook, hit) in &hits {
        let seen = hit.versioned(inner, shared, &mut forms).await;
        asked.push((*hook, seen.map_err(Failure::internal)?));
    }
    let mut calls: Vec<BoxFuture<'_, _>> = Vec::with_capacity(asked.len());
    for (hook, seen) in &asked {
        calls.push(Box::pin(call::validating(inner, hook, seen, shared)));
    }
    let said: Vec<_> = futures::stream::iter(calls)
        .buffered(CONCURRENCY)
        .collect()
        .await;
    drop(asked);
    let mut first = None;
    for (i, ((hook, _), (notes, outcome))) in hits.iter().zip(said).enumerate() {
        a.warnings.extend(notes.warnings);
        for (key, value) in &notes.annotations {
            a.annotate(&format!("{}/{key}", hook.name), value);
        }
        match outcome {
            Ok(()) => {}
            Err(call::Error::Call(why)) if hook.fail_open => {
                tracing::warn!(
                    webhook = hook.name,
                    "failed calling webhook, failing open: {why}"
                );
                let key =
                    format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{i}");
                a.annotate(&key, &hook.name);
            }
            Err(e) => {
                first.get_or_insert_with(|| e.failure(hook));
            }
        }
    }
    first.map_or(Ok(()), Err)
}
