//! What can be set of a node: upstream's own configuration file, as far as it means something here.
//!
//! Source: `kubelet.config.k8s.io/v1beta1` KubeletConfiguration and its defaults (`pkg/kubelet/apis/config/v1beta1/defaults.go`). What differs on purpose is said at the field.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use crate::{
    eviction::threshold::{self, Threshold},
    id_ranges::{BLOCK, BLOCKS},
};

/// No fork bomb of one Pod may take the machine's last process number. Upstream has no limit by default; most of its distributions set one.
pub const POD_PIDS_DEFAULT: i64 = 4096;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// most processes and threads of a Pod; 0 and below: no limit
    pub pod_pids_max: i64,
    /// kernel parameters that Pods may set besides the safe ones; `net.core.*` stands for all that begin so
    pub allowed_unsafe_sysctls: Vec<String>,
    /// containers without a seccomp profile get the default one. Upstream's default is false; here true
    pub seccomp_default: bool,
    /// one process out of memory ends alone, not with its container (cgroup v2)
    pub single_process_oom_kill: bool,
    /// user ids of a Pod that has a user namespace of its own, a multiple of 65,536
    pub ids_per_pod: u32,
    /// folder of static Pods' manifests; without it, one in the data directory
    pub static_pod_path: Option<std::path::PathBuf>,
    /// bytes of a container's log after which a new file is begun
    pub log_bytes_max: u64,
    /// how many files a container's log may have
    pub log_files_max: u32,
    /// how many images are pulled at the same time
    pub pulls_max: usize,
    /// when Pods are evicted
    pub eviction: Eviction,
    /// when images that no container uses are removed
    pub image_gc: ImageGc,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Eviction {
    pub(crate) thresholds: Vec<Threshold>,
    /// how long a condition stays True after its threshold was last met
    pub pressure_transition: Duration,
    /// most patience with a Pod that a soft threshold evicts
    pub pod_grace_max: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ImageGc {
    /// percent of the file system in use from which images are removed; 100: never
    pub high_percent: u8,
    /// …until it's down to this
    pub low_percent: u8,
    /// an image is kept at least so long after it was last used
    pub age_min: Duration,
    /// an image unused for so long is removed whatever the disk has free; zero: never
    pub age_max: Duration,
    /// what counts as full is capped by this many free bytes, unless the percentages were set: on a developer's large disk 15 % are no reason to remove anything
    pub free_bytes_max: Option<u64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            pod_pids_max: POD_PIDS_DEFAULT,
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: true,
            single_process_oom_kill: false,
            ids_per_pod: BLOCK,
            static_pod_path: None,
            log_bytes_max: 10 << 20,
            log_files_max: 5,
            pulls_max: 1,
            eviction: Eviction {
                thresholds: threshold::defaults(),
                pressure_transition: Duration::from_secs(300),
                pod_grace_max: Duration::ZERO,
            },
            image_gc: ImageGc {
                // until images can be pulled again, none that was loaded or packed goes by itself
                high_percent: 100,
                low_percent: 80,
                age_min: Duration::from_secs(120),
                age_max: Duration::ZERO,
                free_bytes_max: Some(5 << 30),
            },
        }
    }
}

/// The most images that are pulled at the same time, whatever the settings allow.
const PULLS_MAX: usize = 64;

/// The file can't be taken: what is wrong and where.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub struct SettingsError(String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    pod_pids_limit: Option<i64>,
    #[serde(rename = "allowedUnsafeSysctls", default)]
    allowed_unsafe_sysctls: Vec<String>,
    seccomp_default: Option<bool>,
    #[serde(rename = "singleProcessOOMKill")]
    single_process_oom_kill: Option<bool>,
    static_pod_path: Option<std::path::PathBuf>,
    eviction_hard: Option<BTreeMap<String, String>>,
    #[serde(default)]
    eviction_soft: BTreeMap<String, String>,
    #[serde(default)]
    eviction_soft_grace_period: BTreeMap<String, String>,
    #[serde(default)]
    eviction_minimum_reclaim: BTreeMap<String, String>,
    eviction_pressure_transition_period: Option<String>,
    eviction_max_pod_grace_period: Option<u32>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low: Option<u8>,
    #[serde(rename = "imageMinimumGCAge")]
    image_age_min: Option<String>,
    #[serde(rename = "imageMaximumGCAge")]
    image_age_max: Option<String>,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<u32>,
    serialize_image_pulls: Option<bool>,
    max_parallel_image_pulls: Option<usize>,
    #[serde(default)]
    user_namespaces: UserNamespaces,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UserNamespaces {
    #[serde(rename = "idsPerPod")]
    ids_per_pod: Option<i64>,
}

