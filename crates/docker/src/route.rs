//! Which request is whose.

use crate::{
    archive, attach, build, buildkit, create,
    daemon::Daemon,
    error::{Fault, Result},
    events, exec,
    http::{self, Answer, Ask},
    images, inspect, lifecycle, list, logs, networks, stats, system, update, volumes,
};
use ::http::Method;
use serde_json::json;
use std::sync::Arc;

pub async fn route(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let path = ask.path.clone();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let method = ask.method.clone();
    match (method.as_str(), &path[..]) {
        ("GET" | "HEAD", ["_ping"]) => return Ok(system::ping(&ask)),
        ("GET", ["version"]) => return Ok(system::version(daemon)),
        ("POST", ["auth"]) => return system::auth(ask).await,
        _ => {}
    }
    daemon.awake().await?;
    match path.first().copied() {
        // Boxed, here and where a handler calls another that is large: together they would not fit a thread's stack.
        Some("containers") => Box::pin(containers(daemon, &method, &path[1..], ask)).await,
        Some("exec") => Box::pin(execs(daemon, &method, &path[1..], ask)).await,
        Some("images") => Box::pin(image(daemon, &method, &path[1..], ask)).await,
        Some("networks") => Box::pin(network(daemon, &method, &path[1..], ask)).await,
        Some("volumes") => Box::pin(volume(daemon, &method, &path[1..], ask)).await,
        _ => Box::pin(other(daemon, &method, &path, ask)).await,
    }
}

fn unknown(ask: &Ask) -> Fault {
    let path = ask.path.join("/");
    Fault::not_found(format!("page not found: {} /{path}", ask.method))
}

async fn other(daemon: &Arc<Daemon>, method: &Method, path: &[&str], ask: Ask) -> Result<Answer> {
    match (method.as_str(), path) {
        ("GET", ["info"]) => system::info(daemon).await,
        ("POST", ["build"]) => build::build(daemon, ask).await,
        ("POST", ["build", "prune"]) => build::prune(daemon, ask).await,
        ("POST", ["session"]) => buildkit::session::session(daemon, ask).await,
        ("POST", ["grpc"]) => buildkit::connect(daemon, ask).await,
        ("POST", ["commit"]) => update::commit(daemon, ask).await,
        ("GET", ["events"]) => events::stream(daemon, ask).await,
        ("GET", ["system", "df"]) => system::disk_usage(daemon, ask).await,
        (
            "GET",
            [
                "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs",
                ..,
            ],
        ) => Err(system::swarm()),
        ("POST" | "DELETE", ["swarm" | "nodes" | "services" | "secrets" | "configs", ..]) => {
            Err(system::swarm())
        }
        ("GET", ["distribution", name @ .., "json"]) => {
            images::distribution(daemon, &name.join("/")).await
        }
        ("GET", ["plugins"]) => Ok(http::json(&json!([]))),
        ("GET", ["plugins", name, "json"]) => {
            Err(Fault::not_found(format!("plugin \"{name}\" not found")))
        }
        (_, ["plugins", ..]) => Err(Fault::unsupported("a plugin")),
        _ => Err(unknown(&ask)),
    }
}

async fn containers(
    daemon: &Arc<Daemon>,
    method: &Method,
    path: &[&str],
    ask: Ask,
) -> Result<Answer> {
    match (method.as_str(), path) {
        ("GET", ["json"]) => Box::pin(list::list(daemon, ask)).await,
        ("POST", ["create"]) => Box::pin(create::create(daemon, ask)).await,
        ("POST", ["prune"]) => Box::pin(lifecycle::prune(daemon, ask)).await,
        ("GET", [id, "json"]) => Box::pin(inspect::inspect(daemon, id, ask)).await,
        ("GET", [id, "logs"]) => Box::pin(logs::logs(daemon, id, ask)).await,
        ("POST", [id, "start"]) => Box::pin(lifecycle::start(daemon, id)).await,
        ("POST", [id, "stop"]) => Box::pin(lifecycle::stop(daemon, id, ask)).await,
        ("POST", [id, "restart"]) => Box::pin(lifecycle::restart(daemon, id, ask)).await,
        ("POST", [id, "kill"]) => Box::pin(lifecycle::kill(daemon, id, ask)).await,
        ("POST", [id, "pause"]) => Box::pin(lifecycle::pause(daemon, id)).await,
        ("POST", [id, "unpause"]) => Box::pin(lifecycle::unpause(daemon, id)).await,
        ("POST", [id, "wait"]) => Box::pin(lifecycle::wait(daemon, id, ask)).await,
        ("POST", [id, "rename"]) => Box::pin(lifecycle::rename(daemon, id, ask)).await,
        ("HEAD", [id, "archive"]) => Box::pin(archive::head(daemon, id, ask)).await,
        ("GET", [id, "archive"]) => Box::pin(archive::get(daemon, id, ask)).await,
        ("PUT", [id, "archive"]) => Box::pin(archive::put(daemon, id, ask)).await,
        ("GET", [id, "changes"]) => Box::pin(archive::changes(daemon, id)).await,
        ("GET", [id, "export"]) => Box::pin(archive::export(daemon, id)).await,
        ("GET", [id, "stats"]) => Box::pin(stats::stats(daemon, id, ask)).await,
        ("GET", [id, "top"]) => Box::pin(stats::top(daemon, id, ask)).await,
        ("POST", [id, "update"]) => Box::pin(update::update(daemon, id, ask)).await,
        ("POST", [id, "attach"]) => Box::pin(attach::attach(daemon, id, ask)).await,
        ("POST", [id, "exec"]) => Box::pin(exec::create(daemon, id, ask)).await,
        ("POST", [id, "resize"]) => Box::pin(exec::resize_container(daemon, id, ask)).await,
        ("DELETE", [id]) => Box::pin(lifecycle::remove(daemon, id, ask)).await,
        _ => Err(unknown(&ask)),
    }
}

