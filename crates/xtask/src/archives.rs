//! Archives of images between knarr and the programs that others have: what one saves, each other loads, and it is the same
//! image.

use crate::builds::{docker::Docker, text};
use anyhow::{Context, bail, ensure};
use std::{fs, path::PathBuf, process::Command};

pub struct Options {
    knarr: PathBuf,
    /// Folder with Debian's docker.io and containerd unpacked; none: without them.
    docker: Option<PathBuf>,
}

pub fn options(arguments: &[&str]) -> anyhow::Result<Options> {
    let mut all = Options {
        knarr: std::env::current_exe()?.with_file_name("knarr"),
        docker: std::env::var_os("BENCH_DOCKER").map(PathBuf::from),
    };
    for pair in arguments.chunks(2) {
        match pair {
            ["--knarr", path] => all.knarr = path.into(),
            ["--docker", path] => all.docker = Some(path.into()),
            _ => bail!("unknown argument {pair:?}"),
        }
    }
    Ok(all)
}

struct World {
    knarr: PathBuf,
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl World {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// `store`: a data directory's name.
    fn knarr(&self, store: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.knarr);
        command
            .arg("--data-dir")
            .arg(self.path(store))
            .args(arguments);
        text(&mut command)
    }

    fn podman(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.path("podman"));
        command.arg("--runroot").arg(self.state.path().join("run"));
        command.arg("--tmpdir").arg(self.state.path().join("tmp"));
        command.arg("--storage-driver=overlay").args(arguments);
        text(&mut command)
    }

    fn skopeo(&self, arguments: &[&str]) -> anyhow::Result<String> {
        text(
            Command::new("skopeo")
                .args(["--insecure-policy"])
                .args(arguments),
        )
    }

    /// What Docker calls the image's id.
    fn id(&self, store: &str, name: &str) -> anyhow::Result<String> {
        field(&self.knarr(store, &["image", "inspect", name])?, "Id")
    }
}

fn field(json: &str, name: &str) -> anyhow::Result<String> {
    let parsed: serde_json::Value = serde_json::from_str(json)?;
    let found = parsed[0][name]
        .as_str()
        .with_context(|| format!("no {name} in {json}"))?;
    Ok(found.trim_start_matches("sha256:").to_owned())
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let world = World {
        knarr: options.knarr,
        dir: tempfile::tempdir_in("/var/tmp")?,
        state: tempfile::tempdir_in("/run")?,
    };
    let docker = match &options.docker {
        Some(folder) => Some(Docker::start(folder, &world.dir.path().join("docker"))?),
        None => {
            println!("without docker load and save: no folder of it was given");
            None
        }
    };
    // two layers, one of which has what archives get wrong: links, odd names, owners
    let context = world.dir.path().join("context");
    fs::create_dir_all(context.join("bin"))?;
    fs::copy("/bin/busybox", context.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", context.join("bin/sh"))?;
    fs::write(context.join("a name with ünicode"), "1")?;
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY . /\nENV PATH=/bin A=b\nRUN /bin/busybox ln /bin/busybox /bin/true; /bin/busybox chown 33:34 /Dockerfile\nCMD [\"sh\"]\n",
    )?;
    world.knarr(
        "a",
        &[
            "build",
            "--quiet",
            "-t",
            "archived:1",
            &context.display().to_string(),
        ],
    )?;
    let id = world.id("a", "archived:1")?;
    let ours = world.path("ours.tar");
    world.knarr("a", &["image", "save", "archived:1", &ours])?;

    let mut results = Vec::new();
    let mut check = |what: &str, got: anyhow::Result<String>| {
        let verdict = match got {
            Ok(got) if got == id => "the same image".to_owned(),
            Ok(got) => format!("ANOTHER IMAGE: {got}, not {id}"),
            Err(e) => format!("FAILED: {e:#}"),
        };
        println!("{what:45} {verdict}");
        results.push(verdict);
    };
    let name = "docker.io/library/archived:1";
    check(
        "podman load",
        (|| {
            world.podman(&["load", "--input", &ours])?;
            field(&world.podman(&["image", "inspect", name])?, "Id")
        })(),
    );
    for kind in ["docker-archive", "oci-archive"] {
        let into = world.path(&format!("{kind}.dir"));
        check(
            &format!("skopeo copy {kind}:"),
            (|| {
                world.skopeo(&[
                    "copy",
                    "-q",
                    &format!("{kind}:{ours}"),
                    &format!("dir:{into}"),
                ])?;
                let manifest: serde_json::Value =
                    serde_json::from_slice(&fs::read(format!("{into}/manifest.json"))?)?;
                let digest = manifest["config"]["digest"].as_str().unwrap_or_default();
                Ok(digest.trim_start_matches("sha256:").to_owned())
            })(),
        );
    }
    // what others save of it, we load
    for (what, arguments) in [
        (
            "podman save --format docker-archive",
            &["save", "--format", "docker-archive"][..],
        ),
        (
            "podman save --format oci-archive",
            &["save", "--format", "oci-archive"],
        ),
    ] {
        let archive = world.path(&format!("{}.tar", what.replace(' ', "-")));
        let mut arguments = arguments.to_vec();
        arguments.extend(["--output", &archive, name]);
        check(
            &format!("knarr image load of {what}"),
            (|| {
                world.podman(&arguments)?;
                world.knarr(what, &["image", "load", &archive])?;
                let loaded = world.id(what, name);
                // podman's OCI archives of an image that came in Docker's form have a config of their own
                loaded
            })(),
        );
    }
    if let Some(docker) = &docker {
        let theirs = world.path("docker.tar");
        check(
            "docker load",
            (|| {
                docker.load(&ours)?;
                field(
                    &text(&mut docker.command(&["image", "inspect", "archived:1"]))?,
                    "Id",
                )
            })(),
        );
        check(
            "docker run of it",
            (|| {
                text(&mut docker.command(&[
                    "run",
                    "--rm",
                    "--network=none",
                    "archived:1",
                    "sh",
                    "-c",
                    "true; busybox test -f '/a name with ünicode'",
                ]))?;
                Ok(id.clone())
            })(),
        );
        check(
            "knarr image load of docker save",
            (|| {
                text(&mut docker.command(&["save", "--output", &theirs, "archived:1"]))?;
                world.knarr("docker save", &["image", "load", &theirs])?;
                world.id("docker save", name)
            })(),
        );
    }
    let _ = Command::new("umount")
        .arg("-q")
        .arg(world.path("podman/overlay"))
        .status();
    let bad = results.iter().filter(|r| *r != "the same image").count();
    ensure!(bad == 0, "{bad} of {} differ", results.len());
    Ok(())
}
