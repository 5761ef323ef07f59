//! `knarr scale web=3`

use crate::{app, cli::Output, connect, error::Error, paths::Paths};
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use std::time::Duration;

#[derive(Args)]
pub struct ScaleArguments {
    /// SERVICE=REPLICAS, one or more
    #[arg(required = true, value_parser = pair, value_name = "SERVICE=REPLICAS")]
    services: Vec<(String, i32)>,
    /// Give up waiting after this time: seconds, or 90s, 5m
    #[arg(long, default_value = "120", value_name = "TIME", value_parser = crate::cli::seconds)]
    timeout: u64,
    #[command(flatten)]
    target: crate::cli::Target,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

fn pair(text: &str) -> Result<(String, i32), String> {
    let (name, count) = text
        .split_once('=')
        .ok_or("expected SERVICE=REPLICAS, e.g. web=3")?;
    let count = count
        .parse()
        .ok()
        .filter(|c| (0..=1000).contains(c))
        .ok_or("replicas are 0 to 1000")?;
    Ok((name.to_string(), count))
}

pub async fn run(paths: &Paths, arguments: ScaleArguments) -> Result<u8, Error> {
    let client = connect::connect(paths).await?;
    let names: Vec<String> = arguments.services.iter().map(|(n, _)| n.clone()).collect();
    let namespace = app::of(&client, arguments.target.project.as_deref(), &names).await?;
    let api: Api<Deployment> = Api::namespaced(client, &namespace);
    for (name, _) in &arguments.services {
        if api.get_metadata_opt(name).await?.is_none() {
            return Err(Error::Input(format!(
                "{namespace} has no service {name}; see `knarr status`"
            )));
        }
    }
    for (name, replicas) in &arguments.services {
        api.patch_scale(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "replicas": replicas } })),
        )
        .await?;
    }
    for (name, replicas) in &arguments.services {
        let reached = |d: Option<&Deployment>| {
            d.and_then(|d| d.status.as_ref()).is_some_and(|s| {
                s.ready_replicas.unwrap_or(0) == *replicas && s.replicas.unwrap_or(0) == *replicas
            })
        };
        match tokio::time::timeout(
            Duration::from_secs(arguments.timeout),
            await_condition(api.clone(), name, reached),
        )
        .await
        {
            Ok(outcome) => drop(outcome.map_err(|e| Error::Failed(e.to_string()))?),
            Err(_) => {
                return Err(Error::TimedOut(format!(
                    "{name} has not reached {replicas} replicas after {} s; see `knarr status`",
                    arguments.timeout
                )));
            }
        }
        if arguments.output == Output::Text {
            println!("{name}  {replicas}/{replicas} ready");
        }
    }
    if arguments.output == Output::Json {
        println!(
            "{}",
            json!({ "project": namespace, "scaled": arguments.services.iter().map(|(n, r)| json!({ "service": n, "replicas": r })).collect::<Vec<_>>() })
        );
    }
    Ok(0)
}
