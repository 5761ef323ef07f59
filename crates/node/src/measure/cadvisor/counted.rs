//! What is counted of every cgroup.

use knarr_runtime::{Pressure, Resources};

use super::{NS, Name, Who, Writer};
use crate::measure::{
    exposition::{COUNTER, Exposition, GAUGE},
    gather::Counted,
};

impl Writer {
    /// What every cgroup has.
    pub(super) fn group(&mut self, who: &Who<'_>, c: &Counted, limits: &Resources) {
        let labels = who.labels();
        let at = Some(c.at.as_millisecond());
        let (cpu, memory) = (&c.usage.cpu, &c.usage.memory);
        let add = |all: &mut Exposition, name: Name, more: &[(&str, &str)], value: f64| {
            all.add(name, &[&labels, more], value, at);
        };
        let all = &mut self.all;
        let seconds = |ns: u64| ns as f64 / NS;
        add(
            all,
            (
                "container_last_seen",
                GAUGE,
                "Last time a container was seen by the exporter",
            ),
            &[],
            c.at.as_second() as f64,
        );
        add(
            all,
            (
                "container_cpu_user_seconds_total",
                COUNTER,
                "Cumulative user cpu time consumed in seconds.",
            ),
            &[],
            seconds(cpu.user_ns),
        );
        add(
            all,
            (
                "container_cpu_system_seconds_total",
                COUNTER,
                "Cumulative system cpu time consumed in seconds.",
            ),
            &[],
            seconds(cpu.system_ns),
        );
        add(
            all,
            (
                "container_cpu_usage_seconds_total",
                COUNTER,
                "Cumulative cpu time consumed in seconds.",
            ),
            &[("cpu", "total")],
            seconds(cpu.total_ns),
        );
        if limits.cpu_quota_us.is_some_and(|q| q > 0) {
            add(
                all,
                (
                    "container_cpu_cfs_periods_total",
                    COUNTER,
                    "Number of elapsed enforcement period intervals.",
                ),
                &[],
                cpu.periods as f64,
            );
            add(
                all,
                (
                    "container_cpu_cfs_throttled_periods_total",
                    COUNTER,
                    "Number of throttled period intervals.",
                ),
                &[],
                cpu.throttled_periods as f64,
            );
            add(
                all,
                (
                    "container_cpu_cfs_throttled_seconds_total",
                    COUNTER,
                    "Total time duration the container has been throttled.",
                ),
                &[],
                seconds(cpu.throttled_ns),
            );
        }
        for (name, value) in [
            (
                (
                    "container_memory_cache",
                    GAUGE,
                    "Number of bytes of page cache memory.",
                ),
                memory.cache_bytes,
            ),
            (
                ("container_memory_rss", GAUGE, "Size of RSS in bytes."),
                memory.rss_bytes,
            ),
            (
                (
                    "container_memory_kernel_usage",
                    GAUGE,
                    "Size of kernel memory allocated in bytes.",
                ),
                memory.kernel_bytes,
            ),
            (
                (
                    "container_memory_mapped_file",
                    GAUGE,
                    "Size of memory mapped files in bytes.",
                ),
                memory.mapped_file_bytes,
            ),
            (
                (
                    "container_memory_swap",
                    GAUGE,
                    "Container swap usage in bytes.",
                ),
                memory.swap_bytes,
            ),
            (
                (
                    "container_memory_failcnt",
                    COUNTER,
                    "Number of memory usage hits limits",
                ),
                memory.fail_count,
            ),
            (
                (
                    "container_memory_usage_bytes",
                    GAUGE,
                    "Current memory usage in bytes, including all memory regardless of when it was accessed",
                ),
                memory.usage_bytes,
            ),
            (
                (
                    "container_memory_max_usage_bytes",
                    GAUGE,
                    "Maximum memory usage recorded in bytes",
                ),
                memory.max_usage_bytes.unwrap_or(0),
            ),
            (
                (
                    "container_memory_working_set_bytes",
                    GAUGE,
                    "Current working set in bytes.",
                ),
                memory.working_set_bytes,
            ),
            (
                (
                    "container_memory_total_active_file_bytes",
                    GAUGE,
                    "Current total active file in bytes.",
                ),
                memory.active_file_bytes,
            ),
            (
                (
                    "container_memory_total_inactive_file_bytes",
                    GAUGE,
                    "Current total inactive file in bytes.",
                ),
                memory.inactive_file_bytes,
            ),
            (
                (
                    "container_oom_events_total",
                    COUNTER,
                    "Count of out of memory events observed for the container",
                ),
                memory.oom_kills,
            ),
        ] {
            add(all, name, &[], value as f64);
        }
        let failures = (
            "container_memory_failures_total",
            COUNTER,
            "Cumulative count of memory allocation failures.",
        );
        for scope in ["container", "hierarchy"] {
            let of = |kind| [("failure_type", kind), ("scope", scope)];
            add(all, failures, &of("pgfault"), memory.page_faults as f64);
            add(
                all,
                failures,
                &of("pgmajfault"),
                memory.major_page_faults as f64,
            );
        }
        for h in &c.usage.huge_pages {
            let size = [("pagesize", h.size.as_str())];
            add(
                all,
                (
                    "container_hugetlb_failcnt",
                    COUNTER,
                    "Number of hugepage usage hits limits",
                ),
                &size,
                h.fail_count as f64,
            );
            add(
                all,
                (
                    "container_hugetlb_usage_bytes",
                    GAUGE,
                    "Current hugepage usage in bytes",
                ),
                &size,
                h.usage_bytes as f64,
            );
            add(
                all,
                (
                    "container_hugetlb_max_usage_bytes",
                    GAUGE,
                    "Maximum hugepage usage recorded in bytes",
                ),
                &size,
                h.max_usage_bytes as f64,
            );
        }
        self.spec(who, c, limits);
        self.io(who, c);
        let p = &c.usage.pressure;
        self.pressure(who, c, &p.cpu, [
            ("container_pressure_cpu_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to CPU congestion."),
            ("container_pressure_cpu_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to CPU congestion."),
        ]);
        self.pressure(who, c, &p.memory, [
            ("container_pressure_memory_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to memory congestion."),
            ("container_pressure_memory_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to memory congestion."),
        ]);
        self.pressure(who, c, &p.io, [
            ("container_pressure_io_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to IO congestion."),
            ("container_pressure_io_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to IO congestion."),
        ]);
    }

