//! Parses the decompressed JSON into a message whose events borrow from it.
//!
//! - A log event's fields are read as spans of the text first, so that a wrong type or half of a surrogate pair rejects
//!   only that event.
//! - All strings with escapes are unescaped into one buffer.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::text::{self, Piece};
use super::{Batch, LogEvent, MAX_EVENTS, MAX_EXCERPT, MAX_FILTERS, Message, Rejected, SubscriptionError};

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "messageType")]
    message_type: Cow<'a, str>,
    #[serde(borrow)]
    owner: Cow<'a, str>,
    #[serde(borrow, rename = "logGroup")]
    log_group: Cow<'a, str>,
    #[serde(borrow, rename = "logStream")]
    log_stream: Cow<'a, str>,
    #[serde(borrow, rename = "subscriptionFilters")]
    subscription_filters: Bounded<Name<'a>, MAX_FILTERS>,
    #[serde(borrow, rename = "logEvents")]
    log_events: Bounded<Element<'a>, MAX_EVENTS>,
}

/// Inside a `Vec`, a `Cow` without this wrapper does not borrow.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A list of at most `MOST` elements.
///
/// The cap limits the text, but the parsed values of `{},{},…` take many times its size.
struct Bounded<T, const MOST: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for BoundedVisitor<T, MOST> {
    type Value = Bounded<T, MOST>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {MOST} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            if all.len() == MOST {
                return Err(A::Error::invalid_length(MOST + 1, &self));
            }
            all.push(one);
        }
        Ok(Bounded(all))
    }
}

/// A log event as spans of the text, or `None` if it is not an object.
struct Element<'a>(Option<Fields<'a>>);

#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a str>,
    timestamp: Option<&'a str>,
    message: Option<&'a str>,
}

/// A log event whose strings may be in the buffer that is still being filled.
struct PendingEvent<'a> {
    id: Piece<'a>,
    timestamp: Timestamp,
    message: Piece<'a>,
}

pub(super) fn message<'d>(
    json: &'d str,
    unescaped: &'d mut String,
) -> Result<Message<'d>, SubscriptionError> {
    let body: Body<'d> = serde_json::from_str(json).map_err(SubscriptionError::Json)?;
    if is_control(&body.message_type)? {
        return Ok(Message::Control);
    }

    unescaped.clear();
    // Unescaping never lengthens a text: one reservation is enough for the whole batch.
    unescaped.reserve(json.len());
    let mut rejected = Vec::new();
    let mut pending = Vec::with_capacity(body.log_events.0.len());
    for (index, element) in body.log_events.0.into_iter().enumerate() {
        match pending_event(element, unescaped) {
            Ok(event) => pending.push(event),
            Err(why) => rejected.push(Rejected { index, why, excerpt: String::new() }),
        }
    }
    if !rejected.is_empty() {
        add_excerpts(json, &mut rejected)?;
    }

    let unescaped: &'d str = unescaped;
    let events = pending
        .into_iter()
        .map(|event| LogEvent {
            id: Cow::Borrowed(event.id.resolve(unescaped)),
            timestamp: event.timestamp,
            message: Cow::Borrowed(event.message.resolve(unescaped)),
        })
        .collect();
    Ok(Message::Data(Batch {
        owner: body.owner,
        log_group: body.log_group,
        log_stream: body.log_stream,
        subscription_filters: body.subscription_filters.0.into_iter().map(|name| name.0).collect(),
        events,
        rejected,
    }))
}

fn is_control(message_type: &str) -> Result<bool, SubscriptionError> {
    match message_type {
        "DATA_MESSAGE" => Ok(false),
        "CONTROL_MESSAGE" => Ok(true),
        other => Err(SubscriptionError::MessageType(text::excerpt(other, MAX_EXCERPT))),
    }
}

fn pending_event<'a>(element: Element<'a>, unescaped: &mut String) -> Result<PendingEvent<'a>, String> {
    let fields = element.0.ok_or("the log event is not an object")?;
    let timestamp = fields.timestamp.ok_or("timestamp is missing")?;
    let timestamp: i64 =
        timestamp.parse().map_err(|_| "timestamp is not a whole number of milliseconds".to_owned())?;
    let timestamp = Timestamp::from_millisecond(timestamp)
        .map_err(|error| format!("timestamp is out of range: {error}"))?;
    Ok(PendingEvent {
        id: string("id", fields.id, unescaped)?,
        timestamp,
        message: string("message", fields.message, unescaped)?,
    })
}

fn string<'a>(name: &'static str, raw: Option<&'a str>, unescaped: &mut String) -> Result<Piece<'a>, String> {
    let raw = raw.ok_or_else(|| format!("{name} is missing"))?;
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let inner = inner.ok_or_else(|| format!("{name} is not a string"))?;
    text::unescape(inner, unescaped).map_err(|what| format!("{name} has {what}"))
}

/// Reads the payload again for the excerpts of rejected events. They are rare, so the usual path does not keep the
/// spans.
fn add_excerpts(json: &str, rejected: &mut [Rejected]) -> Result<(), SubscriptionError> {
    #[derive(Deserialize)]
    struct Spans<'a> {
        #[serde(borrow, rename = "logEvents")]
        log_events: Vec<&'a RawValue>,
    }
    let spans: Spans<'_> = serde_json::from_str(json).map_err(SubscriptionError::Json)?;
    for one in rejected {
        if let Some(span) = spans.log_events.get(one.index) {
            one.excerpt = text::excerpt(span.get(), MAX_EXCERPT);
        }
    }
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a log event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<Key>()? {
            let field = match key {
                Key::Id => &mut fields.id,
                Key::Timestamp => &mut fields.timestamp,
                Key::Message => &mut fields.message,
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value::<&'de RawValue>()?.get());
        }
        Ok(Element(Some(fields)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Element(None))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Element(None))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Element(None))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Element(None))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Element(None))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Element(None))
    }
}

enum Key {
    Id,
    Timestamp,
    Message,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a field name")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "id" => Key::Id,
                    "timestamp" => Key::Timestamp,
                    "message" => Key::Message,
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
