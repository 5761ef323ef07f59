//! The shapes of the Compose specification: which key may hold what.

mod container;
mod deploy;

pub(super) use container::CONTAINER;
use deploy::DEPLOY;

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
/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, found anywhere, as the schema has it.
fn is_container_name(s: &str) -> bool {
    s.as_bytes().windows(2).any(|w| {
        w[0].is_ascii_alphanumeric() && (w[1].is_ascii_alphanumeric() || b"_.-".contains(&w[1]))
    })
}

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