    pub(super) fn pressure(
        &mut self,
        who: &Who<'_>,
        c: &Counted,
        p: &Option<Pressure>,
        names: [Name; 2],
    ) {
        let Some(p) = p else { return };
        let at = Some(c.at.as_millisecond());
        let labels = who.labels();
        for (name, stall) in names.into_iter().zip([&p.full, &p.some]) {
            self.all
                .add(name, &[&labels], stall.total_us as f64 / 1e6, at);
        }
    }

    /// Limits, as they are set.
    pub(super) fn spec(&mut self, who: &Who<'_>, c: &Counted, limits: &Resources) {
        let labels = who.labels();
        let mut add = |name, help, value: f64| {
            self.all.add((name, GAUGE, help), &[&labels], value, None);
        };
        let period = limits.cpu_period_us.filter(|p| *p > 0).unwrap_or(100_000);
        add(
            "container_spec_cpu_period",
            "CPU period of the container.",
            period as f64,
        );
        if let Some(quota) = limits.cpu_quota_us.filter(|q| *q > 0) {
            add(
                "container_spec_cpu_quota",
                "CPU quota of the container.",
                quota as f64,
            );
        }
        let shares = limits.cpu_shares.unwrap_or(1024);
        add(
            "container_spec_cpu_shares",
            "CPU share of the container.",
            shares as f64,
        );
        let memory = &c.usage.memory;
        add(
            "container_spec_memory_limit_bytes",
            "Memory limit for the container.",
            memory.limit_bytes.unwrap_or(0) as f64,
        );
        add(
            "container_spec_memory_swap_limit_bytes",
            "Memory swap limit for the container.",
            memory.swap_limit_bytes.unwrap_or(0) as f64,
        );
        add(
            "container_spec_memory_reservation_limit_bytes",
            "Memory reservation limit for the container.",
            limits.memory_low_bytes.unwrap_or(0).max(0) as f64,
        );
    }

    pub(super) fn io(&mut self, who: &Who<'_>, c: &Counted) {
        let labels = who.labels();
        let at = Some(c.at.as_millisecond());
        for io in &c.usage.io {
            let device = device(io.major, io.minor);
            let (major, minor) = (io.major.to_string(), io.minor.to_string());
            let one = [("device", device.as_str())];
            for (name, value) in [
                (
                    (
                        "container_fs_reads_bytes_total",
                        COUNTER,
                        "Cumulative count of bytes read",
                    ),
                    io.read_bytes,
                ),
                (
                    (
                        "container_fs_reads_total",
                        COUNTER,
                        "Cumulative count of reads completed",
                    ),
                    io.reads,
                ),
                (
                    (
                        "container_fs_writes_bytes_total",
                        COUNTER,
                        "Cumulative count of bytes written",
                    ),
                    io.write_bytes,
                ),
                (
                    (
                        "container_fs_writes_total",
                        COUNTER,
                        "Cumulative count of writes completed",
                    ),
                    io.writes,
                ),
            ] {
                self.all.add(name, &[&labels, &one], value as f64, at);
            }
            let name = (
                "container_blkio_device_usage_total",
                COUNTER,
                "Blkio Device bytes usage",
            );
            for (operation, value) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
                let more = [
                    one[0],
                    ("major", &major),
                    ("minor", &minor),
                    ("operation", operation),
                ];
                self.all.add(name, &[&labels, &more], value as f64, at);
            }
        }
    }
}

/// `/dev/sda`, or nothing when the kernel has no name for it.
fn device(major: u64, minor: u64) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    link.ok()
        .and_then(|l| Some(format!("/dev/{}", l.file_name()?.to_str()?)))
        .unwrap_or_default()
}