impl Settings {
    /// The defaults, but that no shortage of the machine's makes a Pod go: for tests that are to pass on a full disk.
    #[cfg(test)]
    pub(crate) fn without_evictions() -> Settings {
        let mut settings = Settings::default();
        settings.eviction.thresholds.clear();
        settings.image_gc.high_percent = 100;
        settings
    }

    /// A KubeletConfiguration in YAML or JSON.
    ///
    /// # Errors
    /// When it isn't one, has a field that means nothing here, or a value that can't be.
    pub fn parse(text: &str) -> Result<Settings, SettingsError> {
        let file: File = serde_saphyr::from_str(text).map_err(|e| SettingsError(e.to_string()))?;
        from_file(file).map_err(SettingsError)
    }
}

impl Settings {
    /// As `/configz` shows them: the fields of a KubeletConfiguration that mean something here, with what else is set.
    pub(crate) fn shown(&self, context: &crate::context::Context) -> serde_json::Value {
        let seconds = |d: Duration| format!("{}s", d.as_secs());
        serde_json::json!({
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "podPidsLimit": self.pod_pids_max,
            "allowedUnsafeSysctls": self.allowed_unsafe_sysctls,
            "seccompDefault": self.seccomp_default,
            "singleProcessOOMKill": self.single_process_oom_kill,
            "evictionPressureTransitionPeriod": seconds(self.eviction.pressure_transition),
            "imageGCHighThresholdPercent": self.image_gc.high_percent,
            "imageGCLowThresholdPercent": self.image_gc.low_percent,
            "imageMinimumGCAge": seconds(self.image_gc.age_min),
            "imageMaximumGCAge": seconds(self.image_gc.age_max),
            "containerLogMaxSize": self.log_bytes_max.to_string(),
            "containerLogMaxFiles": self.log_files_max,
            "serializeImagePulls": self.pulls_max == 1,
            "maxParallelImagePulls": self.pulls_max,
            "userNamespaces": {"idsPerPod": self.ids_per_pod},
            "clusterDomain": context.cluster_domain,
            "clusterDNS": [context.dns_ip.to_string()],
            "cgroupDriver": "cgroupfs", "cgroupsPerQOS": true,
            "authentication": {"webhook": {"enabled": true}, "anonymous": {"enabled": false}},
            "authorization": {"mode": "Webhook"},
            "enableDebuggingHandlers": true,
        })
    }
}

fn from_file(file: File) -> Result<Settings, String> {
    if (file.api_version.as_str(), file.kind.as_str())
        != ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")
    {
        return Err(format!(
            "{} {} is no kubelet.config.k8s.io/v1beta1 KubeletConfiguration",
            file.api_version, file.kind
        ));
    }
    let mut out = Settings {
        static_pod_path: file.static_pod_path,
        ..Settings::default()
    };
    if let Some(pids) = file.pod_pids_limit {
        out.pod_pids_max = pids;
    }
    for name in &file.allowed_unsafe_sysctls {
        crate::spec::sysctl::check_pattern(name)?;
    }
    out.allowed_unsafe_sysctls = file.allowed_unsafe_sysctls;
    out.seccomp_default = file.seccomp_default.unwrap_or(out.seccomp_default);
    out.single_process_oom_kill = file.single_process_oom_kill.unwrap_or(false);
    out.eviction.thresholds = threshold::parse(
        file.eviction_hard.as_ref(),
        &file.eviction_soft,
        &file.eviction_soft_grace_period,
        &file.eviction_minimum_reclaim,
    )?;
    if let Some(text) = file.eviction_pressure_transition_period {
        out.eviction.pressure_transition = duration(&text)?;
    }
    if let Some(seconds) = file.eviction_max_pod_grace_period {
        out.eviction.pod_grace_max = Duration::from_secs(seconds.into());
    }
    if let Some(text) = file.container_log_max_size {
        let bytes = knarr_quantity::units(&text).and_then(|n| u64::try_from(n).ok());
        out.log_bytes_max = bytes.filter(|n| *n > 0).ok_or_else(|| {
            format!(
                "invalid configuration: containerLogMaxSize {text:?} is no size: write it as 10Mi"
            )
        })?;
    }
    if let Some(files) = file.container_log_max_files {
        if files < 2 {
            return Err(
                "invalid configuration: containerLogMaxFiles must be greater than 1".into(),
            );
        }
        out.log_files_max = files;
    }
    out.pulls_max = match (file.serialize_image_pulls, file.max_parallel_image_pulls) {
        (Some(true), Some(n)) if n > 1 => {
            return Err(
                "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless serializeImagePulls is false"
                    .into(),
            );
        }
        (_, Some(0)) => {
            return Err(
                "invalid configuration: maxParallelImagePulls must be a positive number".into(),
            );
        }
        (_, Some(n)) => n.min(PULLS_MAX),
        (Some(false), None) => PULLS_MAX,
        _ => out.pulls_max,
    };
    if let Some(ids) = file.user_namespaces.ids_per_pod {
        // in the words of upstream's validation (`pkg/kubelet/apis/config/validation`)
        if ids < i64::from(BLOCK) || ids % i64::from(BLOCK) != 0 {
            return Err(format!(
                "invalid configuration: userNamespaces.idsPerPod {ids} must be a multiple of {BLOCK}"
            ));
        }
        let most = i64::from(BLOCK) * i64::from(BLOCKS);
        out.ids_per_pod = u32::try_from(ids.min(most)).unwrap_or(BLOCK);
        if ids > most {
            return Err(format!(
                "invalid configuration: userNamespaces.idsPerPod {ids} is more than {most}, all the ids that pods can have"
            ));
        }
    }
    let gc = &mut out.image_gc;
    if file.image_gc_high.is_some() || file.image_gc_low.is_some() {
        gc.free_bytes_max = None;
    }
    gc.high_percent = file.image_gc_high.unwrap_or(gc.high_percent);
    gc.low_percent = file.image_gc_low.unwrap_or(gc.low_percent);
    if gc.high_percent > 100 || gc.low_percent >= gc.high_percent {
        return Err(format!(
            "invalid configuration: imageGCHighThresholdPercent {} must be greater than imageGCLowThresholdPercent {}",
            gc.high_percent, gc.low_percent
        ));
    }
    if let Some(text) = file.image_age_min {
        gc.age_min = duration(&text)?;
    }
    if let Some(text) = file.image_age_max {
        gc.age_max = duration(&text)?;
        if !gc.age_max.is_zero() && gc.age_max <= gc.age_min {
            return Err(
                "invalid configuration: imageMaximumGCAge must be greater than imageMinimumGCAge"
                    .into(),
            );
        }
    }
    Ok(out)
}

