//! The project as its files say it, typed and checked: what can't be honoured is an error or a warning by name and line.

mod build;
mod check;
mod deploy;
mod devices;
mod distinct;
mod files;
mod hooks;
mod limits;
mod link;
mod mounts;
mod names;
mod networking;
mod own_containers;
mod own_networks;
mod refuse;
mod service;
mod shown;
mod values;
mod watch;

pub use build::{Build, BuildSecret, Context};
pub use deploy::{FailureAction, Mode, Restarts, Update};
pub use files::{FileObject, FileSource};
pub use hooks::{Hook, Prelude};
pub use mounts::{FileMount, Mount, Source, Volume};
pub use names::{Link, Name, Scope};
pub use networking::{Network, Port};
pub use service::{HealthCheck, Namespaces, PullPolicy, Security, Service, Settings};
pub use watch::{Action, Watch};

use crate::{Error, Options, Warning, read, tree::Node};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// A compose project: its active services and what they use.
#[derive(Debug, Clone)]
pub struct Project {
    /// `[a-z0-9][a-z0-9_-]*`
    pub name: String,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// The files it was read from, without those that they name.
    pub files: Vec<PathBuf>,
    /// The variables that the files may name: the environment's, and those of `.env`.
    pub variables: BTreeMap<String, String>,
    /// The active services by name.
    pub services: BTreeMap<String, Service>,
    /// Services that are not brought up, and whose images those of others are built on.
    pub bases: BTreeMap<String, Service>,
    /// Services whose profile is off.
    pub disabled: BTreeSet<String>,
    /// Named volumes that active services use.
    pub volumes: BTreeMap<String, Volume>,
    /// Networks that active services use.
    pub networks: BTreeMap<String, Network>,
    /// Configs that active services use.
    pub configs: BTreeMap<String, FileObject>,
    /// Secrets that active services or their builds use.
    pub secrets: BTreeMap<String, FileObject>,
    pub warnings: Vec<Warning>,
    /// What `host-gateway` means in `extra_hosts`: an address of the machine. None: such entries are left out.
    pub host_gateway: Option<String>,
    /// It is translated for knarr itself: what other clusters have no words for is said by annotations. Otherwise the
    /// resources say as much of it as any cluster understands.
    pub at_home: bool,
    /// At home: which claims the volumes without a name have.
    pub unnamed: Unnamed,
}

/// The claims of volumes that have no name: those of `volumes: [/data]`, and those that an image declares. A service that is
/// replaced finds what it had in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// By service and place in the container, the claim that the service has now.
    pub kept: BTreeMap<(String, String), String>,
    /// What the names of new claims are made of, so that they are no earlier ones'.
    pub seed: String,
}

impl Project {
    /// Leaves only the named services, all when none are named; with `dependencies`, also what they depend on.
    ///
    /// # Errors
    /// A name that no service has.
    pub fn select(&mut self, names: &[String], dependencies: bool) -> Result<(), String> {
        if names.is_empty() {
            return Ok(());
        }
        let mut kept: BTreeSet<String> = BTreeSet::new();
        let mut next: Vec<String> = names.to_vec();
        while let Some(name) = next.pop() {
            let Some(service) = self.services.get(&name) else {
                return Err(name);
            };
            if kept.insert(name) {
                // A service runs in the Pod of the one whose namespaces it shares.
                next.extend(service.namespaces.joins.clone());
                if dependencies {
                    next.extend(service.depends_on.iter().map(|d| d.service.clone()));
                }
            }
        }
        let (kept_services, mut others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.services)
                .into_iter()
                .partition(|(name, _)| kept.contains(name));
        self.services = kept_services;
        let bases = |s: &Service| s.build.iter().flat_map(Build::bases).collect::<Vec<_>>();
        let mut next: Vec<String> = self.services.values().flat_map(bases).collect();
        while let Some(name) = next.pop() {
            if let Some(base) = others.remove(&name) {
                next.extend(bases(&base));
                self.bases.insert(name, base);
            }
        }
        for service in self.services.values_mut() {
            service.depends_on.retain(|d| kept.contains(&d.service));
        }
        Ok(())
    }
}

/// When a dependency is fulfilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    CompletedSuccessfully,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub service: String,
    pub condition: Condition,
    /// The dependent is restarted when this one is replaced.
    pub restart: bool,
}

/// Warnings are gathered here while the model is read.
#[derive(Default)]
struct Notes(Vec<Warning>);

