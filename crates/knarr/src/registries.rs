//! `knarr pull`, `push`, `login`, `logout`: with or without a platform running.

use crate::{error::Error, image, layers_shown::Shown, paths::Paths};
use clap::{Args, ValueEnum};
use knarr_image::client::{
    ClientConfig, Compression, Credential, Platforms, PullOptions, PushOptions, Reference,
};
use std::{
    io::{IsTerminal, Read, Write},
    path::PathBuf,
};

/// How registries are reached: settings in the data directory's `certs.d` come before the machine's.
pub fn config(paths: &Paths) -> ClientConfig {
    let mut config = ClientConfig::default();
    config.hosts_dirs.insert(0, paths.sub("certs.d"));
    let insecure = std::env::var("KNARR_INSECURE_REGISTRIES").unwrap_or_default();
    let names = insecure.split(',').map(str::trim).filter(|n| !n.is_empty());
    config.insecure = names.map(String::from).collect();
    let policy = std::env::var_os("KNARR_SIGNATURE_POLICY").filter(|p| !p.is_empty());
    config.signature_policy = policy.map(PathBuf::from);
    config
}

#[derive(Args)]
pub struct PullArguments {
    /// Names like redis:7, ghcr.io/owner/app:1.2 or NAME@sha256:…
    #[arg(required = true)]
    names: Vec<String>,
    /// OS/ARCHITECTURE[/VARIANT] instead of this machine's
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<String>,
    /// Every platform that the image has
    #[arg(long)]
    all_platforms: bool,
    /// All tags of the repositories
    #[arg(short, long)]
    all_tags: bool,
    /// Which images are taken, instead of /etc/containers/policy.json (containers-policy.json(5))
    #[arg(long, env = "KNARR_SIGNATURE_POLICY", value_name = "FILE")]
    signature_policy: Option<PathBuf>,
    /// Print nothing but the names
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    trust: Trust,
}

/// There for scripts: Docker's content trust is no more.
#[derive(Args)]
struct Trust {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Packing {
    Gzip,
    Zstd,
}

#[derive(Args)]
pub struct PushArguments {
    /// The image here, and where it goes by its name
    name: String,
    /// Another name to push it as
    to: Option<String>,
    /// How layers that aren't compressed yet are
    #[arg(long, value_enum, default_value = "gzip")]
    compression: Packing,
    /// Every platform of the image, which must be here
    #[arg(long)]
    all_platforms: bool,
    /// All tags of the repository that are here
    #[arg(short, long, conflicts_with_all = ["to", "digestfile"])]
    all_tags: bool,
    /// Only this machine's is possible
    #[arg(long, value_parser = image::here, conflicts_with = "all_platforms", value_name = "PLATFORM")]
    platform: Option<String>,
    /// Write the digest that the registry knows it by to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Args)]
pub struct LoginArguments {
    /// Default: Docker Hub
    registry: Option<String>,
    /// Who logs in; asked for when it isn't said
    #[arg(short, long)]
    username: Option<String>,
    /// Seen by others on this machine: better --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub async fn pull(paths: &Paths, a: PullArguments) -> Result<u8, Error> {
    let store = image::open(paths)?;
    let options = PullOptions {
        config: ClientConfig {
            signature_policy: a.signature_policy,
            ..config(paths)
        },
        platforms: match (a.all_platforms, a.platform) {
            (true, _) => Platforms::All,
            (false, Some(platform)) => Platforms::One(platform),
            (false, None) => Platforms::Here,
        },
        ..PullOptions::default()
    };
    let mut names = a.names;
    if a.all_tags {
        let mut all = Vec::new();
        for name in &names {
            untagged(name)?;
            let tags = knarr_image::client::tags(&options.config, name).await?;
            all.extend(tags.iter().map(|tag| format!("{name}:{tag}")));
        }
        names = all;
    }
    for name in &names {
        let shown = Shown::new(a.quiet, false);
        let pulled = store.pull(name, &options, &shown).await;
        shown.finish();
        let image = pulled?;
        if !a.quiet {
            eprintln!("Digest: {}", image.digest);
        }
        println!("{}", image.name);
    }
    Ok(0)
}

/// SOURCE: docker/cli `cli/command/image/pull.go`
fn untagged(name: &str) -> Result<(), Error> {
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.contains([':', '@']) {
        true => Err(Error::Input("tag can't be used with --all-tags/-a".into())),
        false => Ok(()),
    }
}

pub async fn push(paths: &Paths, a: PushArguments) -> Result<u8, Error> {
    let store = image::open(paths)?;
    if a.all_tags {
        untagged(&a.name)?;
        let whole = knarr_image::normalize(&a.name)?;
        let (repository, _) = crate::image_list::parts(&whole);
        let names = store.named()?.into_iter().map(|(name, _)| name);
        let tagged = |name: &String| {
            let (of, tag) = crate::image_list::parts(name);
            of == repository && tag.is_some()
        };
        let names: Vec<String> = names.filter(tagged).collect();
        if names.is_empty() {
            return Err(Error::Failed(format!(
                "An image does not exist locally with the tag: {}",
                a.name
            )));
        }
        for name in names {
            push_one(&store, paths, &a, &name, &name).await?;
        }
        return Ok(0);
    }
    let to = a.to.as_deref().unwrap_or(&a.name);
    push_one(&store, paths, &a, &a.name, to).await
}

async fn push_one(
    store: &knarr_image::ImageStore,
    paths: &Paths,
    a: &PushArguments,
    name: &str,
    to: &str,
) -> Result<u8, Error> {
    let options = PushOptions {
        config: config(paths),
        compression: match a.compression {
            Packing::Gzip => Compression::Gzip,
            Packing::Zstd => Compression::Zstd,
        },
        all_platforms: a.all_platforms,
        ..PushOptions::default()
    };
    let shown = Shown::new(a.quiet, true);
    let pushed = store.push(name, to, &options, &shown).await;
    shown.finish();
    let pushed = pushed?;
    if let Some(file) = &a.digestfile {
        std::fs::write(file, &pushed.digest)
            .map_err(crate::error::io(file.display().to_string()))?;
    }
    match a.quiet {
        true => println!("{}", pushed.reference),
        false => println!(
            "{}: digest: {} size: {}",
            pushed.reference, pushed.digest, pushed.size
        ),
    }
    Ok(0)
}

/// Docker's file: what is written there, every client finds.
fn login_file() -> Result<PathBuf, Error> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(file) = set("REGISTRY_AUTH_FILE") {
        return Ok(file.into());
    }
    if let Some(dir) = set("DOCKER_CONFIG") {
        return Ok(PathBuf::from(dir).join("config.json"));
    }
    let home = set("HOME").ok_or(Error::Input(
        "HOME is not set: say with DOCKER_CONFIG where logins are kept".into(),
    ))?;
    Ok(PathBuf::from(home).join(".docker/config.json"))
}

/// `docker.io`, or what stands before the first slash.
fn registry_of(text: Option<&str>) -> Result<String, Error> {
    let Some(text) = text else {
        return Ok("docker.io".into());
    };
    let bare = text
        .strip_prefix("https://")
        .or(text.strip_prefix("http://"))
        .unwrap_or(text);
    let host = bare.split('/').next().unwrap_or(bare);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        return Ok("docker.io".into());
    }
    Reference::parse(&format!("{host}/x"))
        .ok()
        .filter(|r| r.registry == host)
        .map(|r| r.registry)
        .ok_or_else(|| Error::Input(format!("{text:?} is no registry: expected HOST[:PORT]")))
}