/// As Go writes durations: `5m0s`, `1.5h`, `300ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}: write it as 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(invalid()),
            };
        rest = &rest[end..];
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in [
            ("0", Some(0)),
            ("5m0s", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            ("300ms", Some(300)),
            ("5", None),
            ("", None),
            ("m", None),
            ("5y", None),
        ] {
            let got = duration(text).ok().map(|d| d.as_millis());
            assert_eq!(got, millis, "{text}");
        }
    }

    #[test]
    fn a_configuration_file() {
        assert_eq!(Settings::parse(HEAD), Ok(Settings::default()));
        let text = format!(
            "{HEAD}podPidsLimit: 100\nallowedUnsafeSysctls: ['net.core.*']\nimageGCHighThresholdPercent: 70\nimageGCLowThresholdPercent: 60\nevictionHard:\n  memory.available: 200Mi\n  nodefs.available: 5%\nevictionPressureTransitionPeriod: 10s\ncontainerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 3\n"
        );
        let got = Settings::parse(&text).unwrap();
        assert_eq!(got.pod_pids_max, 100);
        assert_eq!((got.log_bytes_max, got.log_files_max), (1 << 20, 3));
        assert_eq!(got.allowed_unsafe_sysctls, ["net.core.*"]);
        assert_eq!(got.image_gc.low_percent, 60);
        assert_eq!(got.image_gc.free_bytes_max, None);
        // the one for memory holds for the Pods together, too
        assert_eq!(got.eviction.thresholds.len(), 3);
        assert_eq!(got.eviction.pressure_transition, Duration::from_secs(10));
        for (line, want) in [
            ("nonsense: 1", "nonsense"),
            (
                "allowedUnsafeSysctls: ['vm.swappiness']",
                "not known to be namespaced",
            ),
            ("imageGCHighThresholdPercent: 50", "must be greater than"),
            ("containerLogMaxFiles: 1", "must be greater than 1"),
            ("containerLogMaxSize: much", "is no size"),
            ("evictionHard: {memory.free: 1Mi}", "memory.free"),
            ("evictionSoft: {memory.available: 1Gi}", "grace period"),
            ("userNamespaces: {idsPerPod: 65537}", "multiple of 65536"),
            ("userNamespaces: {idsPerPod: 0}", "multiple of 65536"),
            ("userNamespaces: {idsPerPod: 4294967296}", "all the ids"),
            ("userNamespaces: {ids: 1}", "ids"),
        ] {
            let error = Settings::parse(&format!("{HEAD}{line}\n")).unwrap_err();
            assert!(error.to_string().contains(want), "{line}: {error}");
        }
        let ids = format!("{HEAD}userNamespaces: {{idsPerPod: 262144}}\n");
        assert_eq!(Settings::parse(&ids).unwrap().ids_per_pod, 262_144);
        assert!(Settings::parse("apiVersion: v1\nkind: Pod\n").is_err());
    }
}
