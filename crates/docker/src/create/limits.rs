//! What a container may use of the machine: `HostConfig`'s resources, checked as Docker checks them.
//!
//! SOURCE: moby `daemon/daemon_unix.go` verifyPlatformContainerResources, with its messages

use crate::{
    error::{Fault, Result},
    http::Fields,
};
use serde_json::{Map, Value, json};

/// A rate of one of the machine's disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// `/dev/sda`
    pub path: String,
    pub rate: u64,
}

/// Limits for which a Pod has no field; what isn't asked for is None or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// bytes, of memory and swap together; -1: any number
    pub memory_swap: Option<i64>,
    pub memory_swappiness: Option<i64>,
    /// bytes
    pub memory_reservation: Option<i64>,
    pub oom_kill_disable: bool,
    pub oom_score_adj: Option<i64>,
    /// microseconds
    pub cpu_period: Option<i64>,
    pub cpu_quota: Option<i64>,
    pub cpu_shares: Option<i64>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// -1: any number
    pub pids: Option<i64>,
    pub blkio_weight: Option<i64>,
    pub blkio_weights: Vec<Rate>,
    pub read_bps: Vec<Rate>,
    pub write_bps: Vec<Rate>,
    pub read_iops: Vec<Rate>,
    pub write_iops: Vec<Rate>,
}

const PERIOD: i64 = 100_000;

fn rates(f: &mut Fields, key: &str, rate: &str) -> Result<Vec<Rate>> {
    let mut all = Vec::new();
    for one in f.list(key)? {
        let (path, number) = (one["Path"].as_str(), one[rate].as_u64());
        let (Some(path), Some(rate)) = (path, number) else {
            return Err(Fault::bad(format!(
                "invalid JSON: HostConfig.{key} must have a Path and a {rate}"
            )));
        };
        all.push(Rate {
            path: path.into(),
            rate,
        });
    }
    Ok(all)
}

/// `0-2,7`: all of them, ascending. None: it isn't one.
fn numbers(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last > 8192 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

fn check_set(what: &str, list: &str, file: &str) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let unit = if what == "cpus" {
        "CPUs"
    } else {
        "memory nodes"
    };
    let asked = numbers(list)
        .ok_or_else(|| Fault::bad(format!("Invalid value {list} for cpuset {what}")))?;
    let there = std::fs::read_to_string(file).unwrap_or_default();
    // where the kernel doesn't say, it refuses
    let Some(have) = numbers(there.trim()) else {
        return Ok(());
    };
    match asked.iter().all(|n| have.contains(n)) {
        true => Ok(()),
        false => Err(Fault::bad(format!(
            "Requested {unit} are not available - requested {list}, available: {}",
            there.trim()
        ))),
    }
}

fn v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

