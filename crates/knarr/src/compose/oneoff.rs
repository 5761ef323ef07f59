//! `run`: a container of its own, made as a service's are, with another command.

use super::{
    Asked, Target,
    containers::{ONE_OFF, State, state},
    exec, making,
};
use crate::{
    apply::Applier,
    compose_build::{self, When},
    error::Error,
    facts,
    progress::Progress,
    up,
    work::{self, Work},
};
use clap::Args;
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use knarr_image::ImageStore;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, LogParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
};

#[derive(Args, Default)]
pub struct RunArguments {
    /// Return at once, and print the container's name
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Set a variable: KEY=VALUE, or KEY as it is here; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Set the variables of a file; may be repeated
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<String>,
    /// Another first program
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// As another user
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// In another folder
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Mount a further volume; may be repeated
    #[arg(short, long, value_name = "SOURCE:TARGET")]
    volume: Vec<String>,
    /// Publish a port; may be repeated
    #[arg(short, long, value_name = "PORT:PORT")]
    publish: Vec<String>,
    /// Publish the service's own ports
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Be found by the service's names
    #[arg(long)]
    use_aliases: bool,
    /// Add a label; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// A capability to have
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// A capability to do without
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Don't bring up what the service depends on
    #[arg(long)]
    no_deps: bool,
    /// Build the image first
    #[arg(long)]
    build: bool,
    /// No terminal
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY")]
    no_tty: bool,
    /// Pass input on: it is, unless =false is said
    #[arg(short, long, num_args = 0..=1, require_equals = true, hide = true)]
    interactive: Option<Option<String>>,
    #[arg(short = 't', long = "tty", hide = true)]
    tty: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, hide = true)]
    quiet_pull: bool,
    #[arg(long, hide = true)]
    quiet_build: bool,
    #[arg(long, hide = true)]
    remove_orphans: bool,
    /// When registries are asked for images
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing", "never", "build"])]
    pull: Option<String>,
    service: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// A text that stands for itself in a compose file, whatever it holds.
fn literal(text: &str) -> Value {
    json!(text.replace('$', "$$"))
}

fn literals(texts: &[String]) -> Value {
    texts.iter().map(|t| literal(t)).collect()
}

impl RunArguments {
    /// What the flags say, as a compose file that goes over the project's.
    fn overlay(&self, tty: bool, stdin: bool) -> Result<String, Error> {
        let mut own = Map::new();
        own.insert("tty".into(), json!(tty));
        own.insert("stdin_open".into(), json!(stdin));
        let mut tagged = String::new();
        let mut put = |key: &str, values: &[String]| {
            if !values.is_empty() {
                own.insert(key.into(), literals(values));
            }
        };
        put("env_file", &self.env_from_file);
        put("cap_add", &self.cap_add);
        put("cap_drop", &self.cap_drop);
        put("labels", &self.label);
        let here = std::env::current_dir().unwrap_or_default();
        let volumes: Vec<String> = self
            .volume
            .iter()
            .map(|v| match v.starts_with('.') {
                // From where the user stands, not from the project.
                true => format!("{}/{v}", here.display()),
                false => v.clone(),
            })
            .collect();
        put("volumes", &volumes);
        let mut environment = Map::new();
        for pair in &self.env {
            match pair.split_once('=') {
                Some((key, value)) => environment.insert(key.into(), literal(value)),
                // As in the file: what the shell has, or `.env`.
                None => environment.insert(pair.clone(), Value::Null),
            };
        }
        if !environment.is_empty() {
            own.insert("environment".into(), Value::Object(environment));
        }
        for (key, value) in [("user", &self.user), ("working_dir", &self.workdir)] {
            if let Some(value) = value {
                own.insert(key.into(), literal(value));
            }
        }
        if let Some(entrypoint) = &self.entrypoint {
            own.insert("entrypoint".into(), literal(entrypoint));
        }
        if !self.command.is_empty() {
            own.insert("command".into(), literals(&self.command));
        } else if self.entrypoint.is_some() {
            own.insert("command".into(), json!([]));
        }
        if !self.service_ports {
            let ports = Value::from(self.publish.clone());
            tagged = match self.publish.is_empty() {
                true => ", \"ports\": !reset []".into(),
                false => format!(", \"ports\": !override {ports}"),
            };
        } else if !self.publish.is_empty() {
            own.insert("ports".into(), json!(self.publish));
        }
        let own = Value::Object(own).to_string();
        let own = own.strip_suffix('}').unwrap_or(&own);
        Ok(format!(
            "{{\"services\": {{{}: {own}{tagged}}}}}}}\n",
            json!(self.service)
        ))
    }
}

