//! Manifests: pushed, pulled, deleted.

use crate::*;

#[test]
fn manifests_are_pushed_and_pulled() {
    let (config, manifest) = image(b"layer");
    let d = digest(&manifest);
    let blobs = || vec![pushed("a", b"layer"), pushed("a", &config)];
    let after = |mut steps: Vec<Asked>, more: Vec<Asked>| {
        steps.extend(more);
        steps
    };
    let by = |reference: &str| format!("/v2/a/manifests/{reference}");
    let push = |reference: &str| {
        put(by(reference))
            .header("content-type", OCI)
            .body(&manifest)
    };
    let text = String::from_utf8(manifest.clone()).unwrap();
    let index = |child: &str, size: usize| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{OCI}","digest":"{child}","size":{size}}}]}}"#
        )
    };
    let good_index = index(&d, manifest.len());
    let push_index = |body: &str| {
        put(by("i"))
            .header("content-type", INDEX)
            .body(body.as_bytes())
    };
    for (name, steps) in [
        (
            "by tag",
            vec![
                push("1")
                    .status(201)
                    .has("location", &by(&d))
                    .has("docker-content-digest", &d),
                get(by("1"))
                    .status(200)
                    .says(&text)
                    .has("content-type", OCI),
                get(by(&d)).status(200).says(&text),
                head(by("1"))
                    .status(200)
                    .has("content-length", &manifest.len().to_string())
                    .says(""),
            ],
        ),
        (
            "by digest",
            vec![
                push(&d).status(201),
                get(by(&d)).status(200),
                get(by("1")).status(404).code("MANIFEST_UNKNOWN"),
            ],
        ),
        (
            "by digest with tags",
            vec![
                push(&format!("{d}?tag=1&tag=2"))
                    .status(201)
                    .has("oci-tag", "1")
                    .has("oci-tag", "2"),
                get(by("2")).status(200),
            ],
        ),
        (
            "with a tag that is none",
            vec![
                push(&format!("{d}?tag=.x"))
                    .status(400)
                    .code("MANIFEST_INVALID"),
                get(by(&d)).status(404),
            ],
        ),
        (
            "by sha512",
            vec![
                push(&sha512(&manifest)).status(201),
                get(by(&sha512(&manifest)))
                    .status(200)
                    .says(&text)
                    .has("docker-content-digest", &sha512(&manifest)),
            ],
        ),
        (
            "by another digest",
            vec![push(&digest(b"x")).status(400).code("DIGEST_INVALID")],
        ),
        (
            "by no digest",
            vec![push("sha256:x").status(400).code("DIGEST_INVALID")],
        ),
        (
            "by no tag",
            vec![
                push(".x").status(400).code("MANIFEST_INVALID"),
                get(by(".x")).status(404).code("MANIFEST_UNKNOWN"),
            ],
        ),
        (
            "as another type",
            vec![
                put(by("1"))
                    .header("content-type", INDEX)
                    .body(&manifest)
                    .status(400)
                    .code("MANIFEST_INVALID"),
            ],
        ),
        (
            "with parameters of its type",
            vec![
                put(by("1"))
                    .header("content-type", format!("{OCI}; charset=utf-8"))
                    .body(&manifest)
                    .status(201),
                get(by("1")).status(200).has("content-type", OCI),
            ],
        ),
        (
            "without a type",
            vec![
                put(by("1")).body(&manifest).status(201),
                get(by("1")).status(200).has("content-type", OCI),
            ],
        ),
        (
            "no JSON",
            vec![put(by("1")).body(b"{").status(400).code("MANIFEST_INVALID")],
        ),
        (
            "too large",
            vec![
                put(by("1"))
                    .body(&vec![b' '; (4 << 20) + 1])
                    .status(413)
                    .code("SIZE_INVALID"),
            ],
        ),
        (
            "moved",
            vec![
                push("1").status(201),
                push_index(&good_index).status(201),
                put(by("1"))
                    .header("content-type", INDEX)
                    .body(good_index.as_bytes())
                    .status(201),
                get(by("1")).status(200).has("content-type", INDEX),
                get(by(&d)).status(200),
            ],
        ),
        (
            "an index of what is not here",
            vec![
                push_index(&index(&digest(b"x"), 1))
                    .status(400)
                    .code("MANIFEST_BLOB_UNKNOWN"),
            ],
        ),
        (
            "an index that lies",
            vec![
                push(&d).status(201),
                push_index(&index(&d, 1))
                    .status(400)
                    .code("MANIFEST_INVALID"),
            ],
        ),
        (
            "accepted types",
            vec![
                push("1").status(201),
                get(by("1"))
                    .header("accept", INDEX)
                    .status(404)
                    .code("MANIFEST_UNKNOWN"),
                get(by("1"))
                    .header("accept", format!("{INDEX}, {OCI}"))
                    .status(200),
                get(by("1")).header("accept", "*/*").status(200),
                get(by(&d)).header("accept", INDEX).status(200),
            ],
        ),
        (
            "unchanged",
            vec![
                push("1").status(201),
                get(by("1"))
                    .header("if-none-match", format!("\"{d}\""))
                    .status(304),
            ],
        ),
        (
            "a tag deleted",
            vec![
                push("1").status(201),
                delete(by("1")).status(202),
                get(by("1")).status(404),
                get(by(&d)).status(200),
                delete(by("1")).status(404).code("MANIFEST_UNKNOWN"),
            ],
        ),
        (
            "deleted with its tags",
            vec![
                push("1").status(201),
                push("2").status(201),
                delete(by(&d)).status(202),
                get(by("1")).status(404),
                get(by("2")).status(404),
                get(by(&d)).status(404),
                delete(by(&d)).status(404),
            ],
        ),
        (
            "pushed again",
            vec![
                push("1").status(201),
                delete(by("1")).status(202),
                push("1").status(201),
                get(by("1")).status(200),
            ],
        ),
    ] {
        check(name, after(blobs(), steps));
    }
    for (name, steps) in [
        (
            "without its layer",
            vec![
                pushed("a", &config),
                push("1").status(400).code("MANIFEST_BLOB_UNKNOWN"),
                get(by("1")).status(404),
            ],
        ),
        (
            "with another repository's layer",
            vec![
                pushed("b", b"layer"),
                pushed("a", &config),
                push("1").status(400).code("MANIFEST_BLOB_UNKNOWN"),
            ],
        ),
        (
            "that lies about a size",
            vec![
                pushed("a", b"layer"),
                pushed("a", &config),
                put(by("1"))
                    .header("content-type", OCI)
                    .body(text.replace("\"size\":5", "\"size\":6").as_bytes())
                    .status(400)
                    .code("MANIFEST_INVALID"),
            ],
        ),
        (
            "deleting where nothing is",
            vec![delete("/v2/z/manifests/1").status(404).code("NAME_UNKNOWN")],
        ),
    ] {
        check(name, steps);
    }
}
