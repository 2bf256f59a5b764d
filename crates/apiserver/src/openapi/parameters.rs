//! Parameters of paths and queries.

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    pub name: &'static str,
    pub place: Place,
    /// As JSON Schema calls it.
    pub kind: &'static str,
    about: &'static str,
}

impl Parameter {
    pub fn description(&self) -> String {
        match (self.place, self.name) {
            (Place::Path, "name") => format!("name of the {}", self.about),
            _ => self.about.to_owned(),
        }
    }
}

const fn text(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, kind: "string", about }
}

const fn number(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, kind: "integer", about }
}

const fn switch(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, kind: "boolean", about }
}

const fn path(name: &'static str, about: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, kind: "string", about }
}

pub const NAMESPACE: Parameter = path("namespace", "object name and auth scope, such as for teams and projects");
pub const PATH: Parameter = path("path", "path to the resource");

/// The name of an object of a kind.
pub const fn name(kind: &'static str) -> Parameter {
    path("name", kind)
}

pub const PRETTY: Parameter =
    text("pretty", "If 'true', the output is indented; so it is for browsers, curl and wget unless 'false'.");

const DRY_RUN: Parameter = text("dryRun", "All: everything happens but that something is stored.");
const MANAGER: &str = "Who makes this change: printable, at most 128 characters.";
const FIELD_VALIDATION: Parameter = text(
    "fieldValidation",
    "What becomes of unknown and duplicate fields: Ignore drops them, Warn (the default) drops them with a warning, Strict refuses the request.",
);

pub const WRITE: &[Parameter] = &[DRY_RUN, text("fieldManager", MANAGER), FIELD_VALIDATION];
pub const PATCH: &[Parameter] = &[
    DRY_RUN,
    text("fieldManager", "Who makes this change: printable, at most 128 characters; apply requests must say it."),
    FIELD_VALIDATION,
    switch("force", "Take over fields that other managers own; for apply requests alone."),
];
pub const LIST: &[Parameter] = &[
    switch("allowWatchBookmarks", "Ask a watch for BOOKMARK events."),
    text("continue", "The token that came with the page before."),
    text("fieldSelector", "Only objects whose fields are these. Defaults to everything."),
    text("labelSelector", "Only objects whose labels are these. Defaults to everything."),
    number("limit", "The most objects in one answer; the rest comes by its continue token."),
    text("resourceVersion", "How fresh the answer must be, or from where on to watch."),
    text("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    switch("sendInitialEvents", "Begin a watch with what is there, and mark its end with a bookmark."),
    number("timeoutSeconds", "Ends the call after this time, whatever happens."),
    switch("watch", "Watch for changes instead of listing."),
];
pub const DELETE: &[Parameter] = &[
    DRY_RUN,
    number("gracePeriodSeconds", "Seconds that the object may take to end; 0: at once."),
    switch(
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "Accepted and without effect: no object here is unreadable.",
    ),
    switch("orphanDependents", "Deprecated: use propagationPolicy."),
    text("propagationPolicy", "What becomes of dependents: Orphan, Background or Foreground."),
];
pub const LOG: &[Parameter] = &[
    text("container", "Whose log; may be left out where there is one container."),
    switch("follow", "Go on as the log grows."),
    switch("insecureSkipTLSVerifyBackend", "Do not verify the certificate of the kubelet that has the log."),
    number("limitBytes", "End after so many bytes."),
    switch("previous", "Of the container before its last restart."),
    number("sinceSeconds", "Only what was written within so many seconds."),
    text("stream", "All, Stdout or Stderr. Defaults to All."),
    number("tailLines", "Only so many lines from the end."),
    switch("timestamps", "Begin each line with its time."),
];
const STREAM_ABOUT: &str = "Connect this stream.";
pub const ATTACH: &[Parameter] = &[
    text("container", "Which container; may be left out where there is one."),
    switch("stderr", STREAM_ABOUT),
    switch("stdin", STREAM_ABOUT),
    switch("stdout", STREAM_ABOUT),
    switch("tty", "Connect to a terminal."),
];
pub const EXEC: &[Parameter] = &[
    text("command", "A word of the command; given once for each word, no shell reads it."),
    text("container", "Which container; may be left out where there is one."),
    switch("stderr", STREAM_ABOUT),
    switch("stdin", STREAM_ABOUT),
    switch("stdout", STREAM_ABOUT),
    switch("tty", "Run in a terminal."),
];
pub const PORT_FORWARD: &[Parameter] = &[number("ports", "A port to forward, where WebSockets carry it.")];
pub const PROXY: &[Parameter] = &[text("path", "The path to ask for.")];
