//! Which path is answered by what, and with which headers.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the page for people, `?prefix=` and `?after=` choose logs |
//! | `/metrics` | figures for Prometheus |
//! | `/healthz` | 200 while no shard stopped |
//! | `/readyz` | 200 while requests are welcome |
//!
//! Not here: what the answers say (`page`, `export`), connections (`watch`).

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use super::sample::Sampler;
use super::text::query_value;
use super::{Stage, export, page, view};

type Answer = Response<Full<Bytes>>;

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A longer prefix is of no log.
const NAME_SIZE_MAX: usize = 255;

fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Answers a request. Its body, if it has one, is not read.
pub(super) async fn route(sampler: &Rc<Sampler>, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if !["/", "/metrics", "/healthz", "/readyz"].contains(&path) {
        let text = "there is /, /metrics, /healthz and /readyz\n";
        return ended(answer(StatusCode::NOT_FOUND, PLAIN, text), request);
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let text = "only GET and HEAD: nothing can be changed here\n";
        let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return ended(refusal, request);
    }
    let answer = match path {
        "/metrics" => metrics(sampler, request).await,
        "/healthz" => health(sampler).await,
        "/readyz" => readiness(sampler).await,
        _ => people(sampler, request.uri().query().unwrap_or_default()).await,
    };
    ended(answer, request)
}

/// The connection ends behind a request with a body: its bytes are no request.
fn ended(mut answer: Answer, request: &Request<Incoming>) -> Answer {
    if !hyper::body::Body::is_end_stream(request.body()) {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn metrics(sampler: &Rc<Sampler>, request: &Request<Incoming>) -> Answer {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    // A browser would only offer to save what it does not know.
    let is_browser = accept.is_some_and(|accept| accept.contains("text/html"));
    match sampler.text(export::metrics(sampler)).await {
        Ok(text) => {
            let kind = if is_browser { PLAIN } else { OPEN_METRICS };
            answer(StatusCode::OK, kind, text.as_ref().clone())
        }
        Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
    }
}

fn verdict(reasons: &[String]) -> Answer {
    if reasons.is_empty() {
        return answer(StatusCode::OK, PLAIN, "ok\n");
    }
    let text = format!("{}\n", reasons.join("\n"));
    answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text)
}

async fn health(sampler: &Sampler) -> Answer {
    // An engine that is slow is not dead: only one that stopped is helped by a restart.
    let pulse = sampler.pulse().await.ok();
    verdict(&pulse.and_then(|pulse| pulse.stopped.clone()).into_iter().collect::<Vec<_>>())
}

async fn readiness(sampler: &Sampler) -> Answer {
    let mut reasons = Vec::new();
    match sampler.stage() {
        Stage::Starting => reasons.push("it is starting".to_owned()),
        Stage::Ready => {}
        Stage::Stopping => reasons.push("it is stopping".to_owned()),
    }
    match sampler.pulse().await {
        Ok(pulse) => {
            reasons.extend(pulse.stopped.clone());
            if pulse.without_space > 0 {
                let shards = pulse.without_space;
                reasons.push(format!("{shards} shards refuse appends: the disk is full"));
            }
        }
        Err(why) => reasons.push(why),
    }
    verdict(&reasons)
}

async fn people(sampler: &Rc<Sampler>, query: &str) -> Answer {
    let (prefix, after) = (query_value(query, "prefix"), query_value(query, "after"));
    if prefix.len() > NAME_SIZE_MAX || after.len() > NAME_SIZE_MAX {
        let text = "prefix and after are names of logs: at most 255 bytes\n";
        return answer(StatusCode::BAD_REQUEST, PLAIN, text);
    }
    let view = view::View::take(sampler, prefix, after).await;
    let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", page::render(&view));
    let policy = HeaderValue::from_str(page::policy()).expect("it is plain ASCII");
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}
