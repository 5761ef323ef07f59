//! Writes of the server's own: changes to objects that it keeps for everybody.

use serde_json::Value;

use crate::{
    identity::Identity,
    query::WriteOptions,
    registry::Resource,
    server::Inner,
    status::Failure,
    write::{Change, Part, Write},
};

/// Like [`change`]; an object that isn't there is none to be changed.
pub async fn change_if_there(
    inner: &Inner,
    r: &Resource,
    place: (&str, &str),
    part: Part,
    manager: &str,
    edit: impl Fn(&mut Value),
) -> Result<(), Failure> {
    match change(inner, r, place, part, manager, edit).await {
        Err(f) if f.code() != 404 => Err(f),
        _ => Ok(()),
    }
}

/// Changes the object of this namespace and name for `manager`; the newest one when somebody else writes at the same time.
pub async fn change(
    inner: &Inner,
    r: &Resource,
    (namespace, name): (&str, &str),
    part: Part,
    manager: &str,
    edit: impl Fn(&mut Value),
) -> Result<(), Failure> {
    let (who, options) = (Identity::loopback(), WriteOptions::internal(manager));
    let mut w = Write::new(inner, &who, r, namespace, name, &options, part);
    w.update(|live, _| {
        let mut object = live.clone();
        edit(&mut object);
        Ok(Change {
            object,
            applied: false,
        })
    })
    .await
    .map(|_| ())
}
