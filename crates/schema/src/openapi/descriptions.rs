//! What types and fields are for, in upstream's words: inflated while a document is made, and dropped with it.

use std::io::Read as _;

use crate::types::{Field, Graph, Struct};

/// Made by `build.rs`: a NUL-ended text for each type and field of the table, then for each type that the table has as a word.
const BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

pub(crate) struct Descriptions {
    text: String,
    /// Where each text starts.
    starts: Vec<u32>,
    structs: usize,
    fields: usize,
}

impl Descriptions {
    pub(crate) fn load(graph: &Graph) -> Descriptions {
        let mut text = String::new();
        // The blob is part of the program; a test reads all of it.
        let _ = flate2::read::DeflateDecoder::new(BLOB).read_to_string(&mut text);
        let starts = std::iter::once(0)
            .chain(text.match_indices('\0').map(|(at, _)| at as u32 + 1))
            .collect();
        Descriptions {
            text,
            starts,
            structs: graph.structs.len(),
            fields: graph.fields.len(),
        }
    }

    /// Texts come in the table's order: a type before its fields.
    pub(crate) fn of_struct(&self, index: usize, s: &Struct) -> &str {
        self.at(index + usize::from(s.first_field))
    }

    /// `at` is the field's position in its struct.
    pub(crate) fn of_field(&self, index: usize, s: &Struct, at: usize, _: &Field) -> &str {
        self.at(index + usize::from(s.first_field) + 1 + at)
    }

    /// `at` is the type's position in `Scalar::named`.
    pub(crate) fn of_word(&self, at: usize) -> &str {
        self.at(self.structs + self.fields + at)
    }

    fn at(&self, index: usize) -> &str {
        let bounds = self.starts.get(index).zip(self.starts.get(index + 1));
        bounds
            .and_then(|(from, to)| self.text.get(*from as usize..*to as usize - 1))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::built_in;

    #[test]
    fn texts_belong_to_what_they_describe() {
        let graph = built_in();
        let descriptions = Descriptions::load(graph);
        assert_eq!(
            descriptions.starts.len() - 1,
            graph.structs.len() + graph.fields.len() + 12
        );
        let check = |name: &str, field: &str, words: &str| {
            let index = graph.structs.iter().position(|s| s.name == name).unwrap();
            let s = &graph.structs[index];
            let text = match graph.fields(s).iter().position(|f| f.name == field) {
                Some(at) => descriptions.of_field(index, s, at, &graph.fields(s)[at]),
                None => descriptions.of_struct(index, s),
            };
            assert!(text.contains(words), "{name}.{field}: {text}");
        };
        check(
            "io.k8s.api.core.v1.Pod",
            "",
            "Pod is a collection of containers",
        );
        check(
            "io.k8s.api.core.v1.PodSpec",
            "nodeName",
            "NodeName indicates in which node",
        );
        check(
            "io.k8s.api.apps.v1.DeploymentSpec",
            "replicas",
            "Number of desired pods",
        );
        check(
            "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.ServiceReference",
            "port",
            "port",
        );
        assert!(
            descriptions
                .of_word(0)
                .contains("Quantity is a fixed-point representation")
        );
    }
}
