//! Trees of files as kernels show them.

use super::*;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const PRESSURE: &str = "some avg10=1.50 avg60=0.20 avg300=0.01 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";

fn stalled() -> Option<Pressure> {
    Some(Pressure {
        some: Stall {
            total_us: 42,
            avg10: 1.5,
            avg60: 0.2,
            avg300: 0.01,
        },
        full: Stall {
            total_us: 7,
            ..Stall::default()
        },
    })
}

#[test]
fn v2_is_read() {
    let dir = tree(&[
        ("cgroup.procs", "10\n"),
        ("below/cgroup.procs", "11\n12\n"),
        (
            "cpu.stat",
            "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 9\nnr_throttled 2\nthrottled_usec 77\n",
        ),
        ("memory.current", "1000000\n"),
        ("memory.peak", "2000000\n"),
        ("memory.max", "max\n"),
        ("memory.swap.max", "0\n"),
        ("memory.swap.current", "4096\n"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
        (
            "memory.stat",
            "anon 600000\nfile 300000\nkernel 50000\nfile_mapped 7\ninactive_file 200000\nactive_file 100000\npgfault 11\npgmajfault 1\n",
        ),
        ("pids.current", "3\n"),
        ("pids.max", "100\n"),
        (
            "io.stat",
            "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:1 \n",
        ),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
        ("hugetlb.2MB.events", "max 5\n"),
        ("cpu.pressure", PRESSURE),
        ("io.pressure", PRESSURE),
    ]);
    let place = Place::v2(dir.path().into());
    let usage = place.read().unwrap();
    assert_eq!(place.cpu_ns().unwrap(), 5_000_000);
    assert_eq!(
        usage.cpu,
        CpuUsage {
            total_ns: 5_000_000,
            user_ns: 3_000_000,
            system_ns: 2_000_000,
            periods: 9,
            throttled_periods: 2,
            throttled_ns: 77_000,
        }
    );
    assert_eq!(
        usage.memory,
        MemoryUsage {
            usage_bytes: 1_000_000,
            working_set_bytes: 800_000,
            rss_bytes: 600_000,
            cache_bytes: 300_000,
            swap_bytes: 4096,
            mapped_file_bytes: 7,
            kernel_bytes: 50_000,
            active_file_bytes: 100_000,
            inactive_file_bytes: 200_000,
            max_usage_bytes: Some(2_000_000),
            fail_count: 3,
            limit_bytes: None,
            swap_limit_bytes: Some(0),
            page_faults: 11,
            major_page_faults: 1,
            oom_kills: 1,
        }
    );
    assert_eq!((usage.pids.current, usage.pids.limit), (3, Some(100)));
    assert_eq!(
        usage.io,
        [
            IoUsage {
                major: 8,
                minor: 0,
                read_bytes: 4096,
                write_bytes: 8192,
                reads: 1,
                writes: 2,
            },
            IoUsage {
                major: 7,
                minor: 1,
                ..IoUsage::default()
            }
        ]
    );
    assert_eq!(
        usage.huge_pages,
        [HugePageUsage {
            size: "2MB".into(),
            usage_bytes: 2_097_152,
            max_usage_bytes: 0,
            fail_count: 5,
        }]
    );
    assert_eq!(usage.pressure.cpu, stalled());
    assert_eq!(usage.pressure.memory, None, "it has no such file");
    let mut processes = place.processes();
    processes.sort();
    assert_eq!(processes, [10, 11, 12]);
}

#[test]
fn v1_is_read_from_each_hierarchy() {
    let dir = tree(&[
        ("cpuacct/cpuacct.usage", "123456789\n"),
        ("cpuacct/cpuacct.stat", "user 5\nsystem 7\n"),
        (
            "cpu/cpu.stat",
            "nr_periods 1\nnr_throttled 1\nthrottled_time 99\n",
        ),
        ("memory/memory.usage_in_bytes", "100\n"),
        ("memory/memory.max_usage_in_bytes", "200\n"),
        ("memory/memory.failcnt", "4\n"),
        ("memory/memory.limit_in_bytes", "1000\n"),
        ("memory/memory.memsw.limit_in_bytes", "1500\n"),
        ("memory/memory.kmem.usage_in_bytes", "6\n"),
        (
            "memory/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
        (
            "memory/memory.stat",
            "cache 1\nrss 1\ntotal_cache 40\ntotal_rss 50\ntotal_mapped_file 3\ntotal_swap 8\ntotal_pgfault 9\ntotal_pgmajfault 1\ntotal_inactive_file 30\ntotal_active_file 10\n",
        ),
        ("pids/pids.current", "2\n"),
        ("pids/pids.max", "max\n"),
        (
            "blkio/blkio.throttle.io_service_bytes_recursive",
            "254:0 Read 10\n254:0 Write 20\n254:0 Sync 0\nTotal 30\n",
        ),
        (
            "blkio/blkio.throttle.io_serviced_recursive",
            "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
        ),
        ("unified/memory.pressure", PRESSURE),
    ]);
    let leaf = |name: &str| (vec![name.to_string()], dir.path().join(name));
    let place = Place {
        v2: false,
        leaves: ["cpu", "cpuacct", "memory", "pids", "blkio"]
            .map(leaf)
            .into(),
        unified: Some(dir.path().join("unified")),
    };
    let usage = place.read().unwrap();
    assert_eq!(
        usage.cpu,
        CpuUsage {
            total_ns: 123_456_789,
            user_ns: 50_000_000,
            system_ns: 70_000_000,
            periods: 1,
            throttled_periods: 1,
            throttled_ns: 99,
        }
    );
    let memory = usage.memory;
    assert_eq!((memory.usage_bytes, memory.working_set_bytes), (100, 70));
    assert_eq!((memory.rss_bytes, memory.cache_bytes), (50, 40));
    assert_eq!(memory.limit_bytes, Some(1000));
    assert_eq!(memory.swap_limit_bytes, Some(500));
    assert_eq!(
        (memory.oom_kills, memory.fail_count, memory.kernel_bytes),
        (2, 4, 6)
    );
    assert_eq!((usage.pids.current, usage.pids.limit), (2, None));
    assert_eq!(
        usage.io,
        [IoUsage {
            major: 254,
            minor: 0,
            read_bytes: 10,
            write_bytes: 20,
            reads: 1,
            writes: 2,
        }]
    );
    assert_eq!(usage.pressure.memory, stalled());
    assert_eq!(usage.pressure.cpu, None);
}

#[test]
fn limits_that_are_none() {
    for (text, wanted) in [
        ("max\n", None),
        ("9223372036854771712\n", None),
        ("0\n", Some(0)),
        ("4096\n", Some(4096)),
        ("", None),
    ] {
        assert_eq!(parse::limit(text), wanted, "{text:?}");
    }
}

#[test]
fn a_cgroup_that_is_gone_is_an_error() {
    let place = Place::v2("/nowhere".into());
    assert!(place.read().is_err());
    assert!(place.cpu_ns().is_err());
}
