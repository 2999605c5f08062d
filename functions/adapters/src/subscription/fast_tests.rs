//! Holds the fast path to what the careful one reads.

use super::tests::{DECODED, FIREHOSE, GUIDE, batches};
use super::*;
use proptest::prelude::*;

/// What the fast path makes of `json`, where it makes anything of it.
fn fast<'d>(json: &str, copied: &'d mut Vec<u8>) -> Option<Result<Message<'d>, SubscriptionError>> {
    let mut slots = Vec::new();
    let (body, filled) = fast::read(json, copied, &mut slots)?;
    let copied = std::str::from_utf8(&copied[..filled]).expect("what was text stays text");
    Some(resolve(body, &slots, copied))
}

/// The fast path may decline, but not disagree with the careful one.
fn agree(json: &str) -> Result<bool, TestCaseError> {
    let (mut copied, mut unescaped) = (Vec::new(), String::new());
    let Some(fast) = fast(json, &mut copied) else {
        return Ok(false);
    };
    match (fast, parse::message(json, &mut unescaped)) {
        (Ok(fast), Ok(careful)) => prop_assert_eq!(fast, careful),
        (Err(fast), Err(careful)) => prop_assert_eq!(fast.to_string(), careful.to_string()),
        (fast, careful) => prop_assert!(false, "{:?} and {:?}", fast, careful),
    }
    Ok(true)
}

#[test]
fn the_fast_path_takes_the_compact_form_and_leaves_the_rest() {
    let compact = |json: &str| serde_json::from_str::<serde_json::Value>(json).expect("JSON").to_string();
    let rows = [
        (compact(DECODED), true),
        (compact(GUIDE), true),
        (compact(FIREHOSE), true),
        (DECODED.to_owned(), false),
        (compact(DECODED).replace("eventId1", r"\u00e9\ud83d\ude00\n\/\\"), true),
        (compact(DECODED).replace("eventId1", r"\ud83d"), false),
        (compact(DECODED).replace("eventId1", r"\u+0e9"), false),
        (compact(DECODED).replace("eventId1", r"\x"), false),
        (compact(DECODED).replace("eventId1", "\t"), false),
        (compact(DECODED).replace("1440442987000", "-1"), true),
        (compact(DECODED).replace("1440442987000", "01"), false),
        (compact(DECODED).replace("1440442987000", "-"), false),
        (compact(DECODED).replace("1440442987000", "1e3"), false),
        (compact(DECODED).replace("1440442987000", "9223372036854775807"), false),
        (compact(DECODED).replace("DATA_MESSAGE", "OTHER"), true),
        (compact(DECODED).replace("\"owner\"", "\"policyLevel\":\"ACCOUNT_LEVEL_POLICY\",\"owner\""), true),
        (compact(DECODED).replace("\"owner\"", "\"owner\":\"\",\"owner\""), false),
        (compact(DECODED).replace("\"id\"", "\"id\":\"\",\"id\""), false),
        (compact(DECODED) + " ", false),
    ];
    for (json, taken) in rows {
        assert_eq!(agree(&json).expect("both agree"), taken, "{json}");
    }
}

proptest! {
    #[test]
    fn the_fast_path_reads_what_the_careful_one_reads(batch in batches()) {
        prop_assert!(agree(&write::json(&batch))?, "the usual form must be fast");
    }

    #[test]
    fn the_fast_path_takes_nothing_that_the_careful_one_refuses(
        batch in batches(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), r#"[-"\\\[\]{},:0-9eu\t .a]?"#), 1..4),
    ) {
        let mut json: Vec<char> = write::json(&batch).chars().collect();
        for (at, text) in edits {
            let at = at.index(json.len());
            json.splice(at..=at, text.chars());
        }
        agree(&json.into_iter().collect::<String>())?;
    }
}
