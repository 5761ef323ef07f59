//! What every object has, in the least memory.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

/// `metadata.annotations` key that holds a whole manifest: never kept, never copied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Seconds since 1970 (UTC): the precision of `metav1.Time`.
pub type Seconds = i64;

/// Now, in whole seconds.
pub fn now() -> Seconds {
    jiff::Timestamp::now().as_second()
}

/// RFC 3339 in seconds, as the API writes it.
pub fn rfc3339(at: Seconds) -> String {
    match jiff::Timestamp::from_second(at) {
        Ok(t) => t.to_string(),
        Err(_) => "1970-01-01T00:00:00Z".into(),
    }
}

/// `null`, missing and malformed times are None.
pub fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Seconds>, D::Error> {
    let text = Option::<std::borrow::Cow<'de, str>>::deserialize(d)?;
    Ok(text
        .and_then(|t| t.parse::<jiff::Timestamp>().ok())
        .map(|t| t.as_second()))
}

/// `null` is the default value.
pub fn nullable<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A small string map, sorted by key (labels, annotations, selectors).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Vec<(Box<str>, Box<str>)>);

impl Labels {
    /// Value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let i = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[i].1)
    }
    /// Sets `key`; true when that changed something.
    pub fn set(&mut self, key: &str, value: &str) -> bool {
        match self.0.binary_search_by(|(k, _)| (**k).cmp(key)) {
            Ok(i) if &*self.0[i].1 == value => false,
            Ok(i) => {
                self.0[i].1 = value.into();
                true
            }
            Err(i) => {
                self.0.insert(i, (key.into(), value.into()));
                true
            }
        }
    }
    /// Pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
    /// No pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Every pair of `self` is in `other`.
    pub fn subset_of(&self, other: &Labels) -> bool {
        self.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(iter: I) -> Self {
        let mut l = Labels::default();
        for (k, v) in iter {
            l.set(k, v);
        }
        l
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Labels;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_unit<E>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }
            fn visit_none<E>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Labels, D::Error> {
                d.deserialize_map(V)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut all = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some(key) = map.next_key::<Box<str>>()? {
                    if &*key == LAST_APPLIED {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let value = map.next_value::<Option<Box<str>>>()?.unwrap_or_default();
                    all.push((key, value));
                }
                all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                all.shrink_to_fit();
                Ok(Labels(all))
            }
        }
        d.deserialize_option(V)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (k, v) in self.iter() {
            map.serialize_entry(k, v)?;
        }
        map.end()
    }
}

/// `metav1.OwnerReference`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRef {
    /// e.g. `apps/v1`
    pub api_version: Box<str>,
    /// e.g. `ReplicaSet`
    pub kind: Box<str>,
    /// the owner's name
    pub name: Box<str>,
    /// the owner's uid
    pub uid: Box<str>,
    /// it is the managing owner
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub controller: bool,
    /// a foreground deletion of the owner waits for this object
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub block_owner_deletion: bool,
}

/// `metav1.ObjectMeta`, as far as controllers look.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// name
    pub name: Box<str>,
    /// namespace; empty for cluster-scoped objects
    pub namespace: Box<str>,
    /// uid
    pub uid: Box<str>,
    /// revision of this state
    pub resource_version: Box<str>,
    /// counts changes of the spec
    pub generation: i64,
    /// when it was made
    #[serde(deserialize_with = "time")]
    pub creation_timestamp: Option<Seconds>,
    /// set when it goes away
    #[serde(deserialize_with = "time")]
    pub deletion_timestamp: Option<Seconds>,
    /// s of its time to go, in the deletion's time
    pub deletion_grace_period_seconds: Option<i64>,
    /// labels
    pub labels: Labels,
    /// annotations, without [`LAST_APPLIED`]
    pub annotations: Labels,
    /// owners
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerRef>,
    /// what must happen before it's gone
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<Box<str>>,
}

