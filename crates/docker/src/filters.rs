//! `?filters=`: `{"label": ["a=b"]}`, or as older clients write it `{"label": {"a=b": true}}`.

use crate::{
    error::{Fault, Result},
    http::Query,
};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    pub fn read(query: &Query) -> Result<Filters> {
        let Some(text) = query.get("filters") else {
            return Ok(Filters::default());
        };
        let invalid = || Fault::bad(format!("invalid filter: {text}"));
        let Ok(Value::Object(map)) = serde_json::from_str(text) else {
            return Err(invalid());
        };
        let mut filters = Filters::default();
        for (key, values) in map {
            let values = match values {
                Value::Array(list) => list
                    .into_iter()
                    .map(|v| v.as_str().map(str::to_string).ok_or_else(invalid))
                    .collect::<Result<_>>()?,
                Value::Object(set) => set
                    .into_iter()
                    .filter(|(_, on)| on.as_bool() == Some(true))
                    .map(|(v, _)| v)
                    .collect(),
                _ => return Err(invalid()),
            };
            filters.0.insert(key, values);
        }
        Ok(filters)
    }

    /// # Errors
    /// For a filter that isn't one of these.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            None => Ok(()),
            Some(key) => Err(Fault::bad(format!("invalid filter '{key}'"))),
        }
    }

    pub fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.into()).or_default().push(value.into());
    }
    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
    pub fn has(&self, key: &str) -> bool {
        !self.get(key).is_empty()
    }
    /// One of the values fits, or there is none.
    pub fn any(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(|v| fits(v))
    }
    /// Each of the values fits.
    pub fn all(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.get(key).iter().all(|v| fits(v))
    }
    /// `label=a`, `label=a=b`
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.all(key, |v| match v.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(v),
        })
    }
    /// `label!=…` must not fit.
    pub fn not_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(key).iter().all(|v| match v.split_once('=') {
            Some((name, value)) => labels.get(name).is_none_or(|v| v != value),
            None => !labels.contains_key(v),
        })
    }
    /// A yes or no.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            [] => Ok(None),
            [one] => match one.as_str() {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(Fault::bad(format!("invalid filter '{key}=[{one}]'"))),
            },
            many => Err(Fault::bad(format!(
                "invalid filter '{key}=[{}]'",
                many.join(" ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_are_read() {
        let check = |text: &str, wanted: Option<&[&str]>| {
            let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            let filters = Filters::read(&Query::parse(&format!("filters={encoded}")));
            let got = filters.ok().map(|f| f.get("label").to_vec());
            let wanted = wanted.map(|w| w.iter().map(|v| v.to_string()).collect::<Vec<_>>());
            assert_eq!(got, wanted, "{text}");
        };
        check(r#"{"label": ["a=b", "c"]}"#, Some(&["a=b", "c"]));
        check(r#"{"label": {"a=b": true, "c": false}}"#, Some(&["a=b"]));
        check("{}", Some(&[]));
        check("[]", None);
        check(r#"{"label": [1]}"#, None);
    }
}
