//! Reads batches of records, from a Kinesis data stream or an SQS queue, whose content is subscription payloads.
//!
//! CloudWatch Logs invokes only functions of its own account. Log events of other accounts come through a stream, in
//! which each record has the content of `awslogs.data`.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CrossAccountSubscriptions.html>
//!
//! A payload that failed three times comes again through a queue, in which each message is the whole payload.
//! <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>

use std::borrow::Cow;

use serde::Deserialize;

use super::{SubscriptionError, bounded};

/// A batch of records begins with this field, its only one.
const RECORDS: &[u8] = b"\"Records\"";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SubscriptionRecord<'a> {
    /// From a stream, whose order must be kept.
    Stream {
        /// Its content.
        #[serde(borrow)]
        kinesis: StreamRecord<'a>,
    },
    /// From a queue.
    #[serde(rename_all = "camelCase")]
    Queue {
        /// The ID to return to Lambda if it must be delivered again.
        #[serde(borrow)]
        message_id: Cow<'a, str>,
        /// The input of [`decode`](super::Decoder::decode).
        #[serde(borrow)]
        body: Cow<'a, str>,
    },
}

/// One record of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRecord<'a> {
    /// Its position in its shard, to return to Lambda if delivery must continue from it.
    #[serde(borrow)]
    pub sequence_number: Cow<'a, str>,
    /// The input of [`decode_data`](super::Decoder::decode_data).
    #[serde(borrow)]
    pub data: Cow<'a, str>,
}

impl SubscriptionRecord<'_> {
    /// Its ID in Lambda's batch response.
    pub fn id(&self) -> &str {
        match self {
            Self::Stream { kinesis } => &kinesis.sequence_number,
            Self::Queue { message_id, .. } => message_id,
        }
    }

    /// Its content, not decoded.
    pub fn text(&self) -> &str {
        match self {
            Self::Stream { kinesis } => &kinesis.data,
            Self::Queue { body, .. } => body,
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<SubscriptionRecord<'a>>,
}

/// The records of a batch, in order, or `None` if the event is not a batch.
///
/// # Errors
/// When a batch cannot be read.
pub fn records(payload: &[u8]) -> Result<Option<Vec<SubscriptionRecord<'_>>>, SubscriptionError> {
    let begin = payload.trim_ascii_start();
    let begin = begin.strip_prefix(b"{").unwrap_or_default().trim_ascii_start();
    if !begin.starts_with(RECORDS) {
        return Ok(None);
    }
    bounded(payload.len())?;
    let envelope: Envelope<'_> = serde_json::from_slice(payload).map_err(SubscriptionError::Envelope)?;
    Ok(Some(envelope.records))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(batch: &[u8]) -> Vec<(String, String)> {
        let records = records(batch).expect("a batch").expect("records");
        records.iter().map(|record| (record.id().to_owned(), record.text().to_owned())).collect()
    }

    fn expected(records: &[(&str, &str)]) -> Vec<(String, String)> {
        records.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_batch_is_read_in_order_and_another_event_is_not_a_batch() {
        let stream = br#" { "Records": [
            {"kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": "a", "sequenceNumber": "1", "data": "eA=="},
             "eventSource": "aws:kinesis", "eventID": "shardId-000000000000:1"},
            {"kinesis": {"sequenceNumber": "2", "data": "eQ=="}}]}"#;
        assert_eq!(read(stream), expected(&[("1", "eA=="), ("2", "eQ==")]));
        let queue = br#"{"Records": [
            {"messageId": "a-1", "receiptHandle": "x", "body": "{\"awslogs\":{\"data\":\"eA==\"}}",
             "attributes": {"ApproximateReceiveCount": "1"}, "messageAttributes": {}, "eventSource": "aws:sqs"}]}"#;
        assert_eq!(read(queue), expected(&[("a-1", r#"{"awslogs":{"data":"eA=="}}"#)]));
        assert_eq!(records(br#"{"awslogs":{"data":"Records"}}"#).expect("no batch"), None);
        assert_eq!(records(b"").expect("no batch"), None);
    }

    #[test]
    fn a_malformed_batch_is_an_error() {
        for batch in [
            &br#"{"Records":1}"#[..],
            br#"{"Records":[{}]}"#,
            br#"{"Records":[{"kinesis":{"data":"x"}}]}"#,
            br#"{"Records":[{"messageId":"x"}]}"#,
        ] {
            assert!(matches!(records(batch), Err(SubscriptionError::Envelope(_))));
        }
    }
}
