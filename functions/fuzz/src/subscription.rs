//! A subscription's payload: as Lambda hands it over, and what is in it once it is unpacked.

use base64::{Engine, engine::general_purpose::STANDARD};
use nodemend_adapters::subscription::{Batch, Decoder, Message, Record, encode, envelope, records};
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
            Record::Stream { kinesis } => decoder.decode_data(&kinesis.data).map(shown),
            Record::Queue { body, .. } => decoder.decode(body.as_bytes()).map(shown),
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

/// The JSON in it, by three readers: the fast path, the careful one, and a plain one of our own.
pub fn hold_body(bytes: &[u8]) {
    let Ok(json) = str::from_utf8(bytes) else { return };
    let (mut usual, mut careful) = (Decoder::new(), Decoder::new());
    let payload = envelope(json).into_bytes();
    // With a space behind it, it is not the usual form.
    let spaced = envelope(&format!("{json} ")).into_bytes();
    let (usual, careful) = (usual.decode(&payload), careful.decode(&spaced));
    let batch = match (usual, careful) {
        (Ok(usual), Ok(careful)) => {
            assert_eq!(usual, careful, "the fast and the careful reader disagree");
            match usual {
                Message::Control => return,
                Message::Data(batch) => batch,
            }
        }
        (Err(usual), Err(careful)) => return assert_eq!(usual.to_string(), careful.to_string()),
        (usual, careful) => panic!("the fast and the careful reader disagree: {usual:?} and {careful:?}"),
    };
    if let Ok(value) = serde_json::from_str::<Value>(json) {
        check(&batch, &value);
    }
    let places = batch.events.len() + batch.rejected.len();
    assert!(batch.rejected.iter().all(|one| one.index < places && !one.excerpt.contains(char::is_control)));
    // Written anew, what could be read is read as the same.
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
