//! `deploy`: how many there are of a service, where, and how they are replaced.

use super::{DICT, STRINGS};
use crate::read::shape::{
    Key,
    Shape::{self, *},
};

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

pub(super) const DEPLOY: &[Key] = &[
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
