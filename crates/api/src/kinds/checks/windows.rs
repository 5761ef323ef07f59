//! Security contexts of Windows' containers.

use super::{
    path::{Errors, Path},
    rules,
};
use serde_json::Value;

const SPEC_KIB_MAX: usize = 64;
const DOMAIN_CHARACTERS_MAX: usize = 256;
const USER_CHARACTERS_MAX: usize = 104;

pub(crate) fn options(o: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = o["gmsaCredentialSpecName"].as_str() {
        let messages = rules::dns_subdomain(name);
        errors.broken(&at.child("gmsaCredentialSpecName"), name, messages);
    }
    if let Some(spec) = o["gmsaCredentialSpec"].as_str() {
        let at = at.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > SPEC_KIB_MAX * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {SPEC_KIB_MAX} KiB");
            errors.invalid(&at, spec, detail);
        }
    }
    if let Some(name) = o["runAsUserName"].as_str() {
        let at = at.child("runAsUserName");
        for detail in user_name(name) {
            errors.invalid(&at, name, detail);
        }
    }
}

/// `[DOMAIN\]user`.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.chars().any(char::is_control) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut errors = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_CHARACTERS_MAX {
            errors.push(format!(
                "runAsUserName's Domain length must be under {DOMAIN_CHARACTERS_MAX} characters"
            ));
        }
        let net_bios = !domain.is_empty()
            && domain.len() <= 15
            && !domain.starts_with('.')
            && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|', '.']);
        let dns = rules::dns_subdomain(&domain.to_lowercase()).is_empty() && domain.contains('.');
        if !net_bios && !dns {
            errors
                .push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
        }
    }
    if user.is_empty() {
        errors.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > USER_CHARACTERS_MAX {
        errors.push(format!(
            "runAsUserName's User length must not be longer than {USER_CHARACTERS_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        errors.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        errors.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .into(),
        );
    }
    errors
}
