//! FilterLogEvents of CloudWatch Logs.
//!
//! The emulator evaluates neither a JSON filter pattern nor a prefix of log stream names: it returns every
//! line for both. So all lines of the time range are requested from it, and those that match are selected
//! here.

use axum::{
    body::Body,
    http::{Response, StatusCode, header},
};
use nodemend_testkit::filter_pattern::Pattern;
use serde_json::{Value, json};

use crate::query_client::{QueryClient, QueryError};

const TARGET: &str = "Logs_20140328.FilterLogEvents";

/// Which lines a request selects.
struct Selection {
    pattern: Option<Pattern>,
    prefix: Option<String>,
    limit: Option<usize>,
}

/// Answers a request with this body.
pub(super) async fn answer(
    emulator: &QueryClient,
    body: &[u8],
    request_id: &str,
) -> Result<Response<Body>, QueryError> {
    let mut parameters: Value = serde_json::from_slice(body).unwrap_or_default();
    let selection = match Selection::extract(&mut parameters) {
        Ok(selection) => selection,
        Err(invalid) => {
            let error = json!({ "__type": "InvalidParameterException", "message": invalid });
            return Ok(json_answer(StatusCode::BAD_REQUEST, error.to_string(), request_id));
        }
    };
    let answer = match emulator.json("logs", TARGET, &parameters).await {
        Ok(answer) => answer,
        // The emulator's own error is returned unchanged.
        Err(QueryError::Refused { status, answer, .. }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            return Ok(json_answer(status, answer, request_id));
        }
        Err(error) => return Err(error),
    };
    let group = parameters["logGroupName"].as_str().unwrap_or_default();
    Ok(json_answer(StatusCode::OK, selection.apply(answer, group).to_string(), request_id))
}

fn json_answer(status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/x-amz-json-1.1");
    response.header("x-amzn-requestid", request_id).body(Body::from(body)).unwrap_or_default()
}

impl Selection {
    /// Removes from a request the parameters that the emulator does not evaluate.
    fn extract(parameters: &mut Value) -> Result<Self, String> {
        let mut remove =
            |field: &str| parameters.as_object_mut().and_then(|parameters| parameters.remove(field));
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(ToOwned::to_owned));
        let pattern = text(remove("filterPattern"));
        let selection = Self {
            pattern: pattern.as_deref().map(Pattern::parse).transpose().map_err(|error| error.to_string())?,
            prefix: text(remove("logStreamNamePrefix")),
            limit: remove("limit")
                .and_then(|limit| limit.as_u64())
                .and_then(|limit| usize::try_from(limit).ok()),
        };
        // CloudWatch Logs sorts the lines of all streams by time.
        parameters["interleaved"] = true.into();
        Ok(selection)
    }

    /// The same answer, with only the selected lines.
    fn apply(&self, mut answer: Value, group: &str) -> Value {
        let Some(events) = answer["events"].as_array_mut() else { return answer };
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        events.retain(|event| {
            let has_prefix =
                self.prefix.as_ref().is_none_or(|prefix| text(event, "logStreamName").starts_with(prefix));
            has_prefix && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(&text(event, "message")))
        });
        if let Some(limit) = self.limit.filter(|limit| *limit < events.len()) {
            events.truncate(limit);
            // The token in the emulator's format: the next request continues after this line.
            let next_token = events
                .last()
                .map(|last| format!("{group}@{}@{}", text(last, "logStreamName"), text(last, "eventId")));
            answer["nextToken"] = next_token.into();
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
    fn a_pattern_and_a_prefix_select_lines_and_the_next_token_continues_after_the_limit() {
        let mut parameters = json!({
            "logGroupName": "/aws/eks/local/cluster", "logStreamNamePrefix": "kube-apiserver-audit",
            "filterPattern": "{ $.user.username = \"system:node:a\" }", "limit": 1, "startTime": 1,
        });
        let selection = Selection::extract(&mut parameters).expect("valid parameters");
        let forwarded =
            json!({ "logGroupName": "/aws/eks/local/cluster", "startTime": 1, "interleaved": true });
        assert_eq!(parameters, forwarded);
        let of_node = r#"{"user":{"username":"system:node:a"}}"#;
        let events = json!([
            event("1", "kube-apiserver-audit-1", r#"{"user":{"username":"system:node:b"}}"#),
            event("2", "authenticator-1", of_node),
            event("3", "kube-apiserver-audit-1", of_node),
            event("4", "kube-apiserver-audit-2", of_node),
        ]);
        let answer =
            selection.apply(json!({ "events": events, "nextToken": null }), "/aws/eks/local/cluster");
        assert_eq!(answer["events"], json!([event("3", "kube-apiserver-audit-1", of_node)]));
        assert_eq!(answer["nextToken"], "/aws/eks/local/cluster@kube-apiserver-audit-1@3");
    }

    #[test]
    fn an_invalid_pattern_is_rejected() {
        let mut parameters = json!({ "logGroupName": "/aws/eks/local/cluster", "filterPattern": "{ $.a = " });
        assert!(Selection::extract(&mut parameters).is_err());
    }
}
