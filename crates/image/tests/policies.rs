//! Which images a policy lets in. Needs root: layers keep owners.

#[allow(dead_code)]
mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{
    Registry, digest,
    images::{config, make, pushing, store},
};
use knarr_image::client::{ClientConfig, PullOptions, Silent};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Signer {
        let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Signer(EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap())
    }

    /// `BEGIN PUBLIC KEY`, as `cosign.pub` is.
    fn pem(&self) -> String {
        let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
        let mut der = hex::decode(head).unwrap();
        der.extend_from_slice(self.0.public_key().as_ref());
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        )
    }

    fn sign(&self, bytes: &[u8]) -> String {
        STANDARD.encode(self.0.sign(&SystemRandom::new(), bytes).unwrap())
    }
}

/// Lays a signature of `of` beside the image, as cosign does.
fn attach(registry: &Registry, image: &str, of: &str, reference: &str, signer: &Signer) {
    let statement = json!({
        "critical": {
            "type": "cosign container image signature",
            "image": {"docker-manifest-digest": of},
            "identity": {"docker-reference": reference},
        },
        "optional": null,
    });
    let statement = serde_json::to_vec(&statement).unwrap();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [{
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest(&statement),
            "size": statement.len(),
            "annotations": {"dev.cosignproject.cosign/signature": signer.sign(&statement)},
        }],
    });
    registry.with(|r| {
        r.owners.push(("team/app".into(), digest(&statement)));
        r.blobs.insert(digest(&statement), statement.into());
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let kind = manifest["mediaType"].as_str().unwrap().to_string();
        let tag = format!("{}.sig", image.replace(':', "-"));
        r.manifests
            .insert(("team/app".into(), tag), (kind, bytes.into()));
    });
}

struct World {
    dir: tempfile::TempDir,
    registry: Registry,
    /// `HOST:PORT/team/app`.
    repository: String,
    digest: String,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let repository = format!("{}/team/app", registry.host());
    let source = store(&dir.path().join("source"));
    let name = format!("{repository}:1");
    make(dir.path(), &source, &name, 1);
    let pushed = source
        .push(&name, &name, &pushing(), &Silent)
        .await
        .unwrap();
    World {
        dir,
        registry,
        repository,
        digest: pushed.digest,
    }
}

impl World {
    async fn pull(&self, name: &str, policy: &Value) -> Result<(), String> {
        let file = self.dir.path().join("policy.json");
        fs::write(&file, policy.to_string()).unwrap();
        let target = self.dir.path().join("target");
        let _ = fs::remove_dir_all(&target);
        let options = PullOptions {
            config: ClientConfig {
                policies: vec![self.dir.path().join("none.json"), file],
                ..config()
            },
            ..PullOptions::default()
        };
        let target = store(&target);
        let pulled = target.pull(name, &options, &Silent).await;
        let listed = target.list().unwrap().len();
        assert_eq!(listed, usize::from(pulled.is_ok()), "{policy}");
        pulled.map(drop).map_err(|e| e.to_string())
    }

    fn key(&self, signer: &Signer) -> String {
        let path = self.dir.path().join("cosign.pub");
        fs::write(&path, signer.pem()).unwrap();
        path.display().to_string()
    }
}

