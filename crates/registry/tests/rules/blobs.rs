//! Blobs: pulled, pushed, mounted from other repositories.

use crate::*;

#[test]
fn blobs_are_pulled() {
    let content = b"0123456789";
    let at = format!("/v2/a/blobs/{}", digest(content));
    let with = |step: Asked| vec![pushed("a", content), step];
    for (name, step) in [
        (
            "whole",
            get(&at)
                .status(200)
                .says("0123456789")
                .has("docker-content-digest", &digest(content)),
        ),
        (
            "length",
            head(&at).status(200).has("content-length", "10").says(""),
        ),
        (
            "part",
            get(&at)
                .header("range", "bytes=2-4")
                .status(206)
                .says("234")
                .has("content-range", "bytes 2-4/10"),
        ),
        (
            "rest",
            get(&at).header("range", "bytes=7-").status(206).says("789"),
        ),
        (
            "end",
            get(&at).header("range", "bytes=-2").status(206).says("89"),
        ),
        (
            "beyond",
            get(&at)
                .header("range", "bytes=10-")
                .status(416)
                .has("content-range", "bytes */10"),
        ),
        (
            "ranged head",
            head(&at)
                .header("range", "bytes=0-3")
                .status(206)
                .has("content-length", "4"),
        ),
        (
            "stale part",
            get(&at)
                .header("range", "bytes=2-4")
                .header("if-range", "\"x\"")
                .status(200),
        ),
        (
            "unchanged",
            get(&at)
                .header("if-none-match", format!("\"{}\"", digest(content)))
                .status(304),
        ),
        (
            "elsewhere",
            get(at.replace("/a/", "/b/"))
                .status(404)
                .code("BLOB_UNKNOWN"),
        ),
        (
            "missing",
            get(format!("/v2/a/blobs/{}", digest(b"x")))
                .status(404)
                .code("BLOB_UNKNOWN"),
        ),
        (
            "no digest",
            get("/v2/a/blobs/sha256:x")
                .status(400)
                .code("DIGEST_INVALID"),
        ),
        (
            "another algorithm",
            get("/v2/a/blobs/md5:x").status(400).code("DIGEST_INVALID"),
        ),
        (
            "no name",
            get("/v2/A/blobs/sha256:x").status(400).code("NAME_INVALID"),
        ),
        (
            "no method",
            put(&at)
                .status(405)
                .code("UNSUPPORTED")
                .has("allow", "GET, HEAD, DELETE"),
        ),
    ] {
        check(name, with(step));
    }
}

