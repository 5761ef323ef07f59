//! The index of roles and bindings, kept up to date from the store's events: whoever asks sees every write that was
//! answered before. Nothing runs while nobody asks.

use knarr_access::rbac::{GROUP, Kind, Rbac};
use knarr_store::{Cursor, Event, Store};

/// Events taken in at once.
const BATCH: usize = 256;

/// The index and the place in the event ring up to which it is true.
#[derive(Default)]
pub struct Roles {
    rbac: Rbac,
    cursor: Option<Cursor>,
}

fn prefix() -> String {
    format!("/registry/{GROUP}/")
}

/// Kind, namespace and name in `/registry/<group>/<plural>/[<namespace>/]<name>`.
fn place(key: &str) -> Option<(Kind, &str, &str)> {
    let rest = key.strip_prefix("/registry/")?.strip_prefix(GROUP)?;
    let (plural, rest) = rest.strip_prefix('/')?.split_once('/')?;
    let kind = Kind::of(plural)?;
    let (namespace, name) = match kind {
        Kind::Role | Kind::RoleBinding => rest.split_once('/')?,
        Kind::ClusterRole | Kind::ClusterRoleBinding => ("", rest),
    };
    Some((kind, namespace, name))
}

impl Roles {
    /// The index as of now.
    pub fn current(&mut self, store: &Store) -> &Rbac {
        loop {
            let Some(cursor) = &mut self.cursor else {
                self.fill(store);
                return &self.rbac;
            };
            match cursor.pending(BATCH) {
                Ok(events) if events.is_empty() => return &self.rbac,
                Ok(events) => events.iter().for_each(|e| self.take(e)),
                // nobody asked for so long that the ring has moved on
                Err(_) => self.cursor = None,
            }
        }
    }

    fn take(&mut self, event: &Event) {
        if let Some((kind, namespace, name)) = place(&event.key) {
            self.rbac
                .apply(kind, namespace, name, event.value.as_deref());
        }
    }

    fn fill(&mut self, store: &Store) {
        let snapshot = store.snapshot();
        let prefix = prefix();
        self.rbac = Rbac::default();
        for entry in snapshot.range(&prefix, None) {
            if let Some((kind, namespace, name)) = place(&entry.key) {
                self.rbac.apply(kind, namespace, name, Some(&entry.value));
            }
        }
        // the head can always be watched from; if it moved on in between, the next question fills again
        self.cursor = store.watch(&prefix, snapshot.revision()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let g = "/registry/rbac.authorization.k8s.io";
        let cases = [
            ("/roles/ns/a", Some((Kind::Role, "ns", "a"))),
            (
                "/rolebindings/ns/a:b",
                Some((Kind::RoleBinding, "ns", "a:b")),
            ),
            ("/clusterroles/a", Some((Kind::ClusterRole, "", "a"))),
            (
                "/clusterrolebindings/a",
                Some((Kind::ClusterRoleBinding, "", "a")),
            ),
            ("/others/a", None),
        ];
        for (key, want) in cases {
            assert_eq!(place(&format!("{g}{key}")), want, "{key}");
        }
    }
}
