//! Strategic merge patches: each case has what upstream's `strategicpatch.StrategicMergePatch` (Kubernetes 1.36) makes of it.

use knarr_schema::{kind, strategic_merge};
use serde_json::Value;

#[test]
fn patches_merge_as_upstream() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("data/strategic_merge.json")).unwrap();
    assert!(cases.len() > 35);
    for case in &cases {
        let name = &case["name"];
        let gvk: Vec<&str> = case["kind"].as_str().unwrap().split('/').collect();
        let ty = kind(gvk[0], gvk[1], gvk[2]).unwrap_or_else(|| panic!("{name}: no such kind"));
        match strategic_merge(ty, &case["original"], &case["patch"]) {
            Ok(value) => assert_eq!(value, case["becomes"], "{name}"),
            Err(e) => assert_eq!(
                e.to_string(),
                case["error"].as_str().unwrap_or("no error"),
                "{name}"
            ),
        }
    }
}