/// The service as it is, to its end: what the others are there for.
pub async fn to_its_end(asked: &Asked<'_>, service: &str) -> Result<u8, Error> {
    let arguments = RunArguments {
        service: service.into(),
        rm: true,
        service_ports: true,
        use_aliases: true,
        no_tty: true,
        no_deps: true,
        interactive: Some(Some("false".into())),
        ..RunArguments::default()
    };
    run(asked, arguments).await
}

pub async fn run(asked: &Asked<'_>, a: RunArguments) -> Result<u8, Error> {
    let stdin = !a.detach && !matches!(&a.interactive, Some(Some(v)) if v == "false");
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let tty = !a.no_tty && !a.detach && terminal;
    let mut arguments = asked.arguments.clone();
    arguments.profile.push("*".into());
    arguments.overlay = Some(a.overlay(tty, stdin)?);
    let over = Asked {
        paths: asked.paths,
        arguments,
    };
    let mut project = over.read()?;
    work::find_devices(&mut project)?;
    let Some(own) = project.services.get(&a.service) else {
        return Err(Error::Input(format!("no such service: {}", a.service)));
    };
    let needed: Vec<String> = own.depends_on.iter().map(|d| d.service.clone()).collect();
    if !a.no_deps && !needed.is_empty() {
        let mut plain = making::plain(asked, &needed);
        plain.quiet = true;
        up::run(asked.paths, plain).await?;
    } else {
        crate::connect::ensure(asked.paths).await?;
    }
    let target = asked.target().await?;
    project.host_gateway = work::machine_address(&target.client).await?;
    project.at_home = true;
    let pod = pod(&over, &target, &a, &project).await?;
    let api: Api<Pod> = Api::namespaced(target.client.clone(), &target.namespace);
    let made = api.create(&PostParams::default(), &pod).await?;
    let name = made.name_any();
    if a.detach {
        println!("{name}");
        return Ok(0);
    }
    let shown = show(&target, &api, &name, stdin);
    let code = tokio::select! {
        code = shown => code,
        () = crate::wiring::until_signal() => Ok(130),
    };
    if a.rm || code.as_ref().is_ok_and(|c| *c == 130) {
        let _ = api.delete(&name, &DeleteParams::default()).await;
    }
    code
}

/// The Pod of the service's own workload, with what makes it one for once.
async fn pod(
    over: &Asked<'_>,
    target: &Target,
    a: &RunArguments,
    project: &knarr_compose::Project,
) -> Result<Pod, Error> {
    let mut only = project.clone();
    let chosen = only.select(std::slice::from_ref(&a.service), false);
    chosen.map_err(|name| Error::Input(format!("no such service: {name}")))?;
    let store = ImageStore::open(&over.paths.images())?;
    let when = match a.build || a.pull.as_deref() == Some("build") {
        true => When::Always,
        false => When::Missing,
    };
    let names = compose_build::wanted(&only, &store, when)?;
    let progress = Progress::new(a.quiet);
    let built = compose_build::build(over.paths, &only, &names, &progress).await?;
    let mut draft = Work::of_compose(&only, &facts::pinned(&built));
    draft.pull(a.pull.as_deref());
    crate::pulls::bring_images(over.paths, &draft, &progress).await?;
    let known = facts::facts(&only, &store, &built)?;
    // All of the project's names and labels hold for it.
    let mut all = project.clone();
    if let Some(lead) = only.services[&a.service].namespaces.joins.clone() {
        return Err(Error::Input(format!(
            "{} shares {lead}'s namespaces: run its command there, with exec",
            a.service
        )));
    }
    all.services.retain(|_, s| s.namespaces.joins.is_none());
    let work = Work::of_compose(&all, &known);
    let applier = Applier::new(target.client.clone()).await?;
    for document in &work.first {
        let published = document.object["spec"]["type"].is_string();
        let of = document
            .object
            .pointer("/metadata/labels/app.kubernetes.io~1name");
        let own = of.is_some_and(|n| *n == knarr_compose::object_name(&a.service).as_str());
        if crate::unnamed::is_claim(&document.object) {
            continue;
        }
        // What others need of the project is theirs to make.
        if document.object["kind"] != "Service"
            || (own && (a.service_ports || !published || !a.publish.is_empty()))
        {
            applier
                .apply(&document.object, &work.namespace, false)
                .await?;
        }
    }
    let unit = work.units.iter().find(|u| u.name == a.service);
    let object = unit.map(|u| &u.document.object);
    let template = object.and_then(|o| o.pointer("/spec/template"));
    let mut template = template.cloned().unwrap_or_default();
    crate::unnamed::its_own(&mut template);
    let labels = template["metadata"]["labels"].as_object_mut();
    if let Some(labels) = labels {
        if !(a.use_aliases || a.service_ports || !a.publish.is_empty()) {
            labels.remove("app.kubernetes.io/name");
        }
        labels.insert(
            ONE_OFF.into(),
            json!(knarr_compose::object_name(&a.service)),
        );
        labels.insert("app.kubernetes.io/managed-by".into(), json!("knarr"));
    }
    let own = knarr_compose::object_name(&a.service);
    let key = format!("knarr.dev/container.{own}");
    let mut extras: BTreeMap<String, Value> = template["metadata"]["annotations"][&key]
        .as_str()
        .and_then(|t| serde_json::from_str(t).ok())
        .unwrap_or_default();
    extras.insert("earlyOutput".into(), json!(true));
    // The service's names lead to its own containers.
    extras.remove("ownNames");
    template["metadata"]["annotations"][&key] = json!(json!(extras).to_string());
    match &a.name {
        Some(name) => template["metadata"]["name"] = json!(knarr_compose::object_name(name)),
        None => template["metadata"]["generateName"] = json!(format!("{own}-run-")),
    }
    template["spec"]["restartPolicy"] = json!("Never");
    for container in template["spec"]["containers"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        if let Some(map) = container.as_object_mut() {
            map.remove("readinessProbe");
            map.remove("startupProbe");
            if map.get("stdin").is_some_and(|s| s == true) {
                map.insert("stdinOnce".into(), json!(true));
            }
        }
    }
    serde_json::from_value(template).map_err(|e| Error::Failed(e.to_string()))
}

