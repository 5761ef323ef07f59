//! What is made of a build's result: names for the image, pushes, and files for the client.
//!
//! SOURCE: moby/buildkit `exporter/containerimage/{opts,exptypes}`, `exporter/{oci,local,tar}`, docker/buildx `build/opt.go`

use super::{
    caches::packing,
    content::Store,
    request::{Export, refused},
    send,
    session::Session,
};
use base64::Engine;
use knarr_build::{BuildRequest, Built, Output, OutputKind};
use knarr_grpc::{Status, code, proto::Map};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// One output that the client gets.
pub struct Handed {
    /// Its number among the build's exports.
    pub number: usize,
    kind: String,
    path: PathBuf,
    /// A layout in a store of the client's.
    stored: bool,
}

fn flag(attrs: &Map, key: &str) -> Result<bool, Status> {
    match attrs.get(key).map(String::as_str) {
        None | Some("" | "false" | "0" | "f") => Ok(false),
        Some("true" | "1" | "t") => Ok(true),
        Some(other) => Err(Status::new(
            code::INVALID_ARGUMENT,
            format!("non-bool value specified for {key}: {other:?}"),
        )),
    }
}

/// `annotation[-KIND][[PLATFORM]].KEY`
fn annotations(output: &mut Output, attrs: &Map) -> Result<(), Status> {
    for (name, value) in attrs {
        let Some(rest) = name.strip_prefix("annotation") else {
            continue;
        };
        let Some((kind, key)) = rest.split_once('.') else {
            continue;
        };
        let kind = match kind.trim_start_matches('-') {
            "" => "manifest",
            kind => kind,
        };
        let added = output.annotations.add(&format!("{kind}:{key}={value}"));
        added.map_err(|why| Status::new(code::INVALID_ARGUMENT, why))?;
    }
    Ok(())
}

/// Puts what is wanted into the request; gives what the client then gets as files.
///
/// # Errors
/// By name, for what can't be had.
pub fn wanted(
    request: &mut BuildRequest,
    exports: &[Export],
    temp: &Path,
) -> Result<Vec<Handed>, Status> {
    let mut files = Vec::new();
    request.not_stored = true;
    for (number, export) in exports.iter().enumerate() {
        let attrs = &export.attrs;
        let attr = |key: &str| attrs.get(key).map(String::as_str).unwrap_or_default();
        let names = attr("name").split(',').filter(|n| !n.is_empty());
        let names: Vec<String> = names.map(str::to_string).collect();
        let mut output = Output {
            compression: packing(attr("compression"))?,
            force_compression: flag(attrs, "force-compression")?,
            ..Output::default()
        };
        annotations(&mut output, attrs)?;
        for name in &names {
            knarr_image::normalize(name).map_err(Status::unknown)?;
        }
        output.kind = match export.kind.as_str() {
            "moby" | "image" => {
                request.not_stored = false;
                request.tags.extend(names);
                output.push = flag(attrs, "push")?;
                output.push_by_digest = flag(attrs, "push-by-digest")?;
                request.outputs.push(output);
                continue;
            }
            "local" => OutputKind::Local,
            "tar" => OutputKind::Tar,
            "oci" => OutputKind::Oci,
            "docker" => OutputKind::Docker,
            other => return Err(refused(format!("--output type={other}"))),
        };
        output.merged = attr("platform-split") == "false";
        output.names = names;
        // a layout goes to the client's store, blob by blob
        let stored = matches!(attr("tar"), "false" | "0" | "f")
            && matches!(output.kind, OutputKind::Oci | OutputKind::Docker);
        output.unpacked = stored;
        output.destination = temp.join(format!("output-{number}"));
        files.push(Handed {
            number,
            kind: export.kind.clone(),
            path: output.destination.clone(),
            stored,
        });
        request.outputs.push(output);
    }
    Ok(files)
}

/// Whether the image leaves this machine, by any of its outputs.
pub fn leaves(request: &BuildRequest) -> bool {
    let leaves = |o: &Output| o.push || matches!(o.kind, OutputKind::Oci | OutputKind::Docker);
    request.outputs.iter().any(leaves)
}

/// What the client is told of the image.
pub fn response(built: &Built) -> Map {
    let mut response = Map::new();
    let Some(image) = &built.image else {
        return response;
    };
    if !built.several {
        response.insert("containerimage.config.digest".into(), image.id.clone());
    }
    response.insert("containerimage.digest".into(), image.digest.clone());
    let descriptor = built.metadata["containerimage.descriptor"].to_string();
    let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor);
    response.insert("containerimage.descriptor".into(), descriptor);
    if let Some(names) = built.metadata["image.name"].as_str() {
        response.insert("image.name".into(), names.into());
    }
    response
}

impl Handed {
    pub fn title(&self) -> &'static str {
        match self.kind.as_str() {
            "local" => "exporting to client directory",
            _ => "exporting to client tarball",
        }
    }

    /// Gives it to the client.
    ///
    /// # Errors
    /// The client's.
    pub async fn give(&self, session: &Arc<Session>) -> Result<(), Status> {
        if self.stored {
            let store = Store::new(session, "export")?;
            return store.give(&self.path).await.map(drop);
        }
        match self.kind.as_str() {
            "local" => send::folder(session, self.number, &self.path).await,
            _ => send::archive(session, self.number, &self.path).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(kind: &str, attrs: &[(&str, &str)]) -> Export {
        let attrs = attrs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Export {
            kind: kind.into(),
            attrs: attrs.collect(),
        }
    }

    #[test]
    fn outputs_are_read() {
        let mut request = BuildRequest::default();
        let exports = [
            export(
                "moby",
                &[
                    ("name", "a:1,b:2"),
                    ("push", "true"),
                    ("annotation.x", "1"),
                    ("annotation-index.y", "2"),
                    ("annotation-manifest[linux/amd64].z", "3"),
                ],
            ),
            export("oci", &[("tar", "false"), ("compression", "zstd")]),
            export("local", &[("platform-split", "false")]),
        ];
        let files = wanted(&mut request, &exports, Path::new("/t")).unwrap();
        assert_eq!(request.tags, ["a:1", "b:2"]);
        assert!(!request.not_stored && leaves(&request));
        let [image, oci, local] = request.outputs.as_slice() else {
            panic!("{:?}", request.outputs);
        };
        assert!(image.push && image.kind == OutputKind::Image);
        assert_eq!(image.annotations.manifest["x"], "1");
        assert_eq!(image.annotations.manifest["z"], "3");
        assert_eq!(image.annotations.index["y"], "2");
        assert!(oci.unpacked && oci.compression == Some(knarr_build::Packing::Zstd));
        assert!(local.merged);
        let numbers: Vec<_> = files.iter().map(|f| (f.number, f.stored)).collect();
        assert_eq!(numbers, [(1, true), (2, false)]);
    }

    #[test]
    fn what_is_no_output_is_refused() {
        for (kind, attrs, want) in [
            ("gha", vec![], "--output type=gha is not supported by knarr"),
            (
                "image",
                vec![("push", "perhaps")],
                "non-bool value specified for push: \"perhaps\"",
            ),
            (
                "image",
                vec![("compression", "lz4")],
                "unsupported layer compression type: lz4",
            ),
        ] {
            let mut request = BuildRequest::default();
            let told = wanted(&mut request, &[export(kind, &attrs)], Path::new("/t"));
            let told = told.err().map(|e| e.message);
            assert_eq!(told.as_deref(), Some(want));
        }
    }
}
