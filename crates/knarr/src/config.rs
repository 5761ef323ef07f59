//! `knarr config`: the compose files as one, or what is asked of them.

use crate::{
    convert::yaml,
    error::{Error, io},
    project::ProjectArguments,
};
use clap::Args;
use serde_json::Value;
use sha2::Digest as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

#[derive(Args)]
pub struct ConfigArguments {
    /// The folder with the compose file, or the file, then services to show instead of all
    #[arg(value_name = "PATH|SERVICE")]
    words: Vec<String>,
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON instead of YAML
    #[arg(long)]
    json: bool,
    /// yaml or json
    #[arg(long, value_parser = ["yaml", "json"])]
    format: Option<String>,
    /// Only check, and print nothing
    #[arg(short, long)]
    quiet: bool,
    /// Print the services' names
    #[arg(long)]
    services: bool,
    /// Print the images' names
    #[arg(long)]
    images: bool,
    /// Print the profiles' names
    #[arg(long)]
    profiles: bool,
    /// Print the volumes' names
    #[arg(long)]
    volumes: bool,
    /// Print the networks' names
    #[arg(long)]
    networks: bool,
    /// What no service uses, too
    #[arg(long, hide = true)]
    pub all_resources: bool,
    /// Print the models' names
    #[arg(long)]
    models: bool,
    /// Print the variables that the files name, and what stands in for them
    #[arg(long)]
    variables: bool,
    /// Leave variables as they are written
    #[arg(long)]
    no_interpolate: bool,
    /// Leave env_file as it is, instead of printing what is in the files
    #[arg(long)]
    no_env_resolution: bool,
    /// Print what the variables are that files may name
    #[arg(long)]
    environment: bool,
    /// Print a digest of what each service says; * is all
    #[arg(long, value_name = "SERVICE,…", num_args = 0..=1, default_missing_value = "*")]
    hash: Option<String>,
    /// Write to a file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Taken for the fingers' sake
    #[arg(long, hide = true)]
    resolve_image_digests: bool,
    #[arg(long, hide = true)]
    lock_image_digests: bool,
    /// Take services that do not fit together
    #[arg(long)]
    no_consistency: bool,
    #[arg(long, hide = true)]
    no_normalize: bool,
}

impl ConfigArguments {
    pub fn project_mut(&mut self) -> &mut ProjectArguments {
        &mut self.project
    }
}

pub fn run(a: ConfigArguments) -> Result<u8, Error> {
    if a.resolve_image_digests || a.lock_image_digests {
        return Err(Error::Input(
            "knarr's config asks no registry for digests: `knarr up` pins images by those that it has pulled or built".into(),
        ));
    }
    let (path, services) = a.project.split(&a.words);
    let folder = match path.is_dir() {
        true => path.clone(),
        false => ".".into(),
    };
    let mut options = a.project.options(folder)?;
    if path.is_file() {
        options.files.push(path);
    }
    if a.profiles {
        options.profiles = vec!["*".into()];
    }
    options.unchecked = a.no_consistency;
    options.keep_variables = a.no_interpolate;
    options.keep_env_files = a.no_env_resolution;
    if a.variables {
        print!("{}", variables(&a, &knarr_compose::variables(&options)?)?);
        return Ok(0);
    }
    let mut tree = knarr_compose::config(&options)?;
    if !services.is_empty() {
        only(&mut tree, services)?;
    }
    if !a.all_resources {
        used(&mut tree);
    }
    let text = shown(&a, &options, &tree)?;
    match &a.output {
        Some(file) => std::fs::write(file, text).map_err(io(file.display().to_string()))?,
        None => print!("{text}"),
    }
    Ok(0)
}

/// Leaves what services use. SOURCE: compose-go `Project.WithoutUnnecessaryResources`.
fn used(tree: &mut Value) {
    let services = tree["services"].as_object().into_iter().flatten();
    let services: Vec<&Value> = services.map(|(_, s)| s).collect();
    // What is named in a list of texts or objects, or by the keys of an object.
    let named = |value: &Value| -> Vec<String> {
        let of = |item: &Value| item.as_str().or(item["source"].as_str()).map(String::from);
        let items = value.as_array().into_iter().flatten().filter_map(of);
        let keys = value.as_object().into_iter().flatten();
        items.chain(keys.map(|(key, _)| key.clone())).collect()
    };
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for kind in ["networks", "volumes", "configs", "secrets", "models"] {
        let all = wanted.entry(kind).or_default();
        for service in &services {
            all.extend(named(&service[kind]));
            all.extend(named(&service["build"][kind]));
        }
    }
    for (kind, names) in wanted {
        let Some(all) = tree.get_mut(kind) else {
            continue;
        };
        if let Some(all) = all.as_object_mut() {
            all.retain(|name, _| names.contains(name));
        }
        let empty = all.as_object().is_none_or(|all| all.is_empty());
        if let Some(tree) = tree.as_object_mut().filter(|_| empty) {
            tree.remove(kind);
        }
    }
}

