//! cgroup v2: one tree.

use std::{fs, io};

use super::{CpuUsage, HugePageUsage, MemoryUsage, PidsUsage, Place, Pressures, Usage, parse};

pub(super) fn read(place: &Place) -> io::Result<Usage> {
    let text = place
        .text("cpu", "cpu.stat")
        .ok_or(io::ErrorKind::NotFound)?;
    let cpu = parse::keyed(&text);
    let ns = |key: &str| cpu.get(key).saturating_mul(1000);
    Ok(Usage {
        cpu: CpuUsage {
            total_ns: ns("usage_usec"),
            user_ns: ns("user_usec"),
            system_ns: ns("system_usec"),
            periods: cpu.get("nr_periods"),
            throttled_periods: cpu.get("nr_throttled"),
            throttled_ns: ns("throttled_usec"),
        },
        memory: memory(place),
        pids: PidsUsage {
            current: place.number("pids", "pids.current").unwrap_or(0),
            limit: place
                .text("pids", "pids.max")
                .and_then(|t| parse::limit(&t)),
        },
        io: place
            .text("io", "io.stat")
            .map(|text| parse::io_stat(&text))
            .unwrap_or_default(),
        huge_pages: page_sizes(place, ".current", |size| {
            let number = |file: &str| place.number("hugetlb", &format!("hugetlb.{size}.{file}"));
            let events = place
                .text("hugetlb", &format!("hugetlb.{size}.events"))
                .unwrap_or_default();
            HugePageUsage {
                size: size.into(),
                usage_bytes: number("current").unwrap_or(0),
                max_usage_bytes: 0,
                fail_count: parse::keyed(&events).get("max"),
            }
        }),
        pressure: Pressures::default(),
    })
}

fn memory(place: &Place) -> MemoryUsage {
    let text = place.text("memory", "memory.stat").unwrap_or_default();
    let stat = parse::keyed(&text);
    let usage_bytes = place
        .number("memory", "memory.current")
        .unwrap_or_else(of_the_root);
    let inactive_file_bytes = stat.get("inactive_file");
    let limit = |file: &str| {
        place
            .text("memory", file)
            .and_then(|text| parse::limit(&text))
    };
    let events = place.text("memory", "memory.events").unwrap_or_default();
    let events = parse::keyed(&events);
    MemoryUsage {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(inactive_file_bytes),
        rss_bytes: stat.get("anon"),
        cache_bytes: stat.get("file"),
        swap_bytes: place.number("memory", "memory.swap.current").unwrap_or(0),
        mapped_file_bytes: stat.get("file_mapped"),
        kernel_bytes: stat.get("kernel"),
        active_file_bytes: stat.get("active_file"),
        inactive_file_bytes,
        max_usage_bytes: place.number("memory", "memory.peak"),
        fail_count: events.get("max"),
        limit_bytes: limit("memory.max"),
        swap_limit_bytes: limit("memory.swap.max"),
        page_faults: stat.get("pgfault"),
        major_page_faults: stat.get("pgmajfault"),
        oom_kills: events.get("oom_kill"),
    }
}

/// The root has no `memory.current`: what isn't free is used (opencontainers/cgroups, `rootStatsFromMeminfo`).
fn of_the_root() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("");
        let number = line.split_ascii_whitespace().next();
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    kib("MemTotal:").saturating_sub(kib("MemFree:")) * 1024
}

/// For each size of huge pages that has a file ending so.
pub(super) fn page_sizes(
    place: &Place,
    ending: &str,
    read: impl Fn(&str) -> HugePageUsage,
) -> Vec<HugePageUsage> {
    let Some(folder) = place.folder("hugetlb") else {
        return Vec::new();
    };
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<HugePageUsage> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(ending)?;
            // `hugetlb.2MB.rsvd.current` counts reservations
            (!size.contains('.')).then(|| read(size))
        })
        .collect();
    all.sort_by(|a, b| a.size.cmp(&b.size));
    all
}