impl Meta {
    /// The managing owner.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owner_references.iter().find(|o| o.controller)
    }
    /// The managing owner is the object with this uid.
    pub fn controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|o| &*o.uid == uid)
    }
    /// It goes away.
    pub fn deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
    /// Namespace and name.
    pub fn key(&self) -> Key {
        Key {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// Where an object is, within its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    /// empty for cluster-scoped objects
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
}

impl Key {
    /// Key of a name in a namespace ("" for none).
    pub fn new(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// `metav1.Condition` and its older relatives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// e.g. `Ready`
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// `True`, `False`, `Unknown`
    pub status: Box<str>,
    /// one word
    #[serde(skip_serializing_if = "str_empty")]
    pub reason: Box<str>,
    /// for people
    #[serde(skip_serializing_if = "str_empty")]
    pub message: Box<str>,
    /// RFC 3339
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Box<str>>,
    /// RFC 3339
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Box<str>>,
    /// RFC 3339; of nodes
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Box<str>>,
}

fn str_empty(s: &str) -> bool {
    s.is_empty()
}

/// Seconds of an RFC 3339 text.
pub fn parse_time(text: Option<&str>) -> Option<Seconds> {
    Some(text?.parse::<jiff::Timestamp>().ok()?.as_second())
}

/// A kind as the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// "" for the core group
    pub group: &'static str,
    /// e.g. `v1`
    pub version: &'static str,
    /// e.g. `pods`
    pub plural: &'static str,
    /// e.g. `Pod`
    pub kind: &'static str,
}

/// `apps/v1`, or `v1` for the core group ("").
pub fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.into(),
        _ => format!("{group}/{version}"),
    }
}

/// Path of a collection; all namespaces (or cluster scope) for "".
pub fn collection(group: &str, version: &str, plural: &str, namespace: &str) -> String {
    let root = match group {
        "" => "/api",
        _ => "/apis",
    };
    let version = api_version(group, version);
    match namespace {
        "" => format!("{root}/{version}/{plural}"),
        _ => format!("{root}/{version}/namespaces/{namespace}/{plural}"),
    }
}

impl Kind {
    /// `apps/v1` or `v1`
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
    /// Path of the collection; all namespaces (or cluster scope) for "".
    pub fn collection(&self, namespace: &str) -> String {
        collection(self.group, self.version, self.plural, namespace)
    }
    /// Path of one object.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }
    /// Path of one object.
    pub fn at(&self, meta: &Meta) -> String {
        self.path(&meta.namespace, &meta.name)
    }
}

/// An object as a controller sees it.
pub trait Object: serde::de::DeserializeOwned + Send + Sync + 'static {
    /// its kind
    const KIND: Kind;
    /// its metadata
    fn meta(&self) -> &Meta;
    /// Owner reference that makes this object the controller of another.
    fn controller_ref(&self) -> OwnerRef {
        OwnerRef {
            api_version: Self::KIND.api_version().into(),
            kind: Self::KIND.kind.into(),
            name: self.meta().name.clone(),
            uid: self.meta().uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }
    }
    /// What an Event says it's about.
    fn reference(&self) -> Reference {
        Reference {
            kind: Self::KIND.kind,
            api_version: Self::KIND.api_version().into(),
            namespace: self.meta().namespace.clone(),
            name: self.meta().name.clone(),
            uid: self.meta().uid.clone(),
            resource_version: self.meta().resource_version.clone(),
        }
    }
}

/// `v1.ObjectReference`
#[derive(Debug, Clone, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// kind
    pub kind: &'static str,
    /// apiVersion
    pub api_version: Box<str>,
    /// namespace
    #[serde(skip_serializing_if = "str_empty")]
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
    /// uid
    pub uid: Box<str>,
    /// revision seen
    pub resource_version: Box<str>,
}

/// Implements [`Object`] for a struct with a `metadata` field.
macro_rules! object {
    ($ty:ty, $group:literal, $version:literal, $plural:literal, $kind:literal) => {
        impl $crate::objects::meta::Object for $ty {
            const KIND: $crate::objects::meta::Kind = $crate::objects::meta::Kind {
                group: $group,
                version: $version,
                plural: $plural,
                kind: $kind,
            };
            fn meta(&self) -> &$crate::objects::meta::Meta {
                &self.metadata
            }
        }
    };
}
pub(crate) use object;
