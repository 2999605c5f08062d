use super::*;
use proptest::prelude::*;
use std::io::Write;

const ENVELOPE: &str = include_str!("../../fixtures/subscription/lambda-event-envelope.json");
const DECODED: &str = include_str!("../../fixtures/subscription/lambda-event-decoded.json");
const GUIDE: &str = include_str!("../../fixtures/subscription/data-message-lambda-guide.json");
const FIREHOSE: &str = include_str!("../../fixtures/subscription/control-message-firehose.json");
const KINESIS: &str = include_str!("../../fixtures/subscription/control-message-kinesis.json");

fn data<'d>(decoder: &'d mut Decoder, payload: &str) -> Batch<'d> {
    match decoder.decode(payload.as_bytes()).expect("a payload that decodes") {
        Message::Data(batch) => batch,
        Message::Control => panic!("a control message"),
    }
}

fn failure(decoder: &mut Decoder, payload: &str) -> String {
    let error = decoder.decode(payload.as_bytes()).expect_err("a payload that fails");
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn with_events(events: &str) -> String {
    envelope(&format!(
        r#"{{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"g","logStream":"s","subscriptionFilters":["f"],"logEvents":[{events}]}}"#
    ))
}

#[test]
fn the_documented_envelope_decodes_to_its_documented_content() {
    let (mut one, mut two) = (Decoder::new(), Decoder::new());
    let from_envelope = data(&mut one, ENVELOPE);
    assert_eq!(from_envelope, data(&mut two, &envelope(DECODED)));
    assert_eq!(from_envelope.owner, "123456789123");
    assert_eq!(from_envelope.log_group, "testLogGroup");
    assert_eq!(from_envelope.subscription_filters, ["testFilter"]);
    assert_eq!(from_envelope.events.len(), 2);
    assert_eq!(from_envelope.events[0].timestamp.to_string(), "2015-08-24T19:03:07Z");
    assert_eq!(from_envelope.events[1].message, "[ERROR] Second test message");
}

#[test]
fn the_lambda_guides_example_keeps_its_tabs_and_newline() {
    let mut decoder = Decoder::new();
    let batch = data(&mut decoder, &envelope(GUIDE));
    assert_eq!(batch.events[0].id, "34622316099697884706540976068822859012661220141643892546");
    assert!(batch.events[0].message.ends_with("Max Memory Used: 72 MB\t\n"));
    assert!(batch.rejected.is_empty());
}

#[test]
fn control_messages_carry_nothing_to_do() {
    let mut decoder = Decoder::new();
    for json in [FIREHOSE, KINESIS] {
        assert_eq!(decoder.decode(envelope(json).as_bytes()).expect("decodes"), Message::Control);
    }
}

#[test]
fn one_bad_record_never_stops_the_batch() {
    let good = |n: u32| format!(r#"{{"id":"{n}","timestamp":{n},"message":"m{n}"}}"#);
    let bad = [
        (r#"{"id":"x","message":"no time"}"#, "timestamp is missing"),
        (r#"{"id":"x","timestamp":1.5,"message":""}"#, "timestamp is not a whole number of milliseconds"),
        (r#"{"id":"x","timestamp":"1","message":""}"#, "timestamp is not a whole number of milliseconds"),
        (r#"{"id":"x","timestamp":9223372036854775807,"message":""}"#, "timestamp is out of range"),
        (r#"{"id":"x","timestamp":-999999999999999999,"message":""}"#, "timestamp is out of range"),
        (r#"{"id":7,"timestamp":1,"message":""}"#, "id is not a string"),
        (r#"{"id":"x","timestamp":1,"message":null}"#, "message is not a string"),
        (r#"{"id":"x","timestamp":1,"message":{"a":[1]}}"#, "message is not a string"),
        (r#"{"id":"x","timestamp":1}"#, "message is missing"),
        (r#"{"id":"x","timestamp":1,"message":"cut \ud83d"}"#, "message has half of a surrogate pair"),
        (r#"{"id":"x","timestamp":1,"message":"\udc00\ud800"}"#, "message has half of a surrogate pair"),
        ("null", "the log event is not an object"),
        ("[[1],{}]", "the log event is not an object"),
        ("\"text\"", "the log event is not an object"),
        ("-3", "the log event is not an object"),
        ("1.5", "the log event is not an object"),
        ("true", "the log event is not an object"),
    ];
    for (text, why) in bad {
        let mut decoder = Decoder::new();
        let batch = data(&mut decoder, &with_events(&format!("{},{text},{}", good(1), good(2))));
        let ids: Vec<_> = batch.events.iter().map(|event| &*event.id).collect();
        assert_eq!(ids, ["1", "2"], "{text}");
        assert_eq!(batch.rejected.len(), 1, "{text}");
        assert_eq!(batch.rejected[0].index, 1);
        assert!(batch.rejected[0].why.starts_with(why), "{text}: {}", batch.rejected[0].why);
        assert_eq!(batch.rejected[0].excerpt, text);
    }
}

#[test]
fn an_excerpt_is_short_and_on_one_line() {
    let mut decoder = Decoder::new();
    let long = format!("{{\n\"id\":\"{}\"}}", "é".repeat(5000));
    let batch = data(&mut decoder, &with_events(&long));
    assert_eq!(batch.rejected[0].excerpt.chars().count(), MAX_EXCERPT);
    assert!(batch.rejected[0].excerpt.starts_with("{\u{FFFD}\"id\":\"éé"));
}

#[test]
fn every_escape_is_unescaped() {
    let mut decoder = Decoder::new();
    let event = r#"{"extra":{"a":[]},"id":"\u0031","timestamp":-1,"message":"\"\\\/\b\f\n\r\té\u00e9\ud83d\uDE00end"}"#;
    let batch = data(&mut decoder, &with_events(event));
    assert_eq!(batch.events[0].id, "1");
    assert_eq!(batch.events[0].message, "\"\\/\u{8}\u{c}\n\r\téé😀end");
    assert_eq!(batch.events[0].timestamp.as_millisecond(), -1);
}

#[test]
fn texts_without_escapes_are_borrowed_from_the_payload_and_no_message_owns_memory() {
    let mut decoder = Decoder::new();
    let batch = data(&mut decoder, &with_events(r#"{"id":"1","timestamp":1,"message":"\"quoted\""}"#));
    assert!(matches!(batch.log_group, Cow::Borrowed(_)));
    assert!(matches!(batch.subscription_filters[0], Cow::Borrowed(_)));
    assert!(matches!(batch.events[0].message, Cow::Borrowed("\"quoted\"")));
}

#[test]
fn an_error_names_the_field() {
    let rows = [
        ("nonsense", "failed to read awslogs.data from the event: expected ident at line 1 column 2"),
        ("{}", "failed to read awslogs.data from the event: missing field `awslogs`"),
        (r#"{"awslogs":{}}"#, "failed to read awslogs.data from the event: missing field `data`"),
        (
            r#"{"awslogs":{"data":7}}"#,
            "failed to read awslogs.data from the event: invalid type: integer `7`",
        ),
        (
            r#"{"awslogs":{"data":"a*b="}}"#,
            "failed to decode awslogs.data as base64: DecodeError: Invalid symbol 42, offset 1",
        ),
        (r#"{"awslogs":{"data":"AAAA"}}"#, "failed to decompress awslogs.data: "),
        (r#"{"awslogs":{"data":""}}"#, "failed to decompress awslogs.data: "),
        (&envelope("[1,"), "failed to read the decompressed data: "),
        (
            &envelope("{}"),
            "failed to read the decompressed data: missing field `messageType` at line 1 column 2",
        ),
        (
            &envelope(&DECODED.replace("\"owner\"", "\"else\"")),
            "failed to read the decompressed data: missing field `owner`",
        ),
        (
            &envelope(&DECODED.replace("DATA_MESSAGE", "OTHER")),
            "unknown messageType \"OTHER\": expected DATA_MESSAGE or CONTROL_MESSAGE",
        ),
    ];
    let mut decoder = Decoder::new();
    for (payload, expected) in rows {
        let error = failure(&mut decoder, payload);
        assert!(error.starts_with(expected), "{payload}: {error}");
    }
    // A failed payload leaves no data for the next one.
    assert_eq!(data(&mut decoder, ENVELOPE).events.len(), 2);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_at(bytes, flate2::Compression::fast())
}

fn gzip_at(bytes: &[u8], level: flate2::Compression) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    gzip.write_all(bytes).expect("written");
    gzip.finish().expect("finished")
}

#[test]
fn all_members_of_a_gzip_stream_are_read() {
    let (left, right) = DECODED.split_at(100);
    let members = [gzip(left.as_bytes()), gzip(right.as_bytes())].concat();
    let mut decoder = Decoder::new();
    let Message::Data(batch) = decoder.decode_data(&STANDARD.encode(members)).expect("decodes") else {
        panic!("a control message")
    };
    assert_eq!(batch.events.len(), 2);
}

#[test]
fn a_truncated_stream_is_an_error_wherever_it_is_cut() {
    let whole = gzip(DECODED.as_bytes());
    let mut decoder = Decoder::new();
    for length in 0..whole.len() {
        let error = decoder.decode_data(&STANDARD.encode(&whole[..length])).expect_err("cut");
        assert!(matches!(error, SubscriptionError::Gzip(_)), "{length}: {error}");
    }
}

#[test]
fn the_cap_itself_is_allowed_and_one_byte_more_is_not() {
    let size = DECODED.len();
    assert_eq!(data(&mut Decoder::with_cap(size), &envelope(DECODED)).events.len(), 2);
    let error = failure(&mut Decoder::with_cap(size - 1), &envelope(DECODED));
    assert_eq!(error, format!("awslogs.data decompresses to more than the cap of {} bytes", size - 1));
    assert!(matches!(
        Decoder::with_cap(0).decode(envelope(DECODED).as_bytes()),
        Err(SubscriptionError::OverCap { cap: 0 })
    ));
}

#[test]
fn a_gigabyte_of_zeros_fails_within_the_memory_of_the_cap() {
    // A member that is already over the cap, many times: 1 GiB in all, made without compressing 1 GiB.
    let member = gzip_at(&vec![0; 16 * 1024 * 1024], flate2::Compression::best());
    let bomb = STANDARD.encode(member.repeat(64));
    assert!(bomb.len() < MAX_PAYLOAD, "the bomb must pass the first bound");
    let mut decoder = Decoder::new();
    let started = std::time::Instant::now();
    assert!(matches!(decoder.decode_data(&bomb), Err(SubscriptionError::OverCap { cap: DEFAULT_CAP })));
    assert!(decoder.plain.capacity() <= DEFAULT_CAP + 1);
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}

#[test]
fn too_many_log_events_are_an_error() {
    let mut decoder = Decoder::new();
    for event in ["{}", r#"{"id":"","timestamp":1,"message":""}"#] {
        let all = vec![event; MAX_EVENTS].join(",");
        let batch = data(&mut decoder, &with_events(&all));
        assert_eq!(batch.events.len() + batch.rejected.len(), MAX_EVENTS);
        let error = failure(&mut decoder, &with_events(&format!("{all},{event}")));
        let expected = "failed to read the decompressed data: invalid length 100001, expected a list of at most 100000 elements";
        assert!(error.starts_with(expected), "{error}");
    }
    let filters = format!("\"subscriptionFilters\":[{}]", vec!["\"\""; MAX_FILTERS + 1].join(","));
    let many = DECODED.replace("\"subscriptionFilters\": [\n    \"testFilter\"\n  ]", &filters);
    assert!(failure(&mut decoder, &envelope(&many)).contains("a list of at most 100 elements"));
}

#[test]
fn a_payload_larger_than_lambdas_limit_is_rejected_unread() {
    let error = failure(&mut Decoder::new(), &" ".repeat(MAX_PAYLOAD + 1));
    assert_eq!(error, "the payload is 6291457 bytes, and at most 6291456 are read");
}

fn batches() -> impl Strategy<Value = Batch<'static>> {
    let text = || any::<String>().prop_map(Cow::Owned);
    // jiff's range, in milliseconds.
    let range = Timestamp::MIN.as_millisecond()..=Timestamp::MAX.as_millisecond();
    let event = (text(), range, text()).prop_map(|(id, timestamp, message)| LogEvent {
        id,
        timestamp: Timestamp::from_millisecond(timestamp).expect("in range"),
        message,
    });
    let filters = prop::collection::vec(text(), 0..3);
    let events = prop::collection::vec(event, 0..8);
    (text(), text(), text(), filters, events).prop_map(
        |(owner, log_group, log_stream, subscription_filters, events)| Batch {
            owner,
            log_group,
            log_stream,
            subscription_filters,
            events,
            rejected: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn an_encoded_batch_decodes_to_itself(first in batches(), second in batches()) {
        let mut decoder = Decoder::new();
        for batch in [first, second] {
            prop_assert_eq!(&data(&mut decoder, &encode(&batch)), &batch);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), text in any::<String>()) {
        let mut decoder = Decoder::with_cap(4096);
        let _ = decoder.decode(&bytes);
        let _ = decoder.decode_data(&STANDARD.encode(&bytes));
        let _ = decoder.decode(envelope(&text).as_bytes());
        let _ = decoder.decode(with_events(&text).as_bytes());
    }

    #[test]
    fn no_flipped_byte_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut json = DECODED.as_bytes().to_vec();
        let mut zipped = gzip(&json);
        let place = at.index(zipped.len());
        zipped[place] = byte;
        let mut decoder = Decoder::with_cap(4096);
        let _ = decoder.decode_data(&STANDARD.encode(&zipped));
        let place = at.index(json.len());
        json[place] = byte;
        let _ = decoder.decode_data(&STANDARD.encode(gzip(&json)));
    }
}
