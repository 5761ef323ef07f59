//! What a cgroup has used so far.

use std::{fs, io};

use super::Group;
use crate::spec::Stats;

impl Group {
    /// Processes killed by the kernel for want of memory so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some(leaf) = self.leaf("memory") else {
            return 0;
        };
        let file = if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        fs::read_to_string(leaf.path.join(file))
            .map(|text| keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    pub(crate) fn stats(&self) -> io::Result<Stats> {
        let read = |controller: &str, file: &str| -> io::Result<String> {
            let leaf = self
                .leaf(controller)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            fs::read_to_string(leaf.path.join(file))
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let (cpu_ns, memory_bytes, inactive) = if self.v2 {
            (
                keyed(&read("cpu", "cpu.stat")?, "usage_usec").saturating_mul(1000),
                number(read("memory", "memory.current").unwrap_or_default()),
                keyed(
                    &read("memory", "memory.stat").unwrap_or_default(),
                    "inactive_file",
                ),
            )
        } else {
            (
                number(read("cpuacct", "cpuacct.usage").unwrap_or_default()),
                number(read("memory", "memory.usage_in_bytes").unwrap_or_default()),
                keyed(
                    &read("memory", "memory.stat").unwrap_or_default(),
                    "total_inactive_file",
                ),
            )
        };
        Ok(Stats {
            cpu_ns,
            memory_bytes,
            // SOURCE: cadvisor, container/libcontainer/handler.go setMemoryStats
            memory_working_set_bytes: memory_bytes.saturating_sub(inactive),
            pids: number(read("pids", "pids.current").unwrap_or_default()),
        })
    }
}

/// `key value` lines.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, v)| v.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), 3);
        assert_eq!(keyed(text, "absent"), 0);
    }
}
