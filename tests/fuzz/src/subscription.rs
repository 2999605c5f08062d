//! A subscription's payload: as Lambda hands it over, and what is in it once it is unpacked.

use base64::{Engine, engine::general_purpose::STANDARD};
use nodemend_ports::subscription::{Batch, Decoder, Message, SubscriptionRecord, encode, envelope, records};
use serde_json::Value;

/// Smaller than in earnest, so that a bomb costs less of the fuzzer's time.
const CAP: usize = 1024 * 1024;

/// What Lambda hands over, or, where it doesn't begin with a brace, what is compressed in that.
pub fn hold_payload(bytes: &[u8]) {
    let mut decoder = Decoder::with_cap(CAP);
    let event = if bytes.first() == Some(&b'{') {
        bytes.to_vec()
    } else {
        format!(r#"{{"awslogs":{{"data":"{}"}}}}"#, STANDARD.encode(bytes)).into_bytes()
    };
    let first = format!("{:?}", decoder.decode(&event).map(shown));
    // The buffers of the one before are used again, and must not show.
    assert_eq!(first, format!("{:?}", decoder.decode(&event).map(shown)), "read twice, it differs");
    // A batch of records, if it is one, is as many payloads.
    for record in records(&event).ok().flatten().unwrap_or_default() {
        let read = match &record {
            SubscriptionRecord::Stream { kinesis } => decoder.decode_data(&kinesis.data).map(shown),
            SubscriptionRecord::Queue { body, .. } => decoder.decode(body.as_bytes()).map(shown),
        };
        assert!(read.is_err() || record.text().len() <= event.len(), "a record is longer than its batch");
    }
}

/// Beyond what is held in full, a summary: a payload may unpack to megabytes.
fn shown(message: Message<'_>) -> (usize, usize, usize) {
    match message {
        Message::Control => (0, 0, 0),
        Message::Data(batch) => {
            let length: usize = batch.events.iter().map(|event| event.message.len()).sum();
            assert!(length <= CAP);
            (batch.events.len(), batch.rejected.len(), length)
        }
    }
}

/// The JSON in it, by our reader and by one that builds the whole tree.
pub fn hold_body(bytes: &[u8]) {
    let Ok(json) = str::from_utf8(bytes) else { return };
    let (mut plain, mut spaced) = (Decoder::new(), Decoder::new());
    let payload = envelope(json).into_bytes();
    let behind = envelope(&format!("{json} ")).into_bytes();
    let message = match (plain.decode(&payload), spaced.decode(&behind)) {
        (Ok(message), Ok(spaced)) => {
            assert_eq!(message, spaced, "a space behind it changes what is read");
            message
        }
        (Err(error), Err(spaced)) => return assert_eq!(error.to_string(), spaced.to_string()),
        (plain, spaced) => panic!("a space behind it changes what is read: {plain:?} and {spaced:?}"),
    };
    // What a whole tree can't hold, such as half a surrogate pair, may be in a field that is not read.
    let value = serde_json::from_str::<Value>(json).ok();
    if let Some(value) = &value {
        let kind = if message == Message::Control { "CONTROL_MESSAGE" } else { "DATA_MESSAGE" };
        assert_eq!(value["messageType"], kind);
    }
    let Message::Data(batch) = message else { return };
    if let Some(value) = &value {
        check(&batch, value);
    }
    let places = batch.events.len() + batch.rejected.len();
    assert!(batch.rejected.iter().all(|one| one.index < places && !one.excerpt.contains(char::is_control)));
    // Written again, what could be read is read as the same.
    let again = encode(&batch);
    let mut decoder = Decoder::new();
    let Ok(Message::Data(reread)) = decoder.decode(again.as_bytes()) else {
        panic!("it can't be read again")
    };
    assert_eq!((reread.events, reread.log_stream), (batch.events, batch.log_stream));
}

/// What a reader finds that builds the whole tree.
fn check(batch: &Batch<'_>, value: &Value) {
    for (field, read) in
        [("owner", &batch.owner), ("logGroup", &batch.log_group), ("logStream", &batch.log_stream)]
    {
        assert_eq!(value[field].as_str(), Some(&**read), "{field}");
    }
    let events = value["logEvents"].as_array().expect("a list was read");
    let whole: Vec<_> = events
        .iter()
        .filter_map(|event| {
            let at = jiff::Timestamp::from_millisecond(event["timestamp"].as_i64()?).ok()?;
            Some((event["id"].as_str()?, at, event["message"].as_str()?))
        })
        .collect();
    let read: Vec<_> =
        batch.events.iter().map(|event| (&*event.id, event.timestamp, &*event.message)).collect();
    assert_eq!(read, whole, "the log events");
    assert_eq!(batch.events.len() + batch.rejected.len(), events.len(), "a log event vanished");
}
