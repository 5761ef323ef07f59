//! Paths of `fieldPath` and `selectableFields`: apiextensions-apiserver `pkg/apiserver/schema/cel`, `ValidFieldPath`.

use serde_json::Value;

/// The schema a path leads to, with the names on the way. `lists`: `.list[0]` is allowed. The error is upstream's words.
pub fn field_path<'s>(
    path: &str,
    schema: &'s Value,
    lists: bool,
) -> Result<(Vec<String>, &'s Value), String> {
    let mut at = schema;
    let mut names = Vec::new();
    let mut rest = path;
    if rest.is_empty() {
        return Err("unexpected end of JSON path".into());
    }
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            name = after[..end].to_owned();
            rest = &after[end..];
            if name.is_empty()
                || !name
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
            {
                return Err(format!("does not refer to a valid field: {path}"));
            }
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some(end) = after.find(']') else {
                return Err("unexpected end of JSON path".into());
            };
            let inner = &after[..end];
            rest = &after[end + 1..];
            match inner.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
                Some(quoted) => name = quoted.to_owned(),
                None if lists && inner.bytes().all(|b| b.is_ascii_digit()) && !inner.is_empty() => {
                    at = Some(&at["items"])
                        .filter(|i| i.is_object())
                        .ok_or_else(|| format!("does not refer to a valid field: {path}"))?;
                    continue;
                }
                None if !lists => return Err("does not support array notation".into()),
                None => return Err(format!("expected single quoted string but got {inner}")),
            }
        } else {
            return Err(format!(
                "expected [ or . but got: {}",
                rest.chars().next().unwrap_or(' ')
            ));
        }
        let next = match at["properties"].get(&name) {
            Some(p) => p,
            None if at["additionalProperties"].is_object() => &at["additionalProperties"],
            // metadata is known though schemas needn't say so
            None if names.is_empty() && name == "metadata" => &Value::Null,
            None => return Err(format!("does not refer to a valid field: {path}")),
        };
        names.push(name);
        at = next;
    }
    Ok((names, at))
}
