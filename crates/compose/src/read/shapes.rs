//! The shapes of the Compose specification: which key may hold what.

use super::shape::{
    Key,
    Shape::{self, *},
};

const STRINGS: Shape = Set(&Text);
const STRING_OR_LIST: Shape = OneOf(&[Text, STRINGS]);
const DICT: Shape = OneOf(&[Map(&Scalar), STRINGS]);
const OPTIONS: Shape = Map(&TextNumber);
const COMMAND: Shape = OneOf(&[Null, Text, List(&Text)]);
const EXTERNAL: Shape = OneOf(&[BoolText, Object(&[&[("name", Text)]], &[])]);
const EXTRA_HOSTS: Shape = OneOf(&[Map(&OneOf(&[Text, List(&Text)])), STRINGS]);
const FILES: Shape = List(&OneOf(&[
    Text,
    Object(
        &[&[
            ("source", Text),
            ("target", Text),
            ("uid", TextNumber),
            ("gid", TextNumber),
            ("mode", Size),
        ]],
        &[],
    ),
]));
const ULIMITS: Shape = Map(&OneOf(&[
    IntText,
    Object(
        &[&[("hard", IntText), ("soft", IntText)]],
        &["soft", "hard"],
    ),
]));
const BLKIO_LIMIT: Shape = List(&Object(&[&[("path", Text), ("rate", TextNumber)]], &[]));
const BLKIO_WEIGHT: Shape = List(&Object(&[&[("path", Text), ("weight", TextNumber)]], &[]));
const HOOK: Shape = Object(
    &[&[
        ("command", COMMAND),
        ("user", Text),
        ("privileged", BoolText),
        ("working_dir", Text),
        ("environment", DICT),
    ]],
    &["command"],
);
const DEVICES: Shape = List(&Object(
    &[&[
        ("capabilities", STRINGS),
        ("count", TextNumber),
        ("device_ids", STRINGS),
        ("driver", Text),
        ("options", DICT),
    ]],
    &["capabilities"],
));

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

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, found anywhere, as the schema has it.
fn is_container_name(s: &str) -> bool {
    s.as_bytes().windows(2).any(|w| {
        w[0].is_ascii_alphanumeric() && (w[1].is_ascii_alphanumeric() || b"_.-".contains(&w[1]))
    })
}

