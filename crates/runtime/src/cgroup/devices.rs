//! Which devices a container's processes may open and make.

use std::{fs, io};

use super::{Group, write_to};
use crate::{
    error::{During, Error},
    spec::Device,
};

/// SOURCE: runc libcontainer/specconv AllowedDevices.
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Group {
    /// Only the usual devices and those given. On v2 nothing is done here: see `Inner::process`, which takes the right to make devices.
    pub(crate) fn restrict_devices(&self, more: &[Device]) -> Result<(), Error> {
        let Some(leaf) = self.leaf("devices").filter(|l| !l.v2) else {
            return Ok(());
        };
        let deny = leaf.path.join("devices.deny");
        write_to(&deny, "a").during(|| format!("writing {}", deny.display()))?;
        let allow = leaf.path.join("devices.allow");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&allow)
            .during(|| format!("opening {}", allow.display()))?;
        let more = more.iter().map(Device::rule);
        for rule in ALWAYS.iter().map(|r| (*r).to_owned()).chain(more) {
            io::Write::write_all(&mut &file, rule.as_bytes())
                .during(|| format!("writing {rule:?} to {}", allow.display()))?;
        }
        Ok(())
    }
}
