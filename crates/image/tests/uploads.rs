//! Pushes whose uploads break off. Needs root: layers keep owners.

#[allow(dead_code)]
mod common;

use common::{
    Fault, Registry,
    images::{make_of, pulling, pushing, store},
};
use knarr_image::client::{PushOptions, Silent};
use std::io::Read;

/// Of the one layer: more than goes in one request.
const BYTES: usize = 3 << 20;

struct Case {
    name: &'static str,
    /// What the first request with bytes meets.
    fault: Option<Fault>,
    /// The layer was pushed elsewhere before, so that its digest is known.
    known: bool,
    chunk_bytes: Option<u64>,
    no_streams: bool,
    /// How many uploads are begun for the layer.
    begun: usize,
    /// The layer's bytes go out again from their start.
    again: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_the_registry_is() {
    let plain = || Case {
        name: "nothing breaks",
        fault: None,
        known: false,
        chunk_bytes: None,
        no_streams: false,
        begun: 1,
        again: false,
    };
    let took = Some(Fault::Took(2_000_000));
    for case in [
        plain(),
        Case {
            name: "while it is compressed",
            fault: took.clone(),
            ..plain()
        },
        Case {
            name: "its digest is known",
            fault: took.clone(),
            known: true,
            ..plain()
        },
        Case {
            name: "in pieces",
            fault: Some(Fault::Took(300_000)),
            chunk_bytes: Some(1 << 20),
            ..plain()
        },
        Case {
            name: "nothing of it came",
            fault: Some(Fault::Took(0)),
            begun: 2,
            again: true,
            ..plain()
        },
        Case {
            name: "the upload is forgotten",
            fault: Some(Fault::Status(404)),
            begun: 2,
            again: true,
            ..plain()
        },
        Case {
            name: "no streams are taken",
            no_streams: true,
            begun: 3,
            again: true,
            ..plain()
        },
    ] {
        check(case).await;
    }
}

async fn check(case: Case) {
    let what = case.name;
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let source = store(&dir.path().join("source"));
    let image = make_of(dir.path(), &source, "app:1", 1, BYTES);
    if case.known {
        let other = Registry::start().await;
        let to = format!("{}/app:1", other.host());
        source
            .push("app:1", &to, &pushing(), &Silent)
            .await
            .unwrap();
    }
    if let Some(fault) = case.fault {
        registry.fault("uploads/u", fault);
    }
    registry.with(|r| r.no_streams = case.no_streams);
    let options = PushOptions {
        chunk_bytes: case.chunk_bytes,
        ..pushing()
    };
    let name = format!("{}/app:1", registry.host());
    source
        .push("app:1", &name, &options, &Silent)
        .await
        .expect(what);
    // one upload is the config's
    assert_eq!(
        registry.count("POST", "/blobs/uploads/"),
        case.begun + 1,
        "{what}"
    );
    let (taken, sizes) =
        registry.with(|r| (r.taken, r.blobs.values().map(|b| b.len()).sum::<usize>()));
    assert!(sizes > 2_000_000, "{what}: the layer compresses to {sizes}");
    match &case.name {
        // what came before it broke off isn't counted as taken, and didn't come again
        _ if !case.again && what != "nothing breaks" => {
            assert!(taken < sizes, "{what}: {taken} of {sizes} bytes")
        }
        _ => assert_eq!(taken, sizes, "{what}"),
    }
    let target = store(&dir.path().join("target"));
    let pulled = target.pull(&name, &pulling(), &Silent).await.expect(what);
    assert_eq!(pulled.id, image.id, "{what}");
    let layer = &target.layer_infos(&pulled).unwrap()[0];
    let mut bytes = Vec::new();
    let mut blob = target.open_blob(&layer.diff_id).unwrap().unwrap();
    blob.content.read_to_end(&mut bytes).unwrap();
    assert_eq!(common::digest(&bytes), layer.diff_id, "{what}");
}