impl Limits {
    /// What of `HostConfig` it is about. `memory`, in bytes, and thousandths of a CPU are the Pod's own to say.
    pub fn read(f: &mut Fields, memory: i64, warnings: &mut Vec<String>) -> Result<(Limits, i64)> {
        let v2 = v2();
        // 0 says something
        let swappiness = f.present("MemorySwappiness").and_then(|v| v.as_i64());
        let mut limits = Limits {
            memory_swap: f.int("MemorySwap")?,
            memory_swappiness: swappiness.filter(|s| *s != -1),
            memory_reservation: f.int("MemoryReservation")?,
            oom_kill_disable: f.flag("OomKillDisable")?,
            oom_score_adj: f.int("OomScoreAdj")?,
            cpu_period: f.int("CpuPeriod")?,
            cpu_quota: f.int("CpuQuota")?,
            cpu_shares: f.int("CpuShares")?,
            cpuset_cpus: f.text("CpusetCpus")?.unwrap_or_default(),
            cpuset_mems: f.text("CpusetMems")?.unwrap_or_default(),
            pids: f.int("PidsLimit")?,
            blkio_weight: f.int("BlkioWeight")?,
            blkio_weights: rates(f, "BlkioWeightDevice", "Weight")?,
            read_bps: rates(f, "BlkioDeviceReadBps", "Rate")?,
            write_bps: rates(f, "BlkioDeviceWriteBps", "Rate")?,
            read_iops: rates(f, "BlkioDeviceReadIOps", "Rate")?,
            write_iops: rates(f, "BlkioDeviceWriteIOps", "Rate")?,
        };
        let nano = f.int("NanoCpus")?.unwrap_or(0);
        limits.check(memory, nano)?;
        if v2 && limits.memory_swappiness.take().is_some() {
            warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".into());
        }
        if v2 && std::mem::take(&mut limits.oom_kill_disable) {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".into(),
            );
        }
        if limits.oom_kill_disable && memory == 0 {
            warnings.push("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.".into());
        }
        // SOURCE: moby adaptContainerSettings, as much swap as memory
        if memory > 0 && limits.memory_swap.is_none() {
            limits.memory_swap = Some(memory.saturating_mul(2));
        }
        let quota = limits.cpu_quota.unwrap_or(0);
        let milli = match (nano, quota) {
            (n, _) if n > 0 => (n / 1_000_000).max(1),
            (_, q) if q > 0 => {
                (q.saturating_mul(1000) / limits.cpu_period.unwrap_or(PERIOD).max(1)).max(1)
            }
            _ => 0,
        };
        Ok((limits, milli))
    }

    fn check(&self, memory: i64, nano: i64) -> Result<()> {
        const LEAST: i64 = 6 << 20;
        let bad = |told: &str| Err(Fault::bad(told));
        if memory != 0 && memory < LEAST {
            return bad("Minimum memory limit allowed is 6MB");
        }
        let swap = self.memory_swap.unwrap_or(0);
        if memory > 0 && swap > 0 && swap < memory {
            return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
        }
        if memory == 0 && swap > 0 {
            return bad(
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            );
        }
        if let Some(swappiness) = self.memory_swappiness
            && !(0..=100).contains(&swappiness)
        {
            return Err(Fault::bad(format!(
                "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
            )));
        }
        if let Some(reservation) = self.memory_reservation {
            if reservation < LEAST {
                return bad("Minimum memory reservation allowed is 6MB");
            }
            if memory > 0 && memory < reservation {
                return bad(
                    "Minimum memory limit can not be less than memory reservation limit, see usage",
                );
            }
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if nano != 0 {
            if self.cpu_period.is_some() {
                return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set");
            }
            if self.cpu_quota.is_some() {
                return bad("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
            }
            if nano < 0 || nano > cpus as i64 * 1_000_000_000 {
                return Err(Fault::bad(format!(
                    "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
                )));
            }
        }
        if self
            .cpu_period
            .is_some_and(|p| !(1000..=1_000_000).contains(&p))
        {
            return bad(
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            );
        }
        if self.cpu_quota.is_some_and(|q| q > 0 && q < 1000) {
            return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)");
        }
        if let Some(shares @ ..0) = self.cpu_shares {
            return Err(Fault::bad(format!(
                "invalid CPU shares ({shares}): value must be a positive integer"
            )));
        }
        check_set("cpus", &self.cpuset_cpus, "/sys/devices/system/cpu/online")?;
        check_set("mems", &self.cpuset_mems, "/sys/devices/system/node/online")?;
        let weights = self.blkio_weights.iter().map(|w| w.rate as i64);
        if (self.blkio_weight.into_iter().chain(weights)).any(|w| !(10..=1000).contains(&w)) {
            return bad("Range of blkio weight is from 10 to 1000");
        }
        match self.oom_score_adj {
            Some(adj) if !(-1000..=1000).contains(&adj) => Err(Fault::bad(format!(
                "Invalid value {adj}, range for oom score adj is [-1000, 1000]"
            ))),
            Some(..0) => Err(Fault::unsupported(
                "--oom-score-adj below 0 (HostConfig.OomScoreAdj), which would let others be killed first,",
            )),
            _ => Ok(()),
        }
    }

    /// As the node takes them: of the Pod's annotation.
    ///
    /// # Errors
    /// When a disk that is named isn't there.
    pub fn extras(&self, into: &mut Map<String, Value>) -> Result<()> {
        let mut set = |key: &str, value: Option<i64>| {
            if let Some(value) = value {
                into.insert(key.into(), json!(value));
            }
        };
        set("memorySwapBytes", self.memory_swap);
        set("memorySwappiness", self.memory_swappiness);
        set("memorySoftBytes", self.memory_reservation);
        set("oomScoreAdj", self.oom_score_adj);
        set("pidsLimit", self.pids.filter(|p| *p > 0));
        set("cpuShares", self.cpu_shares.filter(|s| *s > 0));
        if let Some(quota) = self.cpu_quota.filter(|q| *q > 0) {
            set("cpuQuotaUs", Some(quota));
            set("cpuPeriodUs", Some(self.cpu_period.unwrap_or(PERIOD)));
        }
        if self.oom_kill_disable {
            into.insert("oomKillDisable".into(), json!(true));
        }
        for (key, list) in [
            ("cpusetCpus", &self.cpuset_cpus),
            ("cpusetMems", &self.cpuset_mems),
        ] {
            if !list.is_empty() {
                into.insert(key.into(), json!(list));
            }
        }
        let mut io = Map::new();
        if let Some(weight) = self.blkio_weight {
            io.insert("weight".into(), json!(weight));
        }
        for (key, list) in [
            ("weights", &self.blkio_weights),
            ("read_bps", &self.read_bps),
            ("write_bps", &self.write_bps),
            ("read_iops", &self.read_iops),
            ("write_iops", &self.write_iops),
        ] {
            let list = list.iter().map(limit).collect::<Result<Vec<_>>>()?;
            if !list.is_empty() {
                io.insert(key.into(), json!(list));
            }
        }
        if !io.is_empty() {
            into.insert("io".into(), Value::Object(io));
        }
        Ok(())
    }
}

