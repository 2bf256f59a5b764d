//! The audit log: who asked for what, when, and what came of it.
//!
//! Invariant: off unless a policy and a place are given, and then nothing is looked at that the policy does not want.
//! Deliberately absent: the webhook backend.

mod event;
mod log;
mod policy;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::clock::Clock;
use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use jiff::Timestamp;
use serde_json::Value;

use crate::http::body::Body;
use crate::http::request_info::RequestInfo;
use crate::user::User;
use event::Answer;
pub use log::LogSettings;
use log::Log;
pub use policy::{Level, Policy, Stage};
use policy::Verdict;

/// What is recorded, and where.
#[derive(Debug)]
pub struct AuditSettings {
    pub policy: Policy,
    pub log: LogSettings,
}

pub struct Auditor {
    policy: Policy,
    log: Log,
    clock: Clock,
}

impl Auditor {
    pub fn open(settings: AuditSettings, clock: Clock) -> std::io::Result<Auditor> {
        Ok(Auditor { policy: settings.policy, log: Log::open(settings.log, clock.clone())?, clock })
    }

    /// Records written and lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.log.written.load(Ordering::Relaxed), self.log.lost.load(Ordering::Relaxed))
    }

    /// The record of a request whose sender is known; None: the policy does not want it.
    pub async fn begin(self: &Arc<Self>, seen: Seen<'_>) -> Option<Record> {
        let verdict = self.policy.judge(seen.user, seen.info);
        if verdict.level == Level::None {
            return None;
        }
        let record = Record {
            auditor: self.clone(),
            base: event::base(&seen, verdict.level),
            verdict,
            request: Bytes::new(),
            content_type: event::text(seen.headers, "content-type"),
        };
        record.write(Stage::RequestReceived, None).await;
        Some(record)
    }
}

/// A request as it came.
pub struct Seen<'a> {
    pub id: &'a str,
    pub received: Timestamp,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub peer: Option<std::net::IpAddr>,
    pub user: &'a User,
    pub info: &'a RequestInfo,
}

/// One request's way through the log.
pub struct Record {
    auditor: Arc<Auditor>,
    verdict: Verdict,
    /// What all its events have in common.
    base: Value,
    request: Bytes,
    content_type: String,
}

impl Record {
    pub fn impersonates(&mut self, user: &User) {
        self.base["impersonatedUser"] = event::user(user);
    }

    pub fn decided(&mut self, allowed: bool, reason: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.annotate("authorization.k8s.io/decision", decision);
        self.annotate("authorization.k8s.io/reason", reason);
    }

    pub fn annotate(&mut self, key: &str, value: &str) {
        if !self.base["annotations"].is_object() {
            self.base["annotations"] = serde_json::json!({});
        }
        self.base["annotations"][key] = value.into();
    }

    /// The body, if the policy wants it.
    pub fn body(&mut self, body: &Bytes) {
        if self.verdict.level >= Level::Request {
            self.request = body.clone();
        }
    }

    /// The answer is there; what follows of a long one is awaited by the body that is returned.
    pub async fn finish(self, response: Response<Body>, long_running: bool, panicked: bool) -> Response<Body> {
        let wants_body = self.verdict.level == Level::RequestResponse && !long_running;
        let (parts, body) = response.into_parts();
        let (body, bytes) = if wants_body { event::whole(body).await } else { (body, None) };
        let answer = Answer::of(&parts, &body, bytes);
        if panicked {
            self.write(Stage::Panic, Some(&answer)).await;
            return Response::from_parts(parts, body);
        }
        if !long_running {
            self.write(Stage::ResponseComplete, Some(&answer)).await;
            return Response::from_parts(parts, body);
        }
        self.write(Stage::ResponseStarted, Some(&answer)).await;
        let end = AtEnd { record: self, answer };
        Response::from_parts(parts, body.holding(end))
    }

    async fn write(&self, stage: Stage, answer: Option<&Answer>) {
        if self.verdict.records(stage) {
            self.auditor.log.write(self.line(stage, answer)).await;
        }
    }

    fn line(&self, stage: Stage, answer: Option<&Answer>) -> Vec<u8> {
        let mut event = self.base.clone();
        event["stage"] = stage.name().into();
        event["stageTimestamp"] = event::time(self.auditor.clock.now()).into();
        if stage != Stage::RequestReceived && !self.request.is_empty() {
            let object = event::object(&self.request, &self.content_type, self.verdict.omit_managed_fields);
            event["requestObject"] = object.unwrap_or(Value::Null);
        }
        if let Some(answer) = answer {
            answer.write(&mut event, self.verdict.omit_managed_fields);
        }
        event::line(&event)
    }
}

/// Says so when a long answer has ended.
struct AtEnd {
    record: Record,
    answer: Answer,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if self.record.verdict.records(Stage::ResponseComplete) {
            let line = self.record.line(Stage::ResponseComplete, Some(&self.answer));
            self.record.auditor.log.write_now(line);
        }
    }
}
