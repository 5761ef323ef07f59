//! `knarr image …`: works on the store's folder, whether the platform runs or not.

use crate::{
    cli::Output,
    error::{Error, io},
    image_more, image_users,
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
    Ls {
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
    /// Load an OCI or `docker save` archive (tar, gzip, zstd) or an OCI layout folder
    Load {
        file: PathBuf,
        /// Name for an archive that holds one image without a name
        #[arg(long)]
        name: Option<String>,
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
    /// Write images to an archive that `docker load`, podman and skopeo read: NAME FILE, or NAMES with --output
    Save {
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
        name: String,
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
    Inspect {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Print the steps that made an image
    History {
        name: String,
        /// Whole lines
        #[arg(long)]
        no_trunc: bool,
    },
    /// Remove what no name leads to
    Prune {
        /// And images that nothing runs on
        #[arg(short, long)]
        all: bool,
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
    /// Remove images by name, and what only they used
    Rm {
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
        ImageVerb::Inspect { names } => image_more::inspect(&store, &names)?,
        ImageVerb::History { name, no_trunc } => image_more::history(&store, &name, no_trunc)?,
        ImageVerb::Prune { all, output } => image_more::prune(paths, &store, all, output)?,
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
        ImageVerb::Ls { output } => {
            let images = store.list()?;
            if output == Output::Json {
                println!("{}", json!(images.iter().map(describe).collect::<Vec<_>>()));
                return Ok(0);
            }
            let width = images
                .iter()
                .map(|i| i.name.len())
                .max()
                .unwrap_or(0)
                .max(5);
            println!("{:width$}  {:12}  SIZE", "IMAGE", "ID");
            for i in &images {
                println!(
                    "{:width$}  {}  {}",
                    i.name,
                    &i.id["sha256:".len()..][..12],
                    megabytes(i.size_bytes)
                );
            }
        }
        ImageVerb::Load { file, name, output } => {
            let images = store.load(&file, name.as_deref())?;
            match output {
                Output::Json => {
                    println!("{}", json!(images.iter().map(describe).collect::<Vec<_>>()))
                }
                Output::Text => {
                    for image in images {
                        println!("{}  {}", image.name, image.digest);
                    }
                }
            }
        }
        ImageVerb::Save { mut names, output } => {
            let file = output.or_else(|| names.pop().map(PathBuf::from));
            let file = file.filter(|_| !names.is_empty()).ok_or_else(|| {
                Error::Input("say which image and which file: `knarr image save NAME FILE`".into())
            })?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            match file.as_os_str() == "-" {
                true => store.save_all(&names, &mut std::io::stdout().lock())?,
                false => store.save_file(&names, &file)?,
            }
        }
        ImageVerb::Import { file, name, cmd } => {
            let config = match cmd.is_empty() {
                true => json!({}),
                false => json!({ "Cmd": cmd }),
            };
            let image = match file.as_os_str() == "-" {
                true => store.import(std::io::stdin().lock(), &config, Some(&name))?,
                false => {
                    let shown = file.display().to_string();
                    let tar = std::fs::File::open(&file).map_err(io(shown))?;
                    store.import(tar, &config, Some(&name))?
                }
            };
            println!("{}  {}", image.name, image.digest);
        }
        ImageVerb::Rm { names, output } => {
            let containers = image_users::but_for(paths, None);
            let used = image_users::layers(paths);
            let mut images = Vec::new();
            for name in &names {
                let image = match store.resolve(name) {
                    Ok(Some(image)) => image,
                    Ok(None) => return Err(knarr_image::Error::NotFound(name.clone()).into()),
                    // nothing can run on a damaged one
                    Err(knarr_image::Error::Corrupt { .. }) => {
                        images.push((knarr_image::normalize(name)?, None));
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                if let Some(user) = containers.iter().find(|c| c.lower == image.layers) {
                    let label = |key: &str| user.labels.get(key).map_or("?", String::as_str);
                    return Err(Error::Input(format!(
                        "image {} is used by pod {} of {}: take that down first",
                        image.name,
                        label("io.kubernetes.pod.name"),
                        label("io.kubernetes.pod.namespace"),
                    )));
                }
                images.push((image.name.clone(), Some(image)));
            }
            for (name, (full, _)) in names.iter().zip(&images) {
                store.remove_keeping(name, &used)?;
                if output == Output::Text {
                    println!("{full}");
                }
            }
            if output == Output::Json {
                let whole = images.iter().filter_map(|(_, image)| image.as_ref());
                println!("{}", json!(whole.map(describe).collect::<Vec<_>>()));
            }
        }
    }
    Ok(0)
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
