//! Images made on this machine: cargo builds the package, the packer wraps it.

use crate::error::{Error, io};
use knarr_image::{Image, ImageConfig, ImageStore, PackSpec};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// How many of cargo's last lines are shown when it fails.
const TAIL_LINES: usize = 30;

/// Builds packages of one workspace, release profile, in one call of cargo; package → executable.
pub fn cargo(folder: &Path, packages: &[String]) -> Result<BTreeMap<String, PathBuf>, Error> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command
        .args([
            "build",
            "--release",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(folder);
    for package in packages {
        command.args(["--package", package]);
    }
    for (key, _) in std::env::vars_os() {
        if is_of_cargo_run(&key.to_string_lossy()) {
            command.env_remove(&key);
        }
    }
    let output = command.stdin(Stdio::null()).output().map_err(|e| {
        Error::Failed(format!(
            "cannot run {}: {e}: install Rust, or put cargo on the PATH",
            cargo.to_string_lossy()
        ))
    })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        return Err(Error::Failed(format!(
            "cargo could not build {} in {}:\n{tail}",
            packages.join(", "),
            folder.display()
        )));
    }
    let mut made = BTreeMap::new();
    for line in output.stdout.split(|b| *b == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else {
            continue;
        };
        if let (Some(executable), Some(name)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
        ) {
            made.insert(name.to_string(), PathBuf::from(executable));
        }
    }
    let mut found = BTreeMap::new();
    for package in packages {
        let executable = made.remove(package).ok_or_else(|| {
            Error::Failed(format!(
                "package {package} in {} has no binary of that name",
                folder.display()
            ))
        })?;
        found.insert(package.clone(), executable);
    }
    Ok(found)
}

/// Packs an executable under `name`.
pub fn pack(images: &ImageStore, name: &str, executable: PathBuf) -> Result<Image, Error> {
    let spec = PackSpec {
        executables: vec![executable],
        name: name.to_string(),
        config: ImageConfig::default(),
        ..PackSpec::default()
    };
    Ok(images.pack(&spec)?)
}

/// The folder from which cargo sees `folder`'s workspace.
pub fn absolute(folder: &Path) -> Result<PathBuf, Error> {
    folder
        .canonicalize()
        .map_err(io(folder.display().to_string()))
}

/// Is it what `cargo run` set for us? It says nothing about the packages, and build scripts that look at it (ring's looks
/// at OUT_DIR) would make cargo build them anew whenever knarr is started the other way.
fn is_of_cargo_run(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_")
        || variable.starts_with("CARGO_BIN_")
        || variable.starts_with("CARGO_MANIFEST_")
        || matches!(
            variable,
            "OUT_DIR" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "CARGO_TARGET_TMPDIR"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_set_for_cargo_stays() {
        let cases = [
            ("CARGO_PKG_NAME", true),
            ("CARGO_MANIFEST_DIR", true),
            ("OUT_DIR", true),
            ("CARGO_HOME", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_NET_OFFLINE", false),
            ("RUSTFLAGS", false),
            ("PATH", false),
        ];
        for (variable, expected) in cases {
            assert_eq!(is_of_cargo_run(variable), expected, "{variable}");
        }
    }
}
