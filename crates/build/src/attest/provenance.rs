//! How an image was made, by SLSA's provenance, v1 and v0.2 (buildkit docs/attestations/slsa-definitions.md).

use super::{Predicate, Provenance};
use base64::Engine as _;
use serde_json::{Map, Value, json};

const V1: &str = "https://slsa.dev/provenance/v1";
const V02: &str = "https://slsa.dev/provenance/v0.2";
const TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

/// What a build knows of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// `linux/amd64`
    pub builder_platform: String,
    /// Where the context came from, when not from a folder.
    pub context: Option<String>,
    /// The Dockerfile's name and text.
    pub dockerfile: (String, String),
    /// `build-arg:…`, `label:…`, `target`
    pub arguments: Vec<(String, String)>,
    pub secrets: Vec<String>,
    pub ssh: Vec<String>,
    /// Package URLs or URLs, each with its digest `ALGORITHM:HEX`.
    pub materials: Vec<(String, String)>,
    pub invocation: String,
    /// RFC 3339
    pub started: String,
    pub finished: String,
    /// All that was used is among the materials.
    pub complete: bool,
}

pub(crate) fn predicate(wanted: &Provenance, facts: &Facts) -> Predicate {
    let materials = facts.materials.iter().map(|(uri, digest)| {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
        json!({"uri": uri, "digest": {algorithm: hex}})
    });
    let materials = materials.collect::<Vec<_>>();
    let request = request(wanted, facts);
    let metadata = match wanted.max {
        true => {
            let (name, text) = &facts.dockerfile;
            let data = base64::engine::general_purpose::STANDARD.encode(text);
            json!({"source": {"infos": [{"filename": name, "language": "Dockerfile", "data": data}]}})
        }
        false => json!({}),
    };
    let value = match wanted.old {
        false => v1(wanted, facts, request, materials, metadata),
        true => v02(wanted, facts, request, materials, metadata),
    };
    let uri = if wanted.old { V02 } else { V1 };
    Predicate {
        uri: uri.into(),
        value,
    }
}

fn request(wanted: &Provenance, facts: &Facts) -> Value {
    // values of build arguments may be secrets
    let shown = |(key, _): &&(String, String)| wanted.max || !key.starts_with("build-arg:");
    let arguments: Map<String, Value> = facts
        .arguments
        .iter()
        .filter(shown)
        .map(|(k, v)| (k.clone(), v.clone().into()))
        .collect();
    let mut request = json!({"frontend": "dockerfile.v0", "args": arguments});
    if facts.context.is_none() {
        request["locals"] = json!([{"name": "context"}, {"name": "dockerfile"}]);
    }
    if wanted.max {
        let ids = |all: &[String]| all.iter().map(|id| json!({"id": id})).collect::<Vec<_>>();
        for (key, all) in [("secrets", &facts.secrets), ("ssh", &facts.ssh)] {
            if !all.is_empty() {
                request[key] = ids(all).into();
            }
        }
    }
    request
}

fn v1(
    wanted: &Provenance,
    facts: &Facts,
    request: Value,
    materials: Vec<Value>,
    metadata: Value,
) -> Value {
    let mut source = json!({"path": facts.dockerfile.0});
    if let Some(uri) = &facts.context {
        source["uri"] = uri.clone().into();
    }
    json!({
        "buildDefinition": {
            "buildType": TYPE_V1,
            "externalParameters": {"configSource": source, "request": request},
            "internalParameters": {"builderPlatform": facts.builder_platform},
            "resolvedDependencies": materials,
        },
        "runDetails": {
            "builder": {"id": wanted.builder},
            "metadata": {
                "invocationId": facts.invocation,
                "startedOn": facts.started,
                "finishedOn": facts.finished,
                "buildkit_metadata": metadata,
                "buildkit_completeness": {
                    "request": wanted.max,
                    "resolvedDependencies": facts.complete,
                },
                "buildkit_reproducible": wanted.reproducible,
            },
        },
    })
}

fn v02(
    wanted: &Provenance,
    facts: &Facts,
    request: Value,
    materials: Vec<Value>,
    metadata: Value,
) -> Value {
    let mut source = json!({"entryPoint": facts.dockerfile.0});
    if let Some(uri) = &facts.context {
        source["uri"] = uri.clone().into();
    }
    json!({
        "builder": {"id": wanted.builder},
        "buildType": TYPE_V02,
        "materials": materials,
        "invocation": {
            "configSource": source,
            "parameters": request,
            "environment": {"platform": facts.builder_platform},
        },
        "metadata": {
            "buildInvocationID": facts.invocation,
            "buildStartedOn": facts.started,
            "buildFinishedOn": facts.finished,
            "completeness": {
                "parameters": wanted.max,
                "environment": true,
                "materials": facts.complete,
            },
            "reproducible": wanted.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": metadata,
        },
    })
}
