//! `knarr image …`: works on the store's folder, whether the platform runs or not.

use crate::{
    cli::Output,
    error::{Error, io},
    image_list, image_more, image_users,
    paths::Paths,
};
use clap::{Args, Subcommand};
use knarr_image::{Image, ImageConfig, ImageStore, PackSpec};
use serde_json::json;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum ImageVerb {
    /// Make a minimal image from an executable: its libraries, CA certificates and time zones; same input, same digest
    Pack(PackArguments),
    /// List the images on this machine
    #[command(visible_alias = "list")]
    Ls(image_list::ListArguments),
    /// Load an OCI or `docker save` archive (tar, gzip, zstd) or an OCI layout folder
    Load {
        /// Default: standard input
        file: Option<PathBuf>,
        /// As FILE
        #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
        input: Option<PathBuf>,
        /// There for scripts: nothing is told of its progress
        #[arg(short, long, hide = true)]
        quiet: bool,
        /// There for scripts: all that the archive has is loaded
        #[arg(long, hide = true)]
        platform: Option<String>,
        /// Name for an archive that holds one image without a name
        #[arg(long)]
        name: Option<String>,
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
    /// Write images to an archive that `docker load`, podman and skopeo read: to the standard output, with --output or
    /// as NAME FILE to a file
    Save {
        /// Only this platform's, which has to be this machine's
        #[arg(long, value_parser = here, value_name = "PLATFORM")]
        platform: Option<String>,
        #[arg(required = true)]
        names: Vec<String>,
        /// The archive; `-` is the standard output
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Make an image of the tar of a root file system
    Import {
        /// `-` is the standard input
        file: PathBuf,
        /// Without one it is known by its id
        name: Option<String>,
        /// An instruction of a Dockerfile for its configuration, e.g. 'CMD ["sh"]'; may be repeated
        #[arg(short, long, value_name = "INSTRUCTION")]
        change: Vec<String>,
        /// What its history says
        #[arg(short, long)]
        message: Option<String>,
        /// There for scripts: it is this machine's
        #[arg(long, hide = true)]
        platform: Option<String>,
        /// What the image runs by default; may be repeated
        #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
        cmd: Vec<String>,
    },
    /// Bring images from their registries
    Pull(crate::registries::PullArguments),
    /// Send an image to its registry
    Push(crate::registries::PushArguments),
    /// Give an image another name
    Tag { source: String, target: String },
    /// Print all that is known of images, as JSON
    Inspect(crate::run::Inspect),
    /// Print the steps that made an image
    History(image_list::HistoryArguments),
    /// Remove what no name leads to
    Prune {
        /// And images that nothing runs on
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        asked: crate::run::Prune,
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
    /// Remove images by name, and what only they used
    #[command(visible_alias = "remove")]
    Rm {
        /// It's no failure when there is none
        #[arg(short, long)]
        force: bool,
        /// There for scripts: an image's layers have no names
        #[arg(long, hide = true)]
        no_prune: bool,
        /// Only this platform's, which has to be this machine's
        #[arg(long, value_parser = here, value_name = "PLATFORM")]
        platform: Option<String>,
        #[arg(required = true)]
        names: Vec<String>,
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
}

#[derive(Args)]
pub struct PackArguments {
    /// Executables; the first is what the image runs
    #[arg(required = true)]
    executables: Vec<PathBuf>,
    /// The image's name, e.g. docker.io/library/redis:7
    #[arg(short, long)]
    name: String,
    /// Add a file or folder: SOURCE, or SOURCE:DESTINATION
    #[arg(long, value_name = "SOURCE[:DESTINATION]")]
    add: Vec<String>,
    /// What the image runs, with fixed arguments; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// Default arguments; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A variable of its environment
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// UID[:GID]
    #[arg(short, long, default_value = "")]
    user: String,
    /// Where its command begins
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// PORT[/PROTOCOL]
    #[arg(long)]
    expose: Vec<String>,
    /// A label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Leave out CA certificates, time zones and account files
    #[arg(long)]
    bare: bool,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// A platform that has to be this machine's, as all images here are.
pub fn here(text: &str) -> Result<String, String> {
    match knarr_docker::fits_machine(text) {
        true => Ok(text.into()),
        false => Err(format!("no image here is for the platform {text}")),
    }
}

/// The store in the data directory, made when it isn't there.
pub fn open(paths: &Paths) -> Result<ImageStore, Error> {
    let dir = paths.images();
    let denied = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    std::fs::create_dir_all(&dir).map_err(|e| match denied(&e) {
        true => crate::connect::closed(paths),
        false => io(dir.display().to_string())(e),
    })?;
    ImageStore::open(&dir).map_err(|e| match e {
        knarr_image::Error::Io { source, .. } if denied(&source) => crate::connect::closed(paths),
        other => other.into(),
    })
}

pub async fn run(paths: &Paths, verb: ImageVerb) -> Result<u8, Error> {
    let store = open(paths)?;
    match verb {
        ImageVerb::Pull(a) => return crate::registries::pull(paths, a).await,
        ImageVerb::Push(a) => return crate::registries::push(paths, a).await,
        ImageVerb::Tag { source, target } => image_more::tag(&store, &source, &target)?,
        ImageVerb::Inspect(asked) => {
            return asked
                .print(|name| image_more::inspected(&store, &image_more::find(&store, name)?));
        }
        ImageVerb::History(a) => image_list::history(&store, &a)?,
        ImageVerb::Prune { all, asked, output } => {
            image_more::prune(paths, &store, all, &asked, output)?
        }
        ImageVerb::Pack(a) => {
            let output = a.output;
            let image = store.pack(&spec(a)?)?;
            match output {
                Output::Json => println!("{}", describe(&image)),
                Output::Text => println!(
                    "{}  {}  {}",
                    image.name,
                    image.digest,
                    megabytes(image.size_bytes)
                ),
            }
        }
        ImageVerb::Ls(a) => image_list::list(&store, &a, describe)?,
        ImageVerb::Load {
            file,
            input,
            name,
            output,
            ..
        } => {
            let file = file.or(input).filter(|f| f.as_os_str() != "-");
            let images = match file {
                Some(file) => store.load(&file, name.as_deref())?,
                None => {
                    let spooled = spooled(paths)?;
                    store.load(spooled.path(), name.as_deref())?
                }
            };
            match output {
                Output::Json => {
                    println!("{}", json!(images.iter().map(describe).collect::<Vec<_>>()))
                }
                Output::Text => {
                    for image in images {
                        println!("Loaded image: {}", image_list::familiar(&image.name));
                    }
                }
            }
        }
        ImageVerb::Save {
            mut names, output, ..
        } => {
            use std::io::IsTerminal;
            // the last of several is the file, unless it is an image's name
            let is_file = |last: &String| !store.resolve(last).is_ok_and(|found| found.is_some());
            let file = match output {
                Some(file) => file,
                None if names.len() > 1 && names.last().is_some_and(is_file) => {
                    names.pop().map(PathBuf::from).unwrap_or_default()
                }
                None if std::io::stdout().is_terminal() => {
                    return Err(Error::Input(
                        "cowardly refusing to save to a terminal. Use the -o flag or redirect"
                            .into(),
                    ));
                }
                None => "-".into(),
            };
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            match file.as_os_str() == "-" {
                true => store.save_all(&names, &mut std::io::stdout().lock())?,
                false => store.save_file(&names, &file)?,
            }
        }
        ImageVerb::Import {
            file,
            name,
            change,
            message,
            cmd,
            ..
        } => {
            let mut config = match cmd.is_empty() {
                true => json!({}),
                false => json!({ "Cmd": cmd }),
            };
            knarr_docker::change(&mut config, &change).map_err(Error::Input)?;
            let shown = file.display().to_string();
            let comment = message.unwrap_or_else(|| format!("Imported from {shown}"));
            let history = json!({
                "created": jiff::Timestamp::now().to_string(), "created_by": "knarr image import", "comment": comment,
            });
            let image = match file.as_os_str() == "-" {
                true => {
                    let spooled = spooled(paths)?;
                    let plain = knarr_docker::plain_tar(spooled.reopen().map_err(io("-"))?);
                    store.import_told(
                        plain.map_err(io("-"))?,
                        &config,
                        &history,
                        name.as_deref(),
                    )?
                }
                false => {
                    let tar = std::fs::File::open(&file).map_err(io(&shown))?;
                    let plain = knarr_docker::plain_tar(tar).map_err(io(&shown))?;
                    store.import_told(plain, &config, &history, name.as_deref())?
                }
            };
            println!("{}", image.id);
        }
        ImageVerb::Rm {
            names,
            force,
            output,
            ..
        } => {
            let containers = image_users::but_for(paths, None);
            let used = image_users::layers(paths);
            let alone = crate::run::Home::new(paths).all();
            let mut images = Vec::new();
            let (mut code, mut known) = (0, Vec::new());
            for name in &names {
                let image = match store.resolve(name) {
                    Ok(Some(image)) => image,
                    Ok(None) => {
                        eprintln!("knarr: {}", knarr_image::Error::NotFound(name.clone()));
                        code = u8::from(!force);
                        continue;
                    }
                    // nothing can run on a damaged one
                    Err(knarr_image::Error::Corrupt { .. }) => {
                        images.push((knarr_image::normalize(name)?, None));
                        known.push(name);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let label = "io.kubernetes.pod.name";
                let alone = alone.iter().find(|r| r.image_digest == image.digest);
                let last = || -> Result<bool, Error> {
                    let named = store.named()?;
                    Ok(named
                        .iter()
                        .filter(|(_, digest)| *digest == image.digest)
                        .count()
                        < 2)
                };
                if let Some(user) = alone.filter(|_| !force)
                    && last()?
                {
                    return Err(Error::Failed(format!(
                        "conflict: unable to remove repository reference {:?} (must force) - container {} is using its referenced image {}",
                        image_list::familiar(&image.name),
                        user.id.get(..12).unwrap_or(&user.id),
                        image.id.get(7..19).unwrap_or(&image.id),
                    )));
                }
                if let Some(user) = containers
                    .iter()
                    .find(|c| c.lower == image.layers && c.labels.contains_key(label))
                {
                    let label = |key: &str| user.labels.get(key).map_or("?", String::as_str);
                    return Err(Error::Input(format!(
                        "image {} is used by pod {} of {}: take that down first",
                        image.name,
                        label("io.kubernetes.pod.name"),
                        label("io.kubernetes.pod.namespace"),
                    )));
                }
                images.push((image.name.clone(), Some(image)));
                known.push(name);
            }
            for (name, (full, _)) in known.into_iter().zip(&images) {
                store.remove_keeping(name, &used)?;
                if output == Output::Text {
                    println!("Untagged: {}", image_list::familiar(full));
                }
            }
            if output == Output::Json {
                let whole = images.iter().filter_map(|(_, image)| image.as_ref());
                println!("{}", json!(whole.map(describe).collect::<Vec<_>>()));
            }
            return Ok(code);
        }
    }
    Ok(0)
}

/// Standard input as a file: archives are read more than once.
fn spooled(paths: &Paths) -> Result<tempfile::NamedTempFile, Error> {
    use std::io::IsTerminal;
    if std::io::stdin().is_terminal() {
        return Err(Error::Input(
            "requested load from stdin, but stdin is empty: say which file".into(),
        ));
    }
    let dir = paths.images();
    let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(io(dir.display().to_string()))?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file).map_err(io("standard input"))?;
    Ok(file)
}

fn spec(a: PackArguments) -> Result<PackSpec, Error> {
    let add = a
        .add
        .iter()
        .map(|text| match text.split_once(':') {
            Some((source, destination)) => (source.into(), destination.into()),
            None => (text.into(), text.into()),
        })
        .collect();
    let labels = a
        .label
        .iter()
        .map(|l| {
            l.split_once('=')
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .ok_or_else(|| Error::Input(format!("label {l:?}: expected KEY=VALUE")))
        })
        .collect::<Result<_, _>>()?;
    if let Some(bad) = a.env.iter().find(|e| !e.contains('=')) {
        return Err(Error::Input(format!("env {bad:?}: expected KEY=VALUE")));
    }
    let expose = a
        .expose
        .iter()
        .map(|p| {
            if p.contains('/') {
                p.clone()
            } else {
                format!("{p}/tcp")
            }
        })
        .collect();
    let config = ImageConfig {
        user: a.user,
        env: a.env,
        entrypoint: a.entrypoint,
        cmd: a.cmd,
        working_dir: a.workdir,
        exposed_ports: expose,
        volumes: vec![],
        labels,
        ..ImageConfig::default()
    };
    Ok(PackSpec {
        executables: a.executables,
        add,
        config,
        name: a.name,
        bare: a.bare,
    })
}

fn describe(i: &Image) -> serde_json::Value {
    json!({ "name": i.name, "digest": i.digest, "id": i.id, "size_bytes": i.size_bytes, "layers": i.layers.len() })
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
