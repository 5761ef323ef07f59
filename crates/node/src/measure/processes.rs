//! What processes hold: threads, open files, limits.

use std::fs;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    pub count: u64,
    pub threads: u64,
    pub files: u64,
    pub sockets: u64,
    /// of the first process, by the names cadvisor shows; None: without limit
    pub limits: Vec<(&'static str, Option<u64>)>,
}

/// Reads `/proc`. Blocking, some files for each process.
pub(crate) fn of(pids: &[i32]) -> Processes {
    let mut all = Processes::default();
    for pid in pids {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        all.count += 1;
        let threads = status.lines().find_map(|l| l.strip_prefix("Threads:"));
        all.threads += threads.and_then(|t| t.trim().parse().ok()).unwrap_or(1);
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        for file in open.into_iter().flatten().flatten() {
            all.files += 1;
            let target = fs::read_link(file.path()).unwrap_or_default();
            if target.to_string_lossy().starts_with("socket:") {
                all.sockets += 1;
            }
        }
    }
    if let Some(first) = pids.iter().min() {
        let text = fs::read_to_string(format!("/proc/{first}/limits")).unwrap_or_default();
        all.limits = limits(&text);
    }
    all
}

/// SOURCE: cadvisor container/libcontainer/handler.go processLimitsFile, which shows the open files alone.
fn limits(text: &str) -> Vec<(&'static str, Option<u64>)> {
    let line = text.lines().find_map(|l| l.strip_prefix("Max open files"));
    line.and_then(|l| l.split_ascii_whitespace().next())
        .map(|soft| ("max_open_files", soft.parse().ok()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_counted() {
        let all = of(&[std::process::id() as i32, i32::MAX]);
        assert_eq!(all.count, 1);
        assert!(all.threads >= 1 && all.files >= 3);
        assert_eq!(all.limits.len(), 1);
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(limits(text), [("max_open_files", Some(1024))]);
        let text = "Max open files            unlimited            unlimited            files\n";
        assert_eq!(limits(text), [("max_open_files", None)]);
    }
}
