//! `EXPOSE`'s ports.

use crate::checks::Findings;

/// ExposeProtoCasing, ExposeInvalidFormat.
pub(crate) fn ports(at: (usize, usize), ports: &[String], found: &mut Findings) {
    for port in ports {
        let protocol = port.rsplit_once('/').map_or("", |(_, p)| p);
        if protocol != protocol.to_lowercase() {
            let message =
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            found.add(at, "ExposeProtoCasing", message);
        }
        if port.contains(':') {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            found.add(at, "ExposeInvalidFormat", message);
        }
    }
}
