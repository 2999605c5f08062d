//! Turns a batch of a Kinesis data stream into the subscription payloads that it carries.
//!
//! CloudWatch Logs hands lines to a function of its own account alone. What another account's log groups hold comes
//! through a stream, each record of it what `awslogs.data` would have been.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CrossAccountSubscriptions.html>

use std::borrow::Cow;

use serde::Deserialize;

use super::{SubscriptionError, bounded};

/// How an event begins that is a batch of records: it has this one field.
const RECORDS: &[u8] = b"\"Records\"";

/// One record.
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

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<Record<'a>>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    kinesis: StreamRecord<'a>,
}

/// The records of a batch, in order; none where the event is no batch.
///
/// # Errors
/// When a batch can't be read as one.
pub fn stream_records(payload: &[u8]) -> Result<Option<Vec<StreamRecord<'_>>>, SubscriptionError> {
    let begin = payload.trim_ascii_start();
    let begin = begin.strip_prefix(b"{").unwrap_or_default().trim_ascii_start();
    if !begin.starts_with(RECORDS) {
        return Ok(None);
    }
    bounded(payload.len())?;
    let envelope: Envelope<'_> = serde_json::from_slice(payload).map_err(SubscriptionError::Envelope)?;
    Ok(Some(envelope.records.into_iter().map(|record| record.kinesis).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_its_records_in_order_and_anything_else_is_none() {
        let batch = br#" { "Records": [
            {"kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": "a", "sequenceNumber": "1", "data": "eA=="},
             "eventSource": "aws:kinesis", "eventID": "shardId-000000000000:1"},
            {"kinesis": {"sequenceNumber": "2", "data": "eQ=="}}]}"#;
        let records = stream_records(batch).expect("a batch").expect("records");
        let told: Vec<_> = records.iter().map(|record| (&*record.sequence_number, &*record.data)).collect();
        assert_eq!(told, [("1", "eA=="), ("2", "eQ==")]);
        assert_eq!(stream_records(br#"{"awslogs":{"data":"Records"}}"#).expect("no batch"), None);
        assert_eq!(stream_records(b"").expect("no batch"), None);
    }

    #[test]
    fn a_batch_that_is_none_is_refused() {
        for batch in
            [&br#"{"Records":1}"#[..], br#"{"Records":[{}]}"#, br#"{"Records":[{"kinesis":{"data":"x"}}]}"#]
        {
            assert!(matches!(stream_records(batch), Err(SubscriptionError::Envelope(_))));
        }
    }
}
