//! Turns a batch of records, of a Kinesis data stream or of an SQS queue, into the subscription payloads that it carries.
//!
//! CloudWatch Logs hands lines to a function of its own account alone. What another account's log groups hold comes
//! through a stream, each record of it what `awslogs.data` would have been.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CrossAccountSubscriptions.html>
//!
//! What could not be taken in three times comes again through a queue, each message of it the payload as it was.
//! <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>

use std::borrow::Cow;

use serde::Deserialize;

use super::{SubscriptionError, bounded};

/// How an event begins that is a batch of records: it has this one field.
const RECORDS: &[u8] = b"\"Records\"";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Record<'a> {
    /// Of a stream, in which order counts.
    Stream {
        /// What it is.
        #[serde(borrow)]
        kinesis: StreamRecord<'a>,
    },
    /// Of a queue.
    #[serde(rename_all = "camelCase")]
    Queue {
        /// What Lambda is told that it must come again.
        #[serde(borrow)]
        message_id: Cow<'a, str>,
        /// For [`decode`](super::Decoder::decode).
        #[serde(borrow)]
        body: Cow<'a, str>,
    },
}

/// One record of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRecord<'a> {
    /// Its place in its shard: what Lambda is told to go on from.
    #[serde(borrow)]
    pub sequence_number: Cow<'a, str>,
    /// For [`decode_data`](super::Decoder::decode_data).
    #[serde(borrow)]
    pub data: Cow<'a, str>,
}

impl Record<'_> {
    /// What Lambda knows it by.
    pub fn id(&self) -> &str {
        match self {
            Self::Stream { kinesis } => &kinesis.sequence_number,
            Self::Queue { message_id, .. } => message_id,
        }
    }

    /// What it carries, as it came.
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
    records: Vec<Record<'a>>,
}

/// The records of a batch, in order; none where the event is no batch.
///
/// # Errors
/// When a batch can't be read as one.
pub fn records(payload: &[u8]) -> Result<Option<Vec<Record<'_>>>, SubscriptionError> {
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

    fn told(records: &[(&str, &str)]) -> Vec<(String, String)> {
        records.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_batch_is_its_records_in_order_and_anything_else_is_none() {
        let stream = br#" { "Records": [
            {"kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": "a", "sequenceNumber": "1", "data": "eA=="},
             "eventSource": "aws:kinesis", "eventID": "shardId-000000000000:1"},
            {"kinesis": {"sequenceNumber": "2", "data": "eQ=="}}]}"#;
        assert_eq!(read(stream), told(&[("1", "eA=="), ("2", "eQ==")]));
        let queue = br#"{"Records": [
            {"messageId": "a-1", "receiptHandle": "x", "body": "{\"awslogs\":{\"data\":\"eA==\"}}",
             "attributes": {"ApproximateReceiveCount": "1"}, "messageAttributes": {}, "eventSource": "aws:sqs"}]}"#;
        assert_eq!(read(queue), told(&[("a-1", r#"{"awslogs":{"data":"eA=="}}"#)]));
        assert_eq!(records(br#"{"awslogs":{"data":"Records"}}"#).expect("no batch"), None);
        assert_eq!(records(b"").expect("no batch"), None);
    }

    #[test]
    fn a_batch_that_is_none_is_refused() {
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