fn holds(got: Result<(), String>, want: Result<(), &str>, what: &str) {
    match (got, want) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(part)) if error.contains(part) => {}
        (got, want) => panic!("{what}: {got:?}, not {want:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closest_scope_counts() {
    let world = world().await;
    let host = world.registry.host();
    let (yes, no) = (
        json!([{"type": "insecureAcceptAnything"}]),
        json!([{"type": "reject"}]),
    );
    let name = format!("{}:1", world.repository);
    let exact = format!("{}@{}", world.repository, world.digest);
    let with = |default: &Value, scopes: Value| json!({"default": default, "transports": {"docker": scopes}});
    let rejects = Err("rejects all images");
    for (what, policy, name, want) in [
        ("default", json!({"default": yes}), &name, Ok(())),
        ("default no", json!({"default": no}), &name, rejects),
        (
            "another transport",
            json!({"default": no, "transports": {"dir": {"": yes}}}),
            &name,
            rejects,
        ),
        ("transport", with(&no, json!({"": yes})), &name, Ok(())),
        ("registry", with(&no, json!({&host: yes})), &name, Ok(())),
        (
            "namespace",
            with(&yes, json!({format!("{host}/team"): no, &host: yes})),
            &name,
            rejects,
        ),
        (
            "half a word",
            with(&no, json!({format!("{host}/te"): yes})),
            &name,
            rejects,
        ),
        (
            "repository",
            with(&no, json!({&world.repository: yes, &host: no})),
            &name,
            Ok(()),
        ),
        (
            "tag",
            with(&no, json!({&name: yes, &world.repository: no})),
            &name,
            Ok(()),
        ),
        (
            "another tag",
            with(&no, json!({format!("{}:2", world.repository): yes})),
            &name,
            rejects,
        ),
        ("digest", with(&no, json!({&exact: yes})), &exact, Ok(())),
        (
            "below a domain",
            with(&yes, json!({"*.0.0.1:1": no})),
            &name,
            Ok(()),
        ),
        (
            "wildcard",
            with(&yes, json!({format!("*.{}", &host[4..]): no})),
            &name,
            rejects,
        ),
        (
            "both",
            json!({"default": [{"type": "insecureAcceptAnything"}, {"type": "reject"}]}),
            &name,
            rejects,
        ),
        (
            "GPG",
            json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]}),
            &name,
            Err("signedBy asks for a GPG signature"),
        ),
        (
            "no default",
            json!({"transports": {}}),
            &name,
            Err("missing field `default`"),
        ),
        (
            "empty",
            json!({"default": []}),
            &name,
            Err("a list of requirements is empty"),
        ),
        (
            "unknown",
            json!({"default": [{"type": "maybe"}]}),
            &name,
            Err("unknown variant `maybe`"),
        ),
        (
            "misspelt",
            json!({"default": yes, "transport": {}}),
            &name,
            Err("unknown field `transport`"),
        ),
    ] {
        holds(world.pull(name, &policy).await, want, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_by_the_key_for_the_image() {
    let world = world().await;
    let (signer, other) = (Signer::new(), Signer::new());
    let key = world.key(&signer);
    let tag = format!("{}:1", world.repository);
    let exact = format!("{}@{}", world.repository, world.digest);
    let policy = |identity: Value| {
        let mut requirement = json!({"type": "sigstoreSigned", "keyPath": key});
        if !identity.is_null() {
            requirement["signedIdentity"] = identity;
        }
        json!({"default": [requirement]})
    };
    let none = world.pull(&tag, &policy(Value::Null)).await;
    holds(
        none,
        Err("A signature was required, but no signature exists"),
        "no signature",
    );

    let elsewhere = format!("sha256:{}", "0".repeat(64));
    let repository = json!({"type": "matchRepository"});
    let refused = Err("is not accepted");
    let of = |name: &str| json!({"type": "exactRepository", "dockerRepository": name});
    for (what, signed, reference, by, identity, name, want) in [
        (
            "the tag",
            &world.digest,
            tag.as_str(),
            &signer,
            Value::Null,
            &tag,
            Ok(()),
        ),
        (
            "by digest",
            &world.digest,
            &tag,
            &signer,
            Value::Null,
            &exact,
            Ok(()),
        ),
        (
            "by another",
            &world.digest,
            &tag,
            &other,
            Value::Null,
            &tag,
            Err("cryptographic signature verification failed"),
        ),
        (
            "of another image",
            &elsewhere,
            &tag,
            &signer,
            Value::Null,
            &tag,
            Err("does not match"),
        ),
        (
            "cosign names no tag",
            &world.digest,
            &world.repository,
            &signer,
            Value::Null,
            &tag,
            refused,
        ),
        (
            "the repository",
            &world.digest,
            &world.repository,
            &signer,
            repository.clone(),
            &tag,
            Ok(()),
        ),
        (
            "another repository",
            &world.digest,
            "r.example/x",
            &signer,
            repository,
            &tag,
            refused,
        ),
        (
            "as was said",
            &world.digest,
            "r.example/x:3",
            &signer,
            of("r.example/x"),
            &tag,
            Ok(()),
        ),
        (
            "exactly",
            &world.digest,
            "x:3",
            &signer,
            json!({"type": "exactReference", "dockerReference": "docker.io/library/x:3"}),
            &tag,
            Ok(()),
        ),
        (
            "not exactly",
            &world.digest,
            "x:4",
            &signer,
            json!({"type": "exactReference", "dockerReference": "docker.io/library/x:3"}),
            &tag,
            refused,
        ),
        (
            "exact and by digest",
            &world.digest,
            &tag,
            &signer,
            json!({"type": "matchExact"}),
            &exact,
            refused,
        ),
        (
            "a mirror",
            &world.digest,
            "up.example/app:1",
            &signer,
            json!({"type": "remapIdentity", "prefix": format!("{}/team", world.registry.host()), "signedPrefix": "up.example"}),
            &tag,
            Ok(()),
        ),
    ] {
        attach(&world.registry, &world.digest, signed, reference, by);
        holds(world.pull(name, &policy(identity)).await, want, what);
    }
    let two = json!({"default": [
        {"type": "sigstoreSigned", "keyData": STANDARD.encode(signer.pem())},
        {"type": "sigstoreSigned", "keyData": STANDARD.encode(other.pem())},
    ]});
    attach(&world.registry, &world.digest, &world.digest, &tag, &signer);
    holds(
        world.pull(&tag, &two).await,
        Err("verification failed"),
        "both must have signed",
    );
    let either = json!({"default": [{"type": "sigstoreSigned", "keyDatas": [STANDARD.encode(other.pem()), STANDARD.encode(signer.pem())]}]});
    holds(
        world.pull(&tag, &either).await,
        Ok(()),
        "either may have signed",
    );
    for (requirement, want) in [
        (json!({"type": "sigstoreSigned"}), "exactly one of keyPath"),
        (
            json!({"type": "sigstoreSigned", "keyPath": "/nowhere"}),
            "/nowhere",
        ),
        (
            json!({"type": "sigstoreSigned", "keyData": STANDARD.encode("x")}),
            "no public key in PEM",
        ),
        (
            json!({"type": "sigstoreSigned", "fulcio": {}}),
            "asks for fulcio",
        ),
        (
            json!({"type": "sigstoreSigned", "key": "x"}),
            "unknown field `key`",
        ),
    ] {
        holds(
            world.pull(&tag, &json!({"default": [requirement]})).await,
            Err(want),
            want,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_counts_by_its_own_signature_or_its_images() {
    let world = world().await;
    let signer = Signer::new();
    let key = world.key(&signer);
    let manifest = world
        .registry
        .with(|r| r.manifests[&("team/app".to_string(), "1".to_string())].clone());
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": manifest.0, "digest": world.digest, "size": manifest.1.len(),
            "platform": {"os": "linux", "architecture": architecture},
        }],
    });
    let bytes = serde_json::to_vec(&index).unwrap();
    let whole = digest(&bytes);
    world.registry.with(|r| {
        let entry = (
            index["mediaType"].as_str().unwrap().to_string(),
            bytes.into(),
        );
        r.manifests
            .insert(("team/app".into(), "many".into()), entry);
    });
    let name = format!("{}:many", world.repository);
    let policy = json!({"default": [{"type": "sigstoreSigned", "keyPath": key}]});
    holds(
        world.pull(&name, &policy).await,
        Err("A signature was required"),
        "unsigned",
    );
    for (what, signed) in [("the image", &world.digest), ("the index", &whole)] {
        attach(&world.registry, signed, signed, &name, &signer);
        holds(world.pull(&name, &policy).await, Ok(()), what);
        world
            .registry
            .with(|r| r.manifests.retain(|(_, tag), _| !tag.ends_with(".sig")));
    }
}

/// The file that is named must be there.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_missing_lets_nothing_in() {
    let world = world().await;
    let options = PullOptions {
        config: ClientConfig {
            signature_policy: Some(Path::new("/nowhere/policy.json").into()),
            ..config()
        },
        ..PullOptions::default()
    };
    let target = store(&world.dir.path().join("target"));
    let name = format!("{}:1", world.repository);
    let error = target.pull(&name, &options, &Silent).await.unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/policy.json"),
        "{error}"
    );
}
