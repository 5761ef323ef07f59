//! cgroup v1: a hierarchy for each controller.

use std::io;

use super::{CpuUsage, HugePageUsage, MemoryUsage, PidsUsage, Place, Pressures, Usage, parse};

/// `USER_HZ` on every architecture Linux runs on with cgroups.
const TICK_NS: u64 = 10_000_000;

pub(super) fn read(place: &Place) -> io::Result<Usage> {
    Ok(Usage {
        cpu: cpu(place)?,
        memory: memory(place),
        pids: PidsUsage {
            current: place.number("pids", "pids.current").unwrap_or(0),
            limit: place
                .text("pids", "pids.max")
                .and_then(|t| parse::limit(&t)),
        },
        io: io_of(place),
        huge_pages: huge_pages(place),
        pressure: Pressures::default(),
    })
}

fn cpu(place: &Place) -> io::Result<CpuUsage> {
    let total_ns = place.cpu_ns()?;
    let split = place.text("cpuacct", "cpuacct.stat").unwrap_or_default();
    let split = parse::keyed(&split);
    let quota = place.text("cpu", "cpu.stat").unwrap_or_default();
    let quota = parse::keyed(&quota);
    Ok(CpuUsage {
        total_ns,
        user_ns: split.get("user").saturating_mul(TICK_NS),
        system_ns: split.get("system").saturating_mul(TICK_NS),
        periods: quota.get("nr_periods"),
        throttled_periods: quota.get("nr_throttled"),
        throttled_ns: quota.get("throttled_time"),
    })
}

fn memory(place: &Place) -> MemoryUsage {
    let number = |file: &str| place.number("memory", file);
    let text = place.text("memory", "memory.stat").unwrap_or_default();
    let stat = parse::keyed(&text);
    let usage_bytes = number("memory.usage_in_bytes").unwrap_or(0);
    let inactive_file_bytes = stat.get("total_inactive_file");
    let limit = |file: &str| {
        place
            .text("memory", file)
            .and_then(|text| parse::limit(&text))
    };
    let limit_bytes = limit("memory.limit_in_bytes");
    let oom = place
        .text("memory", "memory.oom_control")
        .unwrap_or_default();
    MemoryUsage {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(inactive_file_bytes),
        rss_bytes: stat.get("total_rss"),
        cache_bytes: stat.get("total_cache"),
        swap_bytes: stat.get("total_swap"),
        mapped_file_bytes: stat.get("total_mapped_file"),
        kernel_bytes: number("memory.kmem.usage_in_bytes").unwrap_or(0),
        active_file_bytes: stat.get("total_active_file"),
        inactive_file_bytes,
        max_usage_bytes: number("memory.max_usage_in_bytes"),
        fail_count: number("memory.failcnt").unwrap_or(0),
        limit_bytes,
        // v1's is of memory and swap together
        swap_limit_bytes: limit("memory.memsw.limit_in_bytes")
            .map(|both| both.saturating_sub(limit_bytes.unwrap_or(0))),
        page_faults: stat.get("total_pgfault"),
        major_page_faults: stat.get("total_pgmajfault"),
        oom_kills: parse::keyed(&oom).get("oom_kill"),
    }
}

/// What the throttling policy counts covers all devices; the file of the io scheduler only those that use it.
fn io_of(place: &Place) -> Vec<super::IoUsage> {
    let mut list = Vec::new();
    for (file, bytes) in [
        ("blkio.throttle.io_service_bytes_recursive", true),
        ("blkio.throttle.io_serviced_recursive", false),
    ] {
        if let Some(text) = place.text("blkio", file) {
            parse::blkio(&text, &mut list, bytes);
        }
    }
    list
}

fn huge_pages(place: &Place) -> Vec<HugePageUsage> {
    super::v2::page_sizes(place, ".usage_in_bytes", |size| {
        let number = |file: &str| {
            place
                .number("hugetlb", &format!("hugetlb.{size}.{file}"))
                .unwrap_or(0)
        };
        HugePageUsage {
            size: size.into(),
            usage_bytes: number("usage_in_bytes"),
            max_usage_bytes: number("max_usage_in_bytes"),
            fail_count: number("failcnt"),
        }
    })
}