/// Shows what the container writes until it ends; its code.
async fn show(target: &Target, api: &Api<Pod>, name: &str, stdin: bool) -> Result<u8, Error> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = Box::pin(
        watcher(api.clone(), config)
            .default_backoff()
            .applied_objects(),
    );
    let mut shown = false;
    while let Some(change) = changes.next().await {
        let Ok(pod) = change else { continue };
        if let Some(trouble) = crate::ready::trouble(&pod, true).filter(|t| !t.ran) {
            let _ = api.delete(name, &DeleteParams::default()).await;
            return Err(Error::Failed(format!("{name}: {}", trouble.why)));
        }
        let status = pod.status.as_ref();
        let status = status.and_then(|s| s.container_statuses.as_ref()?.first());
        let now = state(&pod, status);
        match now {
            State::Running if !shown => {
                shown = true;
                if stdin {
                    let c = super::containers::Container {
                        index: 1,
                        service: String::new(),
                        name: status.map(|s| s.name.clone()).unwrap_or_default(),
                        pod: pod.clone(),
                        state: now,
                        one_off: true,
                    };
                    // It may end before it is joined: its log has all then.
                    match exec::join(target, &c, true).await {
                        Ok(_) => {}
                        Err(_) => log(api, name).await?,
                    }
                } else {
                    log(api, name).await?;
                }
            }
            State::Exited(_) if never_began(status).is_some() => {
                let why = never_began(status).unwrap_or_default();
                eprintln!("knarr: {name}: {why}");
                return Ok(NOT_FOUND);
            }
            State::Exited(code) => {
                if !shown {
                    log(api, name).await?;
                }
                return Ok(u8::try_from(code & 0xff).unwrap_or(1));
            }
            _ => {}
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Err(Error::Failed(format!("{name} was removed")));
        }
    }
    Err(Error::Platform(
        "the platform ended: see `knarr status`".into(),
    ))
}

/// The code of a command that can't be run.
const NOT_FOUND: u8 = 127;

/// Why a container has ended that never ran.
fn never_began(status: Option<&k8s_openapi::api::core::v1::ContainerStatus>) -> Option<String> {
    let ended = status?.state.as_ref()?.terminated.as_ref()?;
    let reason = ended.reason.as_deref()?;
    matches!(reason, "StartError" | "ContainerCannotRun")
        .then(|| ended.message.clone().unwrap_or_else(|| reason.into()))
}

async fn log(api: &Api<Pod>, name: &str) -> Result<(), Error> {
    let parameters = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let mut lines = api.log_stream(name, &parameters).await?.lines();
    while let Some(Ok(line)) = lines.next().await {
        if writeln!(std::io::stdout().lock(), "{line}").is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_a_file_that_goes_over_the_others() {
        let arguments = RunArguments {
            service: "web".into(),
            env: vec!["A=$b".into()],
            command: vec!["echo".into(), "x: \"y\"".into()],
            ..RunArguments::default()
        };
        let text = arguments.overlay(false, true).unwrap();
        let options = knarr_compose::Options {
            files: vec!["-".into()],
            stdin: Some(
                "name: x\nservices: {web: {image: a, ports: [80], environment: {A: a, B: b}}}\n"
                    .into(),
            ),
            overlay: Some(text),
            ..knarr_compose::Options::default()
        };
        let project = knarr_compose::load(&options).unwrap();
        let web = &project.services["web"];
        assert_eq!(web.environment["A"], "$b");
        assert_eq!(web.environment["B"], "b");
        assert_eq!(web.command.as_deref().unwrap(), ["echo", "x: \"y\""]);
        assert!(web.ports.is_empty() && web.stdin && !web.tty);
    }
}
