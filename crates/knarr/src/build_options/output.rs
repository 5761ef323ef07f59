//! `--output`: what comes out of a build, and where to.

use super::{fields, input};
use crate::error::Error;
use knarr_build::{Output, OutputKind, Packing};
use std::io::IsTerminal;

fn yes(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "" | "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

/// SOURCE: buildx util/buildflags/export.go
pub fn output(text: &str) -> Result<Output, Error> {
    let bad = |why: &str| input(format!("output {text:?}: {why}"));
    if !text.contains('=') {
        let kind = if text == "-" {
            OutputKind::Tar
        } else {
            OutputKind::Local
        };
        return Ok(Output {
            kind,
            destination: text.into(),
            ..Output::default()
        });
    }
    let mut out = Output::default();
    let (mut kind, mut destination) = (None, None);
    for (key, value) in fields(text) {
        let value =
            value.ok_or_else(|| bad(&format!("invalid field '{key}' must be a key=value pair")))?;
        let flag =
            || yes(&value).ok_or_else(|| bad(&format!("non-bool value specified for {key}")));
        match key.as_str() {
            "type" => {
                kind = Some(match value.as_str() {
                    "oci" => OutputKind::Oci,
                    "docker" => OutputKind::Docker,
                    "tar" => OutputKind::Tar,
                    "local" => OutputKind::Local,
                    "image" => OutputKind::Image,
                    "registry" => {
                        out.push = true;
                        OutputKind::Image
                    }
                    "cacheonly" => OutputKind::CacheOnly,
                    other => {
                        return Err(bad(&format!(
                            "exporter {other:?} could not be found: the types are image, registry, oci, docker, tar, local and cacheonly"
                        )));
                    }
                });
            }
            "dest" | "destination" => destination = Some(value),
            "name" => out.names = value.split(',').map(str::to_owned).collect(),
            "push" => out.push = flag()?,
            "push-by-digest" => out.push_by_digest = flag()?,
            "tar" => out.unpacked = !flag()?,
            "force-compression" => out.force_compression = flag()?,
            "platform-split" => out.merged = !flag()?,
            "compression" => {
                out.compression = Some(match value.as_str() {
                    "uncompressed" => Packing::Plain,
                    "gzip" => Packing::Gzip,
                    "zstd" => Packing::Zstd,
                    other => {
                        return Err(bad(&format!("unsupported layer compression type: {other}")));
                    }
                });
            }
            // what we do anyway, or what belongs to a store that isn't ours
            "oci-mediatypes"
            | "compression-level"
            | "unpack"
            | "store"
            | "name-canonical"
            | "registry.insecure"
            | "rewrite-timestamp"
            | "attestation-inline"
            | "attestation-prefix"
            | "oci-artifact"
            | "dangling-name-prefix"
            | "buildinfo"
            | "prefer-nondist-layers"
            | "mode" => {}
            key if key.starts_with("annotation") => {
                let rest = key.trim_start_matches("annotation");
                let (kind, name) = rest
                    .split_once('.')
                    .ok_or_else(|| bad(&format!("unexpected key '{key}'")))?;
                let kind = match kind.trim_start_matches('-') {
                    "" => "manifest",
                    kind => kind,
                };
                let added = out.annotations.add(&format!("{kind}:{name}={value}"));
                added.map_err(|why| bad(&why))?;
            }
            _ => return Err(bad(&format!("unexpected key '{key}'"))),
        }
    }
    out.kind = kind.ok_or_else(|| bad("type is required"))?;
    match (destination, out.kind) {
        (Some(path), _) => out.destination = path.into(),
        (None, OutputKind::Local) => return Err(bad("dest is required for local output")),
        // as docker loads it
        (None, OutputKind::Docker) => out.kind = OutputKind::Image,
        (None, OutputKind::Image | OutputKind::CacheOnly) => {}
        (None, _) if out.unpacked => return Err(bad("dest is required for a folder")),
        (None, _) => out.destination = "-".into(),
    }
    let written = matches!(
        out.kind,
        OutputKind::Oci | OutputKind::Docker | OutputKind::Tar
    );
    if written && out.destination.as_os_str() == "-" && std::io::stdout().is_terminal() {
        return Err(bad(
            "dest file is required: refusing to write to a terminal",
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs() {
        let shown = |text: &str| match output(text) {
            Ok(o) => format!("{:?} {}", o.kind, o.destination.display()),
            Err(e) => e.to_string(),
        };
        for (text, want) in [
            ("out", "Local out"),
            ("-", "Tar -"),
            ("type=oci,dest=a.tar", "Oci a.tar"),
            ("type=docker", "Image "),
            ("type=image,name=a,push=true", "Image "),
            (
                "type=local",
                "output \"type=local\": dest is required for local output",
            ),
            (
                "type=x,dest=a",
                "output \"type=x,dest=a\": exporter \"x\" could not be found: the types are image, registry, oci, docker, tar, local and cacheonly",
            ),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }
}