/// Leaves some services, and what they depend on.
fn only(tree: &mut Value, services: &[String]) -> Result<(), Error> {
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = services.to_vec();
    while let Some(name) = next.pop() {
        let service = tree["services"].get(&name);
        let service = service.ok_or_else(|| Error::Input(format!("no such service: {name}")))?;
        let needed = service["depends_on"].as_object();
        next.extend(
            needed
                .into_iter()
                .flatten()
                .map(|(n, _)| n.clone())
                .filter(|n| !kept.contains(n)),
        );
        kept.insert(name);
    }
    if let Some(all) = tree["services"].as_object_mut() {
        all.retain(|name, _| kept.contains(name));
    }
    Ok(())
}

fn shown(
    a: &ConfigArguments,
    options: &knarr_compose::Options,
    tree: &Value,
) -> Result<String, Error> {
    let section = |kind: &str| tree[kind].as_object().into_iter().flatten();
    let names = |kind: &str| {
        section(kind)
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    let lines = |all: Vec<String>| all.into_iter().map(|l| l + "\n").collect::<String>();
    Ok(match () {
        () if a.quiet => String::new(),
        () if a.services => lines(names("services")),
        () if a.volumes => lines(names("volumes")),
        () if a.networks => lines(names("networks")),
        () if a.models => lines(names("models")),
        () if a.profiles => {
            let all = section("services")
                .flat_map(|(_, s)| s["profiles"].as_array().into_iter().flatten());
            let all: BTreeSet<String> = all.filter_map(|p| p.as_str().map(String::from)).collect();
            lines(all.into_iter().collect())
        }
        () if a.images => {
            let project = tree["name"].as_str().unwrap_or_default();
            let image = |(name, s): (&String, &Value)| match s["image"].as_str() {
                Some(image) => image.to_string(),
                None => format!("{project}-{name}"),
            };
            lines(section("services").map(image).collect())
        }
        () if a.environment => {
            let project = knarr_compose::load(options)?;
            lines(
                project
                    .variables
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect(),
            )
        }
        () => match &a.hash {
            Some(asked) => {
                let wanted = |name: &str| asked == "*" || asked.split(',').any(|a| a == name);
                let all = section("services").filter(|(name, _)| wanted(name));
                lines(
                    all.map(|(name, s)| format!("{name} {}", digest(s)))
                        .collect(),
                )
            }
            None => {
                let text = match is_json(a) {
                    true => format!("{:#}\n", with_empty(tree.clone())),
                    false => in_order(tree)?,
                };
                // What is printed is a compose file again: no variable is to be seen in what was one's value.
                match a.no_interpolate {
                    true => text,
                    false => text.replace('$', "$$"),
                }
            }
        },
    })
}

fn is_json(a: &ConfigArguments) -> bool {
    a.json || a.format.as_deref() == Some("json")
}

/// What Docker Compose's JSON has also where it is empty, and as what.
fn with_empty(mut tree: Value) -> Value {
    let services = tree.get_mut("services").and_then(Value::as_object_mut);
    for (_, service) in services.into_iter().flatten() {
        if let Some(service) = service.as_object_mut() {
            for key in ["command", "entrypoint"] {
                service.entry(key).or_insert(Value::Null);
            }
            let rules = service.get_mut("develop").map(|d| &mut d["watch"]);
            for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
                // Naming it makes it: null.
                let _ = &mut rule["exec"]["command"];
            }
            if let Some(deploy) = service.get_mut("deploy").and_then(Value::as_object_mut) {
                for key in ["placement", "resources"] {
                    deploy.entry(key).or_insert_with(|| serde_json::json!({}));
                }
            }
        }
    }
    let networks = tree.get_mut("networks").and_then(Value::as_object_mut);
    for (_, network) in networks.into_iter().flatten() {
        if let Some(network) = network.as_object_mut() {
            network
                .entry("ipam")
                .or_insert_with(|| serde_json::json!({}));
        }
    }
    tree
}

/// As YAML, the name and the services first.
fn in_order(tree: &Value) -> Result<String, Error> {
    let mut text = String::new();
    let all = tree.as_object().into_iter().flatten();
    let mut all: Vec<(&String, &Value)> = all.collect();
    all.sort_by_key(|(key, _)| match key.as_str() {
        "name" => 0,
        "services" => 1,
        key if key.starts_with("x-") => 3,
        _ => 2,
    });
    for (key, value) in all {
        text += &yaml(&serde_json::json!({ key: value }))?;
    }
    Ok(text)
}

fn variables(
    a: &ConfigArguments,
    all: &BTreeMap<String, knarr_compose::Variable>,
) -> Result<String, Error> {
    if is_json(a) {
        let all = all.iter().map(|(name, v)| {
            let shown = serde_json::json!({ "Name": name, "DefaultValue": v.default, "PresenceValue": v.alternate, "Required": v.required });
            (name.clone(), shown)
        });
        let all: serde_json::Map<String, Value> = all.collect();
        return Ok(format!("{:#}\n", Value::Object(all)));
    }
    let mut text = String::new();
    let mut row = |cells: [&str; 4]| {
        let line: String = cells.iter().map(|c| format!("{c:<19} ")).collect();
        text += line.trim_end();
        text.push('\n');
    };
    row(["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"]);
    for (name, v) in all {
        row([name, &v.required.to_string(), &v.default, &v.alternate]);
    }
    Ok(text)
}

fn digest(service: &Value) -> String {
    hex::encode(sha2::Sha256::digest(service.to_string()))
}
