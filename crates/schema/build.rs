//! Makes the blob of descriptions that OpenAPI documents show, from k8s-openapi's schemas: no description text is in this repository.
//!
//! The blob is deflated UTF-8: for each type of `data/types.txt` its description, then its fields' in their order, each ended by a NUL.

use std::io::Write as _;
use std::path::PathBuf;

use schemars::SchemaGenerator;
use serde_json::Value;

/// Adds the schemas of the listed types, and of all that they refer to, to a generator.
macro_rules! described {
    ($($ty:ty,)*) => {
        fn describe(generator: &mut SchemaGenerator) {
            $( let _ = generator.subschema_for::<$ty>(); )*
        }
    };
}

include!("data/described.rs");

/// Types that the table has as words; their descriptions follow the table's, in this order (`Scalar::named`).
const BUILT_IN: &[&str] = &[
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=data");
    let mut generator = SchemaGenerator::default();
    describe(&mut generator);
    let schemas = generator.definitions();
    let table = std::fs::read_to_string("data/types.txt")?;
    let path = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptions.deflate");
    let mut out = flate2::write::DeflateEncoder::new(
        std::fs::File::create(path)?,
        flate2::Compression::best(),
    );
    let mut current = &Value::Null;
    for line in table
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let description = if let Some(field) = line.strip_prefix(' ') {
            let name = field.split(' ').next().unwrap_or_default();
            &current["properties"][name]["description"]
        } else {
            let name = line.split(' ').next().unwrap_or_default();
            current = schemas.get(name).unwrap_or(&Value::Null);
            &current["description"]
        };
        out.write_all(description.as_str().unwrap_or_default().as_bytes())?;
        out.write_all(&[0])?;
    }
    for name in BUILT_IN {
        let description = schemas
            .get(*name)
            .map_or(&Value::Null, |s| &s["description"]);
        out.write_all(description.as_str().unwrap_or_default().as_bytes())?;
        out.write_all(&[0])?;
    }
    out.finish()?;
    Ok(())
}
