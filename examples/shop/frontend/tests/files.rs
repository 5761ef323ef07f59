//! The compose file is one that knarr takes, with and without the profile `redis`.

use knarr_compose::Options;
use std::path::Path;

#[test]
fn compose_file_is_taken() {
    for (name, profiles, services, store) in [
        ("plain", vec![], 6, "sqlite"),
        ("redis", vec!["redis".to_string()], 7, "redis"),
    ] {
        let options = Options {
            files: vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose.yaml")],
            profiles,
            ..Options::default()
        };
        let project = knarr_compose::load(&options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(project.name, "shop", "{name}");
        assert_eq!(project.services.len(), services, "{name}");
        assert_eq!(
            project.services["follow"].environment["SHOP_STORE"], store,
            "{name}"
        );
        assert_eq!(project.services["frontend"].mode.replicas(), 2, "{name}");
    }
}
