//! Which questions there are. SOURCE: buildkit `frontend/subrequests/describe.go`

use super::{Answer, VERSION, go_json, table::table};
use serde::Serialize;

/// Name, what it is, what is given back. `frontend.lint` is not told there either.
const KNOWN: [(&str, &str, &[&str]); 3] = [
    (
        "frontend.outline",
        "List all parameters current build target supports",
        &["result.json", "result.txt"],
    ),
    (
        "frontend.targets",
        "List all targets current build supports",
        &["result.json", "result.txt"],
    ),
    (
        "frontend.subrequests.describe",
        "List available subrequest types",
        &["result.json", "result.txt"],
    ),
];

#[derive(Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

#[derive(Serialize)]
struct Request {
    name: &'static str,
    version: &'static str,
    r#type: &'static str,
    description: &'static str,
    opts: Option<Vec<Named>>,
    inputs: Option<Vec<Named>>,
    metadata: Vec<Named>,
    refs: Option<Vec<Named>>,
}

/// The questions that are answered.
pub fn describe() -> Answer {
    let named = |name, description| Named { name, description };
    let one = |(name, description, metadata): (_, _, &'static [&'static str])| Request {
        name,
        version: VERSION,
        r#type: "rpc",
        description,
        opts: match name {
            "frontend.outline" => Some(vec![named("target", "Target build stage")]),
            "frontend.subrequests.describe" => None,
            _ => Some(vec![]),
        },
        inputs: None,
        metadata: metadata.iter().map(|m| named(m, "")).collect(),
        refs: None,
    };
    let all = KNOWN.map(one);
    let mut rows = vec![
        ["NAME", "VERSION", "DESCRIPTION"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(KNOWN.map(|(name, about, _)| {
        let name = name.strip_prefix("frontend.").unwrap_or(name);
        [name, VERSION, about].map(str::to_owned).to_vec()
    }));
    Answer {
        json: go_json(&all),
        text: table(1, &rows),
        warnings: 0,
        status: 0,
        error: None,
    }
}