/// What every container has: services, jobs, `pre_start`.
pub(super) const CONTAINER: &[Key] = &[
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

/// What runs on its own: services and jobs.
const WORKLOAD: &[Key] = &[
    ("build", OneOf(&[Text, Object(&[BUILD], &[])])),
    (
        "depends_on",
        OneOf(&[
            STRINGS,
            Named(&Object(
                &[&[
                    ("restart", BoolText),
                    ("required", BoolText),
                    (
                        "condition",
                        OneOfTexts(&[
                            "service_started",
                            "service_healthy",
                            "service_completed_successfully",
                        ]),
                    ),
                ]],
                &["condition"],
            )),
        ]),
    ),
    (
        "healthcheck",
        Object(
            &[&[
                ("disable", BoolText),
                ("interval", Text),
                ("retries", IntText),
                ("test", OneOf(&[Text, List(&Text)])),
                ("timeout", Text),
                ("start_period", Text),
                ("start_interval", Text),
            ]],
            &[],
        ),
    ),
    (
        "ports",
        Set(&OneOf(&[
            TextNumber,
            Object(
                &[&[
                    ("name", Text),
                    ("mode", Text),
                    ("host_ip", Text),
                    ("target", IntText),
                    ("published", TextNumber),
                    ("protocol", Text),
                    ("app_protocol", Text),
                ]],
                &[],
            ),
        ])),
    ),
    ("expose", Set(&TextNumber)),
    ("stdin_open", BoolText),
    ("tty", BoolText),
];

const BUILD: &[Key] = &[
    ("context", Text),
    ("dockerfile", Text),
    ("dockerfile_inline", Text),
    ("entitlements", List(&Text)),
    ("args", DICT),
    ("ssh", DICT),
    ("labels", DICT),
    ("cache_from", List(&Text)),
    ("cache_to", List(&Text)),
    ("no_cache", BoolText),
    ("no_cache_filter", STRING_OR_LIST),
    ("additional_contexts", DICT),
    ("network", Text),
    ("provenance", OneOf(&[Text, Bool])),
    ("sbom", OneOf(&[Text, Bool])),
    ("pull", BoolText),
    ("target", Text),
    ("shm_size", Size),
    ("extra_hosts", EXTRA_HOSTS),
    ("isolation", Text),
    ("privileged", BoolText),
    ("secrets", FILES),
    ("tags", List(&Text)),
    ("ulimits", ULIMITS),
    ("platforms", List(&Text)),
];

const UPDATE: Shape = Object(
    &[&[
        ("parallelism", IntText),
        ("delay", Text),
        ("failure_action", Text),
        ("monitor", Text),
        ("max_failure_ratio", NumberText),
        ("order", OneOfTexts(&["start-first", "stop-first"])),
    ]],
    &[],
);

const GENERIC: Shape = List(&Object(
    &[&[(
        "discrete_resource_spec",
        Object(&[&[("kind", Text), ("value", TextNumber)]], &[]),
    )]],
    &[],
));

const DEPLOY: &[Key] = &[
    ("mode", Text),
    ("endpoint_mode", Text),
    ("replicas", IntText),
    ("labels", DICT),
    ("rollback_config", UPDATE),
    ("update_config", UPDATE),
    (
        "resources",
        Object(
            &[&[
                (
                    "limits",
                    Object(
                        &[&[("cpus", TextNumber), ("memory", Size), ("pids", IntText)]],
                        &[],
                    ),
                ),
                (
                    "reservations",
                    Object(
                        &[&[
                            ("cpus", TextNumber),
                            ("memory", Size),
                            ("generic_resources", GENERIC),
                            ("devices", DEVICES),
                        ]],
                        &[],
                    ),
                ),
            ]],
            &[],
        ),
    ),
    (
        "restart_policy",
        Object(
            &[&[
                ("condition", Text),
                ("delay", Text),
                ("max_attempts", IntText),
                ("window", Text),
            ]],
            &[],
        ),
    ),
    (
        "placement",
        Object(
            &[&[
                ("constraints", List(&Text)),
                ("preferences", List(&Object(&[&[("spread", Text)]], &[]))),
                ("max_replicas_per_node", IntText),
            ]],
            &[],
        ),
    ),
];

const WATCH: Shape = List(&Object(
    &[&[
        ("ignore", STRING_OR_LIST),
        ("include", STRING_OR_LIST),
        ("path", Text),
        (
            "action",
            OneOfTexts(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
        ),
        ("target", Text),
        ("exec", HOOK),
        ("initial_sync", Bool),
    ]],
    &["path", "action"],
));

const SERVICE: &[Key] = &[
    ("deploy", OneOf(&[Object(&[DEPLOY], &[]), Null])),
    (
        "develop",
        OneOf(&[Object(&[&[("watch", WATCH)]], &[]), Null]),
    ),
    ("profiles", STRINGS),
    ("restart", Text),
    ("scale", IntText),
    ("attach", BoolText),
    (
        "container_name",
        Matches(is_container_name, "[a-zA-Z0-9][a-zA-Z0-9_.-]+"),
    ),
    (
        "provider",
        Object(&[&[("type", Text), ("options", Map(&Any))]], &["type"]),
    ),
    (
        "extends",
        OneOf(&[
            Text,
            Object(&[&[("service", Text), ("file", Text)]], &["service"]),
        ]),
    ),
    ("links", STRINGS),
    ("external_links", STRINGS),
    (
        "pre_start",
        List(&Object(&[CONTAINER, &[("per_replica", BoolText)]], &[])),
    ),
    ("post_start", List(&HOOK)),
    ("pre_stop", List(&HOOK)),
    ("volume_driver", Text),
];

const SCHEDULE: Shape = OneOf(&[
    Text,
    Object(
        &[&[
            ("cron", Text),
            ("timezone", Text),
            ("concurrency", OneOfTexts(&["forbid", "queue"])),
            ("missed_fires", OneOfTexts(&["one", "skip"])),
        ]],
        &["cron"],
    ),
]);

/// The whole file.
pub(super) const FILE: Shape = Object(
    &[&[
        ("version", TextNumber),
        ("name", Text),
        ("include", List(&Any)),
        (
            "services",
            Named(&Object(&[CONTAINER, WORKLOAD, SERVICE], &[])),
        ),
        (
            "jobs",
            Named(&Object(
                &[
                    CONTAINER,
                    WORKLOAD,
                    &[
                        ("profiles", STRINGS),
                        (
                            "triggers",
                            Object(
                                &[&[("manual", BoolText), ("schedule", List(&SCHEDULE))]],
                                &[],
                            ),
                        ),
                    ],
                ],
                &["triggers"],
            )),
        ),
        (
            "models",
            Named(&Object(
                &[&[
                    ("name", Text),
                    ("model", Text),
                    ("context_size", Int),
                    ("runtime_flags", List(&Text)),
                ]],
                &["model"],
            )),
        ),
        (
            "networks",
            Named(&OneOf(&[
                Object(
                    &[&[
                        ("name", Text),
                        ("driver", Text),
                        ("driver_opts", OPTIONS),
                        (
                            "ipam",
                            Object(
                                &[&[
                                    ("driver", Text),
                                    (
                                        "config",
                                        List(&Object(
                                            &[&[
                                                ("subnet", Text),
                                                ("ip_range", Text),
                                                ("gateway", Text),
                                                ("aux_addresses", Map(&Text)),
                                            ]],
                                            &[],
                                        )),
                                    ),
                                    ("options", Map(&Text)),
                                ]],
                                &[],
                            ),
                        ),
                        ("external", EXTERNAL),
                        ("internal", BoolText),
                        ("enable_ipv4", BoolText),
                        ("enable_ipv6", BoolText),
                        ("attachable", BoolText),
                        ("labels", DICT),
                    ]],
                    &[],
                ),
                Null,
            ])),
        ),
        (
            "volumes",
            Named(&OneOf(&[
                Object(
                    &[&[
                        ("name", Text),
                        ("driver", Text),
                        ("driver_opts", OPTIONS),
                        ("external", EXTERNAL),
                        ("labels", DICT),
                    ]],
                    &[],
                ),
                Null,
            ])),
        ),
        (
            "secrets",
            Named(&Object(
                &[OBJECT, &[("driver", Text), ("driver_opts", OPTIONS)]],
                &[],
            )),
        ),
        (
            "configs",
            Named(&Object(&[OBJECT, &[("content", Text)]], &[])),
        ),
    ]],
    &[],
);

const OBJECT: &[Key] = &[
    ("name", Text),
    ("environment", Text),
    ("file", Text),
    ("external", EXTERNAL),
    ("labels", DICT),
    ("template_driver", Text),
];