#[test]
fn blobs_are_pushed() {
    let content = b"0123456789";
    let d = digest(content);
    let at = format!("/v2/a/blobs/{d}");
    let begun = || post("/v2/a/blobs/uploads/").status(202).has("range", "0-0");
    let there = || get(&at).status(200).says("0123456789");
    let chunk =
        |range: &str, bytes: &[u8]| patch("{upload}").header("content-range", range).body(bytes);
    let end = || put(format!("{{upload}}?digest={d}"));
    for (name, steps) in [
        (
            "in one",
            vec![pushed("a", content).has("location", &at), there()],
        ),
        (
            "in two",
            vec![
                begun(),
                end().body(content).status(201).has("location", &at),
                there(),
            ],
        ),
        (
            "in chunks",
            vec![
                begun(),
                chunk("0-3", b"0123").status(202).has("range", "0-3"),
                chunk("4-9", b"456789").status(202).has("range", "0-9"),
                get("{upload}").status(204).has("range", "0-9"),
                end().status(201),
                there(),
            ],
        ),
        (
            "the last chunk with the end",
            vec![
                begun(),
                chunk("0-3", b"0123").status(202),
                end()
                    .header("content-range", "4-9")
                    .body(b"456789")
                    .status(201),
                there(),
            ],
        ),
        (
            "as a stream",
            vec![
                begun(),
                patch("{upload}").body(content).status(202),
                end().status(201),
                there(),
            ],
        ),
        (
            "chunks out of order",
            vec![
                begun(),
                chunk("4-9", b"456789").status(416).has("range", "0-0"),
                chunk("0-3", b"0123").status(202),
                chunk("0-3", b"0123").status(416).has("range", "0-3"),
                chunk("5-9", b"56789").status(416),
                end()
                    .header("content-range", "5-9")
                    .body(b"56789")
                    .status(416),
                chunk("4-9", b"456789").status(202),
                end().status(201),
                there(),
            ],
        ),
        (
            "a chunk of another size",
            vec![
                begun(),
                chunk("0-5", b"0123").status(400).code("SIZE_INVALID"),
                get("{upload}").status(204).has("range", "0-0"),
            ],
        ),
        (
            "no range",
            vec![
                begun(),
                chunk("x", b"0123").status(400).code("BLOB_UPLOAD_INVALID"),
            ],
        ),
        (
            "another content",
            vec![
                begun(),
                end().body(b"other").status(400).code("DIGEST_INVALID"),
                get(&at).status(404),
                get("{upload}").status(404).code("BLOB_UPLOAD_UNKNOWN"),
            ],
        ),
        (
            "another content in one",
            vec![
                post(format!("/v2/a/blobs/uploads/?digest={d}"))
                    .body(b"other")
                    .status(400)
                    .code("DIGEST_INVALID"),
                get(&at).status(404),
            ],
        ),
        (
            "without a digest",
            vec![
                begun(),
                put("{upload}")
                    .body(content)
                    .status(400)
                    .code("DIGEST_INVALID"),
            ],
        ),
        (
            "no algorithm",
            vec![
                post("/v2/a/blobs/uploads/?digest-algorithm=md5")
                    .status(400)
                    .code("DIGEST_INVALID"),
            ],
        ),
        (
            "cancelled",
            vec![
                begun(),
                delete("{upload}").status(204),
                get("{upload}").status(404).code("BLOB_UPLOAD_UNKNOWN"),
                end().body(content).status(404),
            ],
        ),
        (
            "in another repository",
            vec![
                begun(),
                patch("/v2/b/blobs/uploads/{id}").body(b"x").status(404),
            ],
        ),
        (
            "an upload that is none",
            vec![
                get("/v2/a/blobs/uploads/..").status(404),
                patch("/v2/a/blobs/uploads/x")
                    .status(404)
                    .code("BLOB_UPLOAD_UNKNOWN"),
            ],
        ),
        (
            "by sha512",
            vec![
                post(format!("/v2/a/blobs/uploads/?digest={}", sha512(content)))
                    .body(content)
                    .status(201)
                    .has("docker-content-digest", &sha512(content)),
                get(format!("/v2/a/blobs/{}", sha512(content)))
                    .status(200)
                    .says("0123456789"),
                get(&at).status(404),
            ],
        ),
        (
            "by sha512 in chunks that nobody announced",
            vec![
                begun(),
                patch("{upload}").body(content).status(202),
                put(format!("{{upload}}?digest={}", sha512(content))).status(201),
            ],
        ),
        (
            "nothing",
            vec![
                pushed("a", b""),
                get(format!("/v2/a/blobs/{}", digest(b"")))
                    .status(200)
                    .says("")
                    .has("content-length", "0"),
            ],
        ),
        (
            "deleted",
            vec![
                pushed("a", content),
                delete(&at).status(202),
                get(&at).status(404),
                delete(&at).status(404).code("BLOB_UNKNOWN"),
                pushed("a", content),
                there(),
            ],
        ),
    ] {
        check(name, steps);
    }
}

#[test]
fn blobs_are_mounted() {
    let content = b"0123456789";
    let d = digest(content);
    let there = get(format!("/v2/b/blobs/{d}")).status(200);
    for (name, steps) in [
        (
            "from a repository",
            vec![
                pushed("a", content),
                post(format!("/v2/b/blobs/uploads/?mount={d}&from=a"))
                    .status(201)
                    .has("location", &format!("/v2/b/blobs/{d}")),
                there.clone(),
            ],
        ),
        (
            "from wherever it is",
            vec![
                pushed("a", content),
                post(format!("/v2/b/blobs/uploads/?mount={d}")).status(201),
                there,
            ],
        ),
        (
            "what is not there",
            vec![
                pushed("a", content),
                post(format!("/v2/b/blobs/uploads/?mount={d}&from=c")).status(202),
                get("{upload}").status(204),
            ],
        ),
        (
            "what is nowhere",
            vec![post(format!("/v2/b/blobs/uploads/?mount={d}")).status(202)],
        ),
        (
            "from no name",
            vec![
                pushed("a", content),
                post(format!("/v2/b/blobs/uploads/?mount={d}&from=../a")).status(202),
            ],
        ),
        (
            "no digest",
            vec![
                post("/v2/b/blobs/uploads/?mount=x&from=a")
                    .status(400)
                    .code("DIGEST_INVALID"),
            ],
        ),
        (
            "stays when the source goes",
            vec![
                pushed("a", content),
                post(format!("/v2/b/blobs/uploads/?mount={d}&from=a")).status(201),
                delete(format!("/v2/a/blobs/{d}")).status(202),
                get(format!("/v2/a/blobs/{d}")).status(404),
                get(format!("/v2/b/blobs/{d}")).status(200),
            ],
        ),
    ] {
        check(name, steps);
    }
}
