//! The query parameters of the API: name, type, what it does.

pub(super) type Parameter = (&'static str, &'static str, &'static str);

pub(super) const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "With the value All the request is processed and answered, but nothing is stored.",
);
pub(super) const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "The name of who makes the change. Needed for apply patches.",
);
pub(super) const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: Ignore, Warn (the default) or Strict.",
);
pub(super) const FORCE: Parameter = (
    "force",
    "boolean",
    "Take fields over from other appliers. For apply patches only.",
);
pub(super) const PRETTY: Parameter = (
    "pretty",
    "string",
    "With the value true the answer is indented.",
);
pub(super) const LIST: [Parameter; 10] = [
    (
        "allowWatchBookmarks",
        "boolean",
        "Ask for watch events of type BOOKMARK.",
    ),
    (
        "continue",
        "string",
        "Where the list goes on, from the previous chunk's metadata.",
    ),
    (
        "fieldSelector",
        "string",
        "Restrict the objects by their fields.",
    ),
    (
        "labelSelector",
        "string",
        "Restrict the objects by their labels.",
    ),
    (
        "limit",
        "integer",
        "The most objects to answer with in one chunk.",
    ),
    (
        "resourceVersion",
        "string",
        "The version that the list or watch begins at.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How resourceVersion is meant: Exact or NotOlderThan.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "Begin a watch with the objects that there are.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "After how many seconds the call ends.",
    ),
    ("watch", "boolean", "Watch for changes instead of listing."),
];
pub(super) const DELETE: [Parameter; 2] = [
    (
        "gracePeriodSeconds",
        "integer",
        "After how many seconds the object is removed. 0 is at once.",
    ),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
];

pub(super) const LOG: [Parameter; 9] = [
    (
        "container",
        "string",
        "The container whose log is wanted; may be left out when there is one.",
    ),
    ("follow", "boolean", "Go on as lines are written."),
    ("limitBytes", "integer", "The most bytes to answer with."),
    (
        "previous",
        "boolean",
        "The log of the container's previous run.",
    ),
    (
        "sinceSeconds",
        "integer",
        "Only lines of the last so many seconds.",
    ),
    ("stream", "string", "Which stream: All, Stdout or Stderr."),
    (
        "sinceTime",
        "string",
        "Only lines since this time (RFC 3339).",
    ),
    ("tailLines", "integer", "Only so many lines from the end."),
    ("timestamps", "boolean", "Begin each line with its time."),
];
