//! A new container's id and name.

use super::{
    life, networks,
    record::{Home, Record},
};
use crate::error::Error;

/// Gives the container its id and a name that no other has, and its folder.
pub fn claim(home: &Home, record: &mut Record, name: Option<&str>) -> Result<(), Error> {
    record.id = new_id();
    if record.hostname.is_empty() {
        record.hostname = record.short().to_string();
    }
    if !record.env.iter().any(|v| v.starts_with("HOSTNAME=")) {
        record.env.push(format!("HOSTNAME={}", record.hostname));
    }
    let _lock = home.lock()?;
    let all = match name {
        // a made name has the id's digits at need: nothing to look for
        None => Vec::new(),
        Some(_) => home.all(),
    };
    record.name = match name {
        Some(name) => {
            check_name(name)?;
            if let Some(other) = all.iter().find(|r| r.name == name) {
                return Err(Error::Failed(format!(
                    "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
                    other.id
                )));
            }
            name.to_string()
        }
        None => made_name(&record.id),
    };
    networks::look_up(home, &mut record.networks)?;
    life::make_folder(home, &record.id)?;
    home.save(record)
}

/// 64 hexadecimal digits.
pub fn new_id() -> String {
    let half = || uuid::Uuid::new_v4().simple();
    format!("{}{}", half(), half())
}

pub fn check_name(name: &str) -> Result<(), Error> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(word);
    match good {
        true => Ok(()),
        false => Err(Error::Input(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

/// Two words and some digits, as the id has it.
fn made_name(id: &str) -> String {
    const HOW: [&str; 16] = [
        "brisk", "calm", "deft", "eager", "fair", "glad", "hardy", "keen", "lucid", "merry",
        "noble", "proud", "quick", "sound", "true", "warm",
    ];
    const WHO: [&str; 16] = [
        "otter", "heron", "lynx", "badger", "falcon", "marten", "plover", "raven", "seal", "stoat",
        "swift", "tern", "trout", "walrus", "weasel", "wren",
    ];
    let digit = |at: usize| {
        id.as_bytes()
            .get(at)
            .and_then(|b| char::from(*b).to_digit(16))
            .unwrap_or(0) as usize
    };
    format!("{}_{}_{}", HOW[digit(0)], WHO[digit(1)], &id[2..8])
}
