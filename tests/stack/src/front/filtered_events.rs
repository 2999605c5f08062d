//! FilterLogEvents of CloudWatch Logs.
//!
//! The emulator knows neither a pattern of JSON nor a prefix of streams, and returns every line for both. So it is asked for
//! all lines of the time, and those that match are selected here.

use axum::{
    body::Body,
    http::{Response, StatusCode, header},
};
use nodemend_testkit::filter_pattern::Pattern;
use serde_json::{Value, json};

use crate::wire::{Wire, WireError};

const TARGET: &str = "Logs_20140328.FilterLogEvents";

/// The lines that a query selects.
struct Selection {
    pattern: Option<Pattern>,
    prefix: Option<String>,
    limit: Option<usize>,
}

/// Answers a request; its body is the one of the API.
pub(super) async fn answer(
    emulator: &Wire,
    body: &[u8],
    request_id: &str,
) -> Result<Response<Body>, WireError> {
    let mut query: Value = serde_json::from_slice(body).unwrap_or_default();
    let selection = match Selection::take(&mut query) {
        Ok(selection) => selection,
        Err(invalid) => {
            let error = json!({ "__type": "InvalidParameterException", "message": invalid });
            return Ok(json_answer(StatusCode::BAD_REQUEST, error.to_string(), request_id));
        }
    };
    let answer = match emulator.json("logs", TARGET, &query).await {
        Ok(answer) => answer,
        // The emulator's own error, as it is.
        Err(WireError::Refused { status, answer, .. }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            return Ok(json_answer(status, answer, request_id));
        }
        Err(error) => return Err(error),
    };
    let group = query["logGroupName"].as_str().unwrap_or_default();
    Ok(json_answer(StatusCode::OK, selection.of(answer, group).to_string(), request_id))
}

fn json_answer(status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/x-amz-json-1.1");
    response.header("x-amzn-requestid", request_id).body(Body::from(body)).unwrap_or_default()
}

impl Selection {
    /// Takes what the emulator does not know out of a query.
    fn take(query: &mut Value) -> Result<Self, String> {
        let mut taken = |field: &str| query.as_object_mut().and_then(|query| query.remove(field));
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(ToOwned::to_owned));
        let pattern = text(taken("filterPattern"));
        let selection = Self {
            pattern: pattern.as_deref().map(Pattern::parse).transpose().map_err(|error| error.to_string())?,
            prefix: text(taken("logStreamNamePrefix")),
            limit: taken("limit")
                .and_then(|limit| limit.as_u64())
                .and_then(|limit| usize::try_from(limit).ok()),
        };
        // The service sorts the lines of all streams by their time.
        query["interleaved"] = true.into();
        Ok(selection)
    }

    /// Those lines of an answer.
    fn of(&self, mut answer: Value, group: &str) -> Value {
        let Some(events) = answer["events"].as_array_mut() else { return answer };
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        events.retain(|event| {
            let of_prefix =
                self.prefix.as_ref().is_none_or(|prefix| text(event, "logStreamName").starts_with(prefix));
            of_prefix && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(&text(event, "message")))
        });
        if let Some(limit) = self.limit.filter(|limit| *limit < events.len()) {
            events.truncate(limit);
            // As the emulator writes it: it goes on after this line.
            let next = events
                .last()
                .map(|last| format!("{group}@{}@{}", text(last, "logStreamName"), text(last, "eventId")));
            answer["nextToken"] = next.into();
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, stream: &str, message: &str) -> Value {
        json!({ "eventId": id, "logStreamName": stream, "message": message, "timestamp": 1_790_000_000_000_u64 })
    }

    #[test]
    fn a_pattern_and_a_prefix_select_lines_and_a_limit_can_be_continued() {
        let mut query = json!({
            "logGroupName": "/aws/eks/local/cluster", "logStreamNamePrefix": "kube-apiserver-audit",
            "filterPattern": "{ $.user.username = \"system:node:a\" }", "limit": 1, "startTime": 1,
        });
        let selection = Selection::take(&mut query).expect("a query");
        let passed_on =
            json!({ "logGroupName": "/aws/eks/local/cluster", "startTime": 1, "interleaved": true });
        assert_eq!(query, passed_on);
        let of_node = r#"{"user":{"username":"system:node:a"}}"#;
        let events = json!([
            event("1", "kube-apiserver-audit-1", r#"{"user":{"username":"system:node:b"}}"#),
            event("2", "authenticator-1", of_node),
            event("3", "kube-apiserver-audit-1", of_node),
            event("4", "kube-apiserver-audit-2", of_node),
        ]);
        let answer = selection.of(json!({ "events": events, "nextToken": null }), "/aws/eks/local/cluster");
        assert_eq!(answer["events"], json!([event("3", "kube-apiserver-audit-1", of_node)]));
        assert_eq!(answer["nextToken"], "/aws/eks/local/cluster@kube-apiserver-audit-1@3");
    }

    #[test]
    fn a_pattern_that_the_service_would_refuse_is_refused() {
        let mut query = json!({ "logGroupName": "/aws/eks/local/cluster", "filterPattern": "{ $.a = " });
        assert!(Selection::take(&mut query).is_err());
    }
}