impl Notes {
    fn say(&mut self, node: &Node, message: impl Into<String>) {
        let warning = Warning(node.error(message).to_string());
        if !self.0.contains(&warning) {
            self.0.push(warning);
        }
    }
}

/// Reads a project.
///
/// # Errors
/// What is wrong with the files or can't be honoured, by name and line.
pub fn load(options: &Options) -> Result<Project, Error> {
    let mut model = read::model(options)?;
    own_containers::resolve(&mut model.tree);
    own_networks::resolve(&mut model.tree);
    let tree = &model.tree;
    let mut notes = Notes(model.warnings);
    let active = active(tree, &model.profiles);
    check::check(tree, &active)?;
    refuse::top_level(tree, &active, &mut notes)?;
    let mut services = BTreeMap::new();
    for (name, node) in section(tree, "services") {
        if active.contains(name) {
            refuse::service(name, node, tree, &mut notes)?;
            let read = service::Reader {
                project: &model.name,
                tree,
                variables: &model.variables,
                active: &active,
            };
            services.insert(name.clone(), read.service(name, node, &mut notes)?);
        }
    }
    let completed: BTreeSet<String> = services
        .values()
        .flat_map(|s| &s.depends_on)
        .filter(|d| d.condition == Condition::CompletedSuccessfully)
        .map(|d| d.service.clone())
        .collect();
    for name in completed {
        if let Some(service) = services.get_mut(&name) {
            service.mode = service.mode.to_completion();
        }
    }
    mounts::volumes_from(&mut services, tree)?;
    names::names(&mut services, tree, &model.name);
    check::join(&services, tree)?;
    if services.is_empty() {
        return Err(tree.error(match section(tree, "services").next() {
            None => "no services: name at least one below services:",
            Some(_) => "no service selected: all are in profiles that are not switched on",
        }));
    }
    let volumes = mounts::volumes(tree, &services)?;
    let networks = networking::networks(tree, &services, &model.name, &mut notes)?;
    let (configs, secrets) = files::objects(tree, &services)?;
    let disabled = section(tree, "services")
        .map(|(n, _)| n.clone())
        .filter(|n| !active.contains(n))
        .collect();
    let project = Project {
        name: model.name.clone(),
        folder: model.folder,
        files: model.files,
        variables: model.variables,
        services,
        bases: BTreeMap::new(),
        disabled,
        volumes,
        networks,
        configs,
        secrets,
        warnings: notes.0,
        host_gateway: None,
        at_home: false,
        unnamed: Unnamed::default(),
    };
    distinct::check(&project, tree)?;
    Ok(project)
}

/// The project's files as one tree, checked, services that are switched off left out.
pub(crate) fn config(options: &Options) -> Result<serde_json::Value, Error> {
    let mut model = read::model(options)?;
    let active = active(&model.tree, &model.profiles);
    if !options.unchecked {
        check::check(&model.tree, &active)?;
    }
    let services = model.tree.map_mut().and_then(|m| m.get_mut("services"));
    if let Some(services) = services.and_then(Node::map_mut) {
        services.retain(|name, _| active.contains(name));
    }
    let mut shown = model.tree.to_json();
    if options.keep_env_files || options.keep_variables {
        return Ok(shown);
    }
    for (name, node) in section(&model.tree, "services") {
        if node.get("env_file").is_none() {
            continue;
        }
        let own = node.get("environment").map(Node::to_json);
        let mut all = service::env_files(node, &model.variables)?
            .into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect::<serde_json::Map<_, _>>();
        all.extend(own.and_then(|o| o.as_object().cloned()).unwrap_or_default());
        if let Some(service) = shown["services"][name].as_object_mut() {
            service.remove("env_file");
            service.insert("environment".into(), all.into());
        }
    }
    shown::like_compose(&mut shown);
    Ok(shown)
}

fn section<'a>(tree: &'a Node, kind: &str) -> impl Iterator<Item = (&'a String, &'a Node)> {
    tree.get(kind).and_then(Node::map).into_iter().flatten()
}

/// The services that no profile switches off.
fn active(tree: &Node, profiles: &[String]) -> BTreeSet<String> {
    let on = |node: &Node| {
        let own = node.texts_of("profiles");
        own.is_empty() || profiles.iter().any(|p| p == "*" || own.contains(p))
    };
    section(tree, "services")
        .filter(|(_, n)| on(n))
        .map(|(name, _)| name.clone())
        .collect()
}
