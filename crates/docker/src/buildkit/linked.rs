//! A build's result as the context of another (`contexts: {base: target:…}` of bake): the client keeps what we answer as a
//! graph and sends it back. Ours says no more than the image that was built.
//!
//! SOURCE: docker/buildx `build/build.go` waitContextDeps, moby/buildkit `client/llb/definition.go`, `solver/pb/ops.proto`

use knarr_grpc::proto::{Message, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const SCHEME: &str = "docker-image://";
/// What an image is called that has no name: its digest is what counts.
const NAME: &str = "knarr.local/build";

/// `pb.Definition` of an image that was built.
pub fn definition(digest: &str) -> Message {
    let identifier = format!("{SCHEME}{NAME}@{digest}");
    let source = Message::default().message(3, &Message::default().text(1, &identifier));
    let sum = format!("sha256:{}", hex::encode(Sha256::digest(source.as_bytes())));
    // the last one says which of the others is the result
    let last = Message::default().message(1, &Message::default().text(1, &sum));
    // clients take a graph without anything about its parts for none at all
    let about = Message::default()
        .text(1, &sum)
        .message(2, &Message::default());
    Message::default()
        .message(1, &source)
        .message(1, &last)
        .message(2, &about)
}

/// The image of a definition that is nothing else; None: it's a graph.
pub fn image(definition: Value<'_>) -> Option<String> {
    let mut found = None;
    for (_, op) in definition.fields().filter(|(field, _)| *field == 1) {
        for (field, value) in op.fields() {
            match field {
                3 => {
                    let mut source = value.fields();
                    let (_, identifier) = source.find(|(field, _)| *field == 1)?;
                    let identifier = identifier.text();
                    let name = identifier.strip_prefix(SCHEME)?;
                    if found.replace(name.to_string()).is_some() {
                        return None;
                    }
                }
                // exec, file, build, merge, diff
                2 | 4..=7 => return None,
                _ => {}
            }
        }
    }
    found
}

/// `FrontendInputs`: by name, the images that they are.
pub fn input(entry: Value<'_>, all: &mut BTreeMap<String, Option<String>>) {
    let (mut name, mut of) = (String::new(), None);
    for (field, value) in entry.fields() {
        match field {
            1 => name = value.text(),
            2 => of = image(value),
            _ => {}
        }
    }
    all.insert(name, of);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_out_comes_back() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let sent = definition(&digest);
        let back = image(Value::Bytes(sent.as_bytes()));
        assert_eq!(back, Some(format!("{NAME}@{digest}")));
        let entry = Message::default().text(1, "base").message(2, &sent);
        let mut all = BTreeMap::new();
        input(Value::Bytes(entry.as_bytes()), &mut all);
        assert_eq!(all["base"], back);
    }

    #[test]
    fn a_graph_is_no_image() {
        let exec = Message::default().message(2, &Message::default());
        let graph = Message::default().message(1, &exec);
        assert_eq!(image(Value::Bytes(graph.as_bytes())), None);
    }
}
