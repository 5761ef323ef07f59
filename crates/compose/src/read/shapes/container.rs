//! What every container has.

use super::{COMMAND, DICT, EXTRA_HOSTS, FILES, OPTIONS, STRING_OR_LIST, STRINGS, ULIMITS};
use crate::read::shape::{
    Key,
    Shape::{self, *},
};

const BLKIO_LIMIT: Shape = List(&Object(&[&[("path", Text), ("rate", TextNumber)]], &[]));

const BLKIO_WEIGHT: Shape = List(&Object(&[&[("path", Text), ("weight", TextNumber)]], &[]));

fn is_pull_policy(s: &str) -> bool {
    let every = |rest: &str| {
        !rest.is_empty()
            && rest.ends_with(['w', 'd', 'h', 'm', 's'])
            && rest.starts_with(|c: char| c.is_ascii_digit())
            && rest
                .bytes()
                .all(|b| b.is_ascii_digit() || b"wdhms".contains(&b))
    };
    matches!(
        s,
        "always"
            | "never"
            | "build"
            | "if_not_present"
            | "missing"
            | "refresh"
            | "daily"
            | "weekly"
    ) || s.strip_prefix("every_").is_some_and(every)
}

/// What every container has: services, jobs, `pre_start`.
pub(in crate::read) const CONTAINER: &[Key] = &[
    ("annotations", DICT),
    (
        "blkio_config",
        Object(
            &[&[
                ("device_read_bps", BLKIO_LIMIT),
                ("device_read_iops", BLKIO_LIMIT),
                ("device_write_bps", BLKIO_LIMIT),
                ("device_write_iops", BLKIO_LIMIT),
                ("weight", IntText),
                ("weight_device", BLKIO_WEIGHT),
            ]],
            &[],
        ),
    ),
    ("cap_add", STRINGS),
    ("cap_drop", STRINGS),
    ("cgroup", OneOfTexts(&["host", "private"])),
    ("cgroup_parent", Text),
    ("command", COMMAND),
    ("configs", FILES),
    ("cpu_count", IntText),
    ("cpu_percent", NumberText),
    ("cpu_shares", IntText),
    ("cpu_quota", TextNumber),
    ("cpu_period", TextNumber),
    ("cpu_rt_period", TextNumber),
    ("cpu_rt_runtime", TextNumber),
    ("cpus", NumberText),
    ("cpuset", Text),
    (
        "credential_spec",
        Object(
            &[&[("config", Text), ("file", Text), ("registry", Text)]],
            &[],
        ),
    ),
    ("device_cgroup_rules", STRINGS),
    (
        "devices",
        List(&OneOf(&[
            Text,
            Object(
                &[&[("source", Text), ("target", Text), ("permissions", Text)]],
                &["source"],
            ),
        ])),
    ),
    ("dns", STRING_OR_LIST),
    ("dns_opt", STRINGS),
    ("dns_search", STRING_OR_LIST),
    ("domainname", Text),
    ("entrypoint", COMMAND),
    (
        "env_file",
        OneOf(&[
            Text,
            List(&OneOf(&[
                Text,
                Object(
                    &[&[("path", Text), ("format", Text), ("required", BoolText)]],
                    &["path"],
                ),
            ])),
        ]),
    ),
    ("label_file", STRING_OR_LIST),
    ("environment", DICT),
    ("extra_hosts", EXTRA_HOSTS),
    ("gpus", OneOf(&[OneOfTexts(&["all"]), List(&Any)])),
    ("group_add", Set(&TextNumber)),
    ("hostname", Text),
    ("image", Text),
    ("init", BoolText),
    ("ipc", Text),
    ("isolation", Text),
    ("labels", DICT),
    (
        "logging",
        Object(&[&[("driver", Text), ("options", Map(&Scalar))]], &[]),
    ),
    ("mac_address", Text),
    ("mem_limit", Size),
    ("mem_reservation", Size),
    ("mem_swappiness", IntText),
    ("memswap_limit", Size),
    ("network_mode", Text),
    (
        "models",
        OneOf(&[
            STRINGS,
            Named(&OneOf(&[
                Object(&[&[("endpoint_var", Text), ("model_var", Text)]], &[]),
                Null,
            ])),
        ]),
    ),
    (
        "networks",
        OneOf(&[
            STRINGS,
            Named(&OneOf(&[
                Object(
                    &[&[
                        ("aliases", STRINGS),
                        ("interface_name", Text),
                        ("ipv4_address", Text),
                        ("ipv6_address", Text),
                        ("link_local_ips", STRINGS),
                        ("mac_address", Text),
                        ("driver_opts", OPTIONS),
                        ("priority", NumberText),
                        ("gw_priority", NumberText),
                        ("use_service_name_alias", BoolText),
                    ]],
                    &[],
                ),
                Null,
            ])),
        ]),
    ),
    ("oom_kill_disable", BoolText),
    ("oom_score_adj", IntText),
    ("pid", OneOf(&[Text, Null])),
    ("pids_limit", IntText),
    ("platform", Text),
    ("privileged", BoolText),
    (
        "pull_policy",
        Matches(
            is_pull_policy,
            "^(always|never|build|if_not_present|missing|refresh|daily|weekly|every_([0-9]+[wdhms])+)$",
        ),
    ),
    ("pull_refresh_after", Text),
    ("read_only", BoolText),
    ("runtime", Text),
    ("security_opt", STRINGS),
    ("shm_size", Size),
    ("secrets", FILES),
    ("sysctls", DICT),
    ("stop_grace_period", Text),
    ("stop_signal", Text),
    ("storage_opt", Map(&Any)),
    ("tmpfs", STRING_OR_LIST),
    ("ulimits", ULIMITS),
    ("umask", OneOf(&[IntText, Null])),
    ("use_api_socket", Bool),
    ("user", Text),
    ("uts", Text),
    ("userns_mode", Text),
    (
        "volumes",
        Set(&OneOf(&[
            Text,
            Object(
                &[&[
                    (
                        "type",
                        OneOfTexts(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
                    ),
                    ("source", Text),
                    ("target", Text),
                    ("read_only", BoolText),
                    ("consistency", Text),
                    (
                        "bind",
                        Object(
                            &[&[
                                ("propagation", Text),
                                ("create_host_path", BoolText),
                                (
                                    "recursive",
                                    OneOfTexts(&["enabled", "disabled", "writable", "readonly"]),
                                ),
                                ("selinux", OneOfTexts(&["z", "Z"])),
                            ]],
                            &[],
                        ),
                    ),
                    (
                        "volume",
                        Object(
                            &[&[("labels", DICT), ("nocopy", BoolText), ("subpath", Text)]],
                            &[],
                        ),
                    ),
                    ("tmpfs", Object(&[&[("size", Size), ("mode", Size)]], &[])),
                    ("image", Object(&[&[("subpath", Text)]], &[])),
                ]],
                &["type"],
            ),
        ])),
    ),
    ("volumes_from", STRINGS),
    ("working_dir", Text),
];
