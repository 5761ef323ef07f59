//! Each rule of the specification as a case: requests in a row, and what each is answered.

mod blobs;
#[path = "../common/mod.rs"]
mod common;
mod lists;
mod manifests;

use common::{Asked, World, blob, digest, image, referrer, sha512};

fn check(name: &str, steps: Vec<Asked>) {
    let world = World::new();
    world.run(name, steps);
}

fn get(path: impl Into<String>) -> Asked {
    Asked::new("GET", path)
}
fn head(path: impl Into<String>) -> Asked {
    Asked::new("HEAD", path)
}
fn put(path: impl Into<String>) -> Asked {
    Asked::new("PUT", path)
}
fn post(path: impl Into<String>) -> Asked {
    Asked::new("POST", path)
}
fn patch(path: impl Into<String>) -> Asked {
    Asked::new("PATCH", path)
}
fn delete(path: impl Into<String>) -> Asked {
    Asked::new("DELETE", path)
}

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Pushes a blob in one request.
fn pushed(repository: &str, content: &[u8]) -> Asked {
    post(format!(
        "/v2/{repository}/blobs/uploads/?digest={}",
        digest(content)
    ))
    .body(content)
    .status(201)
}

/// Pushes an image of one layer under a tag.
fn pushed_image(repository: &str, tag: &str, layer: &[u8]) -> Vec<Asked> {
    let (config, manifest) = image(layer);
    vec![
        pushed(repository, layer),
        pushed(repository, &config),
        put(format!("/v2/{repository}/manifests/{tag}"))
            .header("content-type", OCI)
            .body(&manifest)
            .status(201),
    ]
}

#[test]
fn pages_that_browsers_were_led_to_get_nothing() {
    let content = blob(10);
    for (host, status) in [
        ("localhost:5000", 200),
        ("127.0.0.1:5000", 200),
        ("[::1]:5000", 200),
        ("app.localhost", 200),
        ("registry.test:5000", 200),
        ("evil.example", 403),
        ("registry.test", 403),
        ("", 403),
    ] {
        let at = format!("/v2/a/blobs/{}", digest(&content));
        let step = get(at).header("host", host).status(status);
        check(host, vec![pushed("a", &content), step]);
    }
}
