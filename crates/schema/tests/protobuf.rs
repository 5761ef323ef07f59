//! Protobuf bodies: each case has one object as JSON and as upstream (Kubernetes 1.36) encodes it; both must read the same.

use base64::Engine as _;
use knarr_schema::{decode, decode_protobuf, encode_protobuf, kind};
use serde_json::Value;

fn bytes(case: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(case["protobuf"].as_str().unwrap())
        .unwrap()
}

fn cases() -> Vec<Value> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/protobuf.json")).unwrap();
    assert!(cases.len() > 10);
    cases
}

#[test]
fn objects_read_the_same_from_protobuf_and_json() {
    for case in cases() {
        let name = &case["name"];
        let gvk: Vec<&str> = case["kind"].as_str().unwrap().split('/').collect();
        let ty = kind(gvk[0], gvk[1], gvk[2]).unwrap_or_else(|| panic!("{name}: no such kind"));
        let expected = decode(ty, case["json"].to_string().as_bytes())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (api_version, kind, value) =
            decode_protobuf(&bytes(&case)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(value, expected.value, "{name}");
        assert_eq!(
            (&*api_version, &*kind),
            (case["json"]["apiVersion"].as_str().unwrap(), gvk[2]),
            "{name}"
        );
    }
}

#[test]
fn what_is_encoded_reads_back_the_same() {
    for case in cases() {
        let name = &case["name"];
        let gvk: Vec<&str> = case["kind"].as_str().unwrap().split('/').collect();
        let (api_version, kind, want) = decode_protobuf(&bytes(&case)).unwrap();
        assert_eq!(kind, gvk[2]);
        let encoded = encode_protobuf(&api_version, &kind, want.to_string().as_bytes())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (_, _, got) = decode_protobuf(&encoded).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn lists_of_a_named_type_are_messages() {
    let json = r#"{"groupVersion":"v1","resources":[{"name":"pods","verbs":["get","list"]}]}"#;
    let encoded = encode_protobuf("v1", "APIResourceList", json.as_bytes()).unwrap();
    // apimachinery's generated.proto: APIResource.verbs = 4 is a Verbs, whose items = 1
    let verbs = b"\x22\x0b\x0a\x03get\x0a\x04list";
    assert!(encoded.windows(verbs.len()).any(|w| w == verbs));
    let (_, _, read) = decode_protobuf(&encoded).unwrap();
    assert_eq!(
        read["resources"][0]["verbs"],
        serde_json::json!(["get", "list"])
    );
}

#[test]
fn cut_and_changed_bytes_are_errors_or_objects_but_never_panics() {
    for case in cases() {
        let bytes = bytes(&case);
        let mut refused = 0;
        for length in 0..bytes.len() {
            refused += usize::from(decode_protobuf(&bytes[..length]).is_err());
        }
        // The envelope ends in two empty fields of two bytes each, which may be missing.
        assert_eq!(
            refused,
            bytes.len() - 3,
            "{}: cuts are noticed",
            case["name"]
        );
        for at in 4..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let _ = decode_protobuf(&changed);
        }
    }
}

#[test]
fn what_is_no_envelope_is_told() {
    let check = |bytes: &[u8], words: &str| {
        let error = decode_protobuf(bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(b"{}", "does not appear to be a protobuf message");
    check(b"", "empty data");
    check(b"k8s\0", "empty body");
    check(
        b"k8s\0\x0a\x0a\x0a\x02v1\x12\x04Spam\x12\x00",
        "no kind \"Spam\" is registered for version \"v1\"",
    );
}

/// `metav1.Time.Unmarshal`: a Secret's creation time, its bytes as they are after `metadata.creationTimestamp`'s tag.
#[test]
fn times_of_zero_are_1970_and_times_of_nothing_are_none() {
    let check = |time: &[u8], expected: Option<&str>| {
        let len = |bytes: &[u8]| bytes.len() as u8;
        let meta = [&[0x42, len(time)], time].concat();
        let secret = [&[0x0a, len(&meta)], meta.as_slice()].concat();
        let kind = b"\x0a\x02v1\x12\x06Secret";
        let mut whole = b"k8s\0".to_vec();
        whole.extend([0x0a, len(kind)]);
        whole.extend(kind);
        whole.extend([0x12, len(&secret)]);
        whole.extend(&secret);
        let (api_version, kind, value) = knarr_schema::decode_protobuf(&whole).unwrap();
        assert_eq!(
            value["metadata"]["creationTimestamp"].as_str(),
            expected,
            "{time:?}"
        );
        let again =
            knarr_schema::encode_protobuf(&api_version, &kind, value.to_string().as_bytes());
        let (.., again) = knarr_schema::decode_protobuf(&again.unwrap()).unwrap();
        assert_eq!(again, value, "{time:?}");
    };
    check(&[], None);
    check(&[0x08, 0x00, 0x10, 0x00], Some("1970-01-01T00:00:00Z"));
    // only the fraction, which a Time does not have
    check(&[0x10, 0x05], Some("1970-01-01T00:00:00Z"));
    check(&[0x08, 0x01], Some("1970-01-01T00:00:01Z"));
}