async fn execs(daemon: &Arc<Daemon>, method: &Method, path: &[&str], ask: Ask) -> Result<Answer> {
    match (method.as_str(), path) {
        ("POST", [id, "start"]) => exec::start(daemon, id, ask).await,
        ("POST", [id, "resize"]) => exec::resize(daemon, id, ask).await,
        ("GET", [id, "json"]) => exec::inspect(daemon, id).await,
        _ => Err(unknown(&ask)),
    }
}

/// An image's name may have slashes.
async fn image(daemon: &Arc<Daemon>, method: &Method, path: &[&str], ask: Ask) -> Result<Answer> {
    match (method.as_str(), path) {
        ("GET", ["json"]) => return images::list(daemon, ask).await,
        ("POST", ["create"]) => return images::create(daemon, ask).await,
        ("POST", ["load"]) => return images::load(daemon, ask).await,
        ("POST", ["prune"]) => return images::prune(daemon, ask).await,
        ("GET", ["search"]) => return images::search(ask).await,
        ("GET", ["get"]) => {
            let names = ask.query.all("names").into_iter();
            let names = names
                .flat_map(|n| n.split(','))
                .map(str::to_string)
                .collect();
            return images::save(daemon, names).await;
        }
        _ => {}
    }
    let Some((last, rest)) = path.split_last() else {
        return Err(unknown(&ask));
    };
    let name = rest.join("/");
    match (method.as_str(), *last) {
        ("DELETE", _) => images::remove(daemon, &path.join("/"), ask).await,
        ("GET", "json") => images::inspect(daemon, &name).await,
        ("GET", "history") => images::history(daemon, &name).await,
        ("GET", "get") => images::save(daemon, vec![name]).await,
        ("POST", "tag") => images::tag(daemon, &name, ask).await,
        ("POST", "push") => images::push(daemon, &name, ask).await,
        _ => Err(unknown(&ask)),
    }
}

async fn network(daemon: &Arc<Daemon>, method: &Method, path: &[&str], ask: Ask) -> Result<Answer> {
    match (method.as_str(), path) {
        ("GET", []) => networks::list(daemon, ask).await,
        ("POST", ["create"]) => networks::create(daemon, ask).await,
        ("POST", ["prune"]) => networks::prune(daemon, ask).await,
        ("GET", [id]) => networks::inspect(daemon, id, ask).await,
        ("DELETE", [id]) => networks::remove(daemon, id).await,
        ("POST", [id, "connect"]) => networks::connect(daemon, id, ask).await,
        ("POST", [id, "disconnect"]) => networks::disconnect(daemon, id, ask).await,
        _ => Err(unknown(&ask)),
    }
}

async fn volume(daemon: &Arc<Daemon>, method: &Method, path: &[&str], ask: Ask) -> Result<Answer> {
    match (method.as_str(), path) {
        ("GET", []) => volumes::list(daemon, ask).await,
        ("POST", ["create"]) => volumes::create(daemon, ask).await,
        ("POST", ["prune"]) => volumes::prune(daemon, ask).await,
        ("GET", [name]) => volumes::inspect(daemon, name).await,
        ("DELETE", [name]) => volumes::remove(daemon, name, ask).await,
        _ => Err(unknown(&ask)),
    }
}