pub async fn login(paths: &Paths, a: LoginArguments) -> Result<u8, Error> {
    let registry = registry_of(a.registry.as_deref())?;
    let username = match a.username {
        Some(username) => username,
        None => ask_name()?,
    };
    let password = match (a.password, a.password_stdin) {
        (Some(password), _) => password,
        (None, true) => {
            let mut text = String::new();
            std::io::stdin()
                .take(64 << 10)
                .read_to_string(&mut text)
                .map_err(crate::error::io("standard input"))?;
            text.trim_end_matches(['\r', '\n']).to_string()
        }
        (None, false) => ask_password()?,
    };
    if password.is_empty() {
        return Err(Error::Input("the password is empty".into()));
    }
    let login = Credential {
        username,
        password,
        ..Credential::default()
    };
    knarr_image::client::check_login(&config(paths), &registry, login.clone()).await?;
    let file = login_file()?;
    knarr_image::client::store_login(&file, &registry, &login)?;
    println!("Login Succeeded");
    Ok(0)
}

/// Asks for it on the terminal.
fn ask_name() -> Result<String, Error> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::Input(
            "Must provide --username with --password-stdin".into(),
        ));
    }
    eprint!("Username: ");
    let _ = std::io::stderr().flush();
    let mut text = String::new();
    input
        .read_line(&mut text)
        .map_err(crate::error::io("the terminal"))?;
    Ok(text.trim().to_string())
}

/// Reads it from the terminal, unseen.
fn ask_password() -> Result<String, Error> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::Input(
            "no terminal to ask for the password on: use --password-stdin".into(),
        ));
    }
    eprint!("Password: ");
    let _ = std::io::stderr().flush();
    let told = |e: rustix::io::Errno| crate::error::io("the terminal")(e.into());
    let before = rustix::termios::tcgetattr(&input).map_err(told)?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    let now = rustix::termios::OptionalActions::Now;
    rustix::termios::tcsetattr(&input, now, &silent).map_err(told)?;
    let mut text = String::new();
    let read = input.read_line(&mut text);
    let _ = rustix::termios::tcsetattr(&input, now, &before);
    eprintln!();
    read.map_err(crate::error::io("the terminal"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}

pub fn logout(registry: Option<String>) -> Result<u8, Error> {
    let registry = registry_of(registry.as_deref())?;
    match knarr_image::client::remove_login(&login_file()?, &registry)? {
        true => println!("Removing login credentials for {registry}"),
        false => println!("Not logged in to {registry}"),
    }
    Ok(0)
}