fn limit(rate: &Rate) -> Result<Value> {
    let told = |why: String| Fault::bad(format!("cannot limit the device {:?}: {why}", rate.path));
    let stat = rustix::fs::stat(&rate.path).map_err(|e| told(e.to_string()))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if kind != rustix::fs::FileType::BlockDevice {
        return Err(told("it is no block device".into()));
    }
    Ok(json!({
        "major": rustix::fs::major(stat.st_rdev), "minor": rustix::fs::minor(stat.st_rdev), "rate": rate.rate,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: Value) -> Result<(Limits, i64), String> {
        let Value::Object(map) = host else {
            panic!("{host}")
        };
        let mut f = Fields::new(map, "HostConfig");
        let memory = f.int("Memory").unwrap().unwrap_or(0);
        Limits::read(&mut f, memory, &mut vec![]).map_err(|f| f.message)
    }

    #[test]
    fn limits_are_checked_as_docker_does() {
        const MB: i64 = 1 << 20;
        for (host, wanted) in [
            (json!({}), ""),
            (json!({"Memory": 5 * MB}), "Minimum memory limit"),
            (json!({"Memory": 8 * MB, "MemorySwap": -1}), ""),
            (
                json!({"Memory": 8 * MB, "MemorySwap": 7 * MB}),
                "larger than memory limit",
            ),
            (json!({"MemorySwap": 7 * MB}), "always set the Memory limit"),
            (json!({"MemorySwappiness": 101}), "swappiness range"),
            (json!({"MemorySwappiness": 0}), ""),
            (
                json!({"MemoryReservation": 1}),
                "memory reservation allowed",
            ),
            (
                json!({"Memory": 8 * MB, "MemoryReservation": 9 * MB}),
                "less than memory reservation",
            ),
            (
                json!({"NanoCpus": 1, "CpuQuota": 5000}),
                "CPU Quota cannot both",
            ),
            (
                json!({"NanoCpus": 1_000_000_000_000_000i64}),
                "range of CPUs",
            ),
            (json!({"CpuPeriod": 10}), "cfs period"),
            (json!({"CpuQuota": 10}), "cfs quota"),
            (
                json!({"CpusetCpus": "x"}),
                "Invalid value x for cpuset cpus",
            ),
            (
                json!({"CpusetCpus": "4000"}),
                "Requested CPUs are not available",
            ),
            (json!({"CpusetCpus": "0"}), ""),
            (json!({"BlkioWeight": 5}), "blkio weight"),
            (
                json!({"BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 2000}]}),
                "blkio weight",
            ),
            (
                json!({"BlkioDeviceReadBps": [{"Path": 5}]}),
                "must have a Path",
            ),
            (json!({"OomScoreAdj": 2000}), "range for oom score adj"),
            (json!({"OomScoreAdj": -5}), "--oom-score-adj"),
        ] {
            let told = read(host.clone()).err().unwrap_or_default();
            let fits = told.contains(wanted) && told.is_empty() == wanted.is_empty();
            assert!(fits, "{host}: {told}");
        }
    }

    #[test]
    fn limits_come_to_the_node() {
        let extras = |host: Value| {
            let mut map = Map::new();
            read(host).unwrap().0.extras(&mut map).unwrap();
            Value::Object(map)
        };
        assert_eq!(extras(json!({})), json!({}));
        assert_eq!(
            extras(json!({"Memory": 100 << 20})),
            json!({"memorySwapBytes": 200 << 20})
        );
        assert_eq!(
            extras(json!({"CpuQuota": 5000, "CpuShares": 512, "CpusetCpus": "0", "PidsLimit": -1})),
            json!({"cpuQuotaUs": 5000, "cpuPeriodUs": 100_000, "cpuShares": 512, "cpusetCpus": "0"})
        );
        assert_eq!(
            extras(json!({"BlkioWeight": 300})),
            json!({"io": {"weight": 300}})
        );
    }
}
