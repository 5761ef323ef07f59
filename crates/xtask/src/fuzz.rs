//! `xtask fuzz`: runs a target of the bounded fuzz tests for longer.

use std::process::Command;

use anyhow::{Context, bail};

/// The targets: name, package, test.
const TARGETS: [(&str, &str, &str); 15] = [
    ("cel", "knarr-cel", "fuzz_cel"),
    ("decoder", "knarr-api", "fuzz_decoder"),
    ("protobuf", "knarr-api", "fuzz_protobuf"),
    ("bodies", "knarr-api", "fuzz_bodies"),
    ("patch", "knarr-api", "fuzz_patch"),
    ("selector", "knarr-api", "fuzz_selector"),
    ("paths", "knarr-api", "fuzz_paths_and_headers"),
    ("compose", "knarr-compose", "fuzz_compose"),
    ("dockerfile", "knarr-dockerfile", "fuzz_dockerfile"),
    ("ignore", "knarr-dockerfile", "fuzz_ignore"),
    ("copy", "knarr-build", "fuzz_copy"),
    ("unpack", "knarr-build", "fuzz_unpack"),
    ("words", "knarr-build", "fuzz_words"),
    ("layer", "knarr-image", "fuzz_layer"),
    ("manifest", "knarr-image", "fuzz_manifest"),
];

/// Runs one target, from a start that is printed, until the time is over or it fails.
pub fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let (mut minutes, mut target, mut seed) = (1_u64, None, None);
    for pair in arguments.chunks(2) {
        match pair {
            ["--minutes", n] => minutes = n.parse().context("--minutes is a number")?,
            ["--target", name] => target = Some(*name),
            ["--seed", n] => seed = Some(n.parse::<u64>().context("--seed is a number")?),
            other => bail!("{other:?} is no option of fuzz"),
        }
    }
    let names: Vec<&str> = TARGETS.iter().map(|(name, ..)| *name).collect();
    let Some((_, package, test)) = TARGETS.iter().find(|(name, ..)| Some(*name) == target) else {
        bail!("--target is one of {}", names.join(", "));
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = seed.unwrap_or(now.as_secs());
    println!("{test} from {seed} for {minutes} minutes");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "test",
            "--package",
            package,
            "--test",
            "fuzz",
            "--",
            "--exact",
            test,
            "--nocapture",
        ])
        .env("KNARR_FUZZ_SECONDS", (minutes * 60).to_string())
        .env("KNARR_FUZZ_SEED", seed.to_string())
        .status()?;
    if !status.success() {
        bail!(
            "{test} failed: its last lines hold the input; `xtask fuzz --target {} --seed {seed}` begins alike",
            target.unwrap_or_default()
        );
    }
    Ok(())
}
