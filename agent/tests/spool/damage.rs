//! Truncated and damaged files.

use proptest::prelude::*;

use super::*;

/// A spool with stored and delivered records, and the numbers of the waiting ones.
fn filled(classes: &[bool], delivered: usize, limit: u64) -> (TestDirectory, Vec<u64>) {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, limit);
    for (seq, heartbeat) in classes.iter().enumerate() {
        let class = if *heartbeat { RecordClass::Heartbeat } else { RecordClass::Change };
        store(&mut outbox, seq as u64..seq as u64 + 1, class);
    }
    outbox.ack(delivered as u64).expect("acknowledged");
    let waiting = all(&mut outbox);
    drop(outbox);
    (directory, waiting)
}

fn is_part_of(part: &[u64], whole: &[u64]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|seq| whole.any(|other| other == seq))
}

#[test]
fn a_crash_at_any_byte_of_a_store_loses_only_what_was_not_stored() {
    let directory = TestDirectory::new();
    let (mut outbox, _) = open(&directory.0, MIB);
    store(&mut outbox, 0..2, RecordClass::Change);
    let path = directory.segments().remove(0);
    let before = fs::metadata(&path).expect("a file").len();
    outbox.store(&[report(2, RecordClass::Change), report(3, RecordClass::Change)]).expect("stored");
    drop(outbox);
    let whole = fs::read(&path).expect("a file");
    for cut in before as usize..=whole.len() {
        let copy = directory.copy();
        fs::write(&copy.segments()[0], &whole[..cut]).expect("written");
        let (mut outbox, recovered) = open(&copy.0, MIB);
        let left = all(&mut outbox);
        assert!(left.starts_with(&[0, 1]) && is_part_of(&left, &[0, 1, 2, 3]), "{cut}: {left:?}");
        assert_eq!(recovered.damaged, 0);
        // Records that are stored after the crash are read normally.
        store(&mut outbox, 9..10, RecordClass::Change);
        drop(outbox);
        let (mut outbox, recovered) = open(&copy.0, MIB);
        assert_eq!(
            (all(&mut outbox), recovered.torn_bytes, recovered.damaged),
            ([left, vec![9]].concat(), 0, 0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_damaged_byte_costs_one_record_at_most_and_is_counted(
        classes in prop::collection::vec(any::<bool>(), 1..60),
        delivered in 0usize..60,
        file in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        flip in 1u8..=255,
    ) {
        let (directory, waiting) = filled(&classes, delivered.min(classes.len() - 1), 64 * 1024);
        let paths = directory.segments();
        let path = &paths[file.index(paths.len())];
        let mut bytes = fs::read(path).expect("a file");
        let index = byte.index(bytes.len());
        bytes[index] ^= flip;
        fs::write(path, bytes).expect("written");
        let (mut outbox, recovered) = open(&directory.0, 64 * 1024);
        let left = all(&mut outbox);
        prop_assert!(is_part_of(&left, &waiting));
        prop_assert!(left.len() + 1 >= waiting.len(), "{} of {}", left.len(), waiting.len());
        prop_assert!(left.len() == waiting.len() || recovered.damaged + recovered.torn_bytes > 0);
        prop_assert_eq!(outbox.waiting(), left.len() as u64);
    }

    #[test]
    fn damage_while_it_is_open_is_counted_and_stops_nothing(
        number in 2usize..60,
        byte in any::<prop::sample::Index>(),
    ) {
        let directory = TestDirectory::new();
        let (mut outbox, _) = open(&directory.0, MIB);
        store(&mut outbox, 0..number as u64, RecordClass::Change);
        let path = directory.segments().remove(0);
        let mut bytes = fs::read(&path).expect("a file");
        let index = byte.index(bytes.len());
        bytes[index] ^= 0x55;
        fs::write(&path, bytes).expect("written");
        for _ in 0..2 {
            prop_assert_eq!(all(&mut outbox).len(), number - 1);
            prop_assert_eq!(outbox.losses().damaged, 1);
        }
        outbox.ack(u64::MAX).expect("acknowledged");
        prop_assert_eq!(outbox.waiting(), 0);
    }

    #[test]
    fn a_cursor_that_cannot_be_read_repeats_and_loses_nothing(
        classes in prop::collection::vec(any::<bool>(), 1..40),
        delivered in 1usize..40,
        garbage in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (directory, waiting) = filled(&classes, delivered.min(classes.len()), MIB);
        fs::write(directory.0.join("delivered"), garbage).expect("written");
        let (mut outbox, recovered) = open(&directory.0, MIB);
        prop_assert!(recovered.cursor_lost);
        prop_assert!(is_part_of(&waiting, &all(&mut outbox)));
    }

    #[test]
    fn any_bytes_as_a_segment_are_read_or_passed_over(garbage in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let directory = TestDirectory::new();
        fs::create_dir_all(&directory.0).expect("a directory");
        fs::write(directory.0.join("change-00000000000000000001.seg"), garbage).expect("written");
        let (mut outbox, _) = open(&directory.0, MIB);
        store(&mut outbox, 5..6, RecordClass::Change);
        prop_assert_eq!(all(&mut outbox), vec![5]);
    }

    #[test]
    fn restarts_at_any_time_lose_nothing_and_repeat_only_what_was_not_delivered(
        steps in prop::collection::vec((0u8..4, 1u64..8), 1..40),
    ) {
        let directory = TestDirectory::new();
        let (mut outbox, _) = open(&directory.0, MIB);
        let (mut next, mut delivered) = (0u64, 0u64);
        for (what, number) in steps {
            match what {
                0 => {
                    store(&mut outbox, next..next + number, RecordClass::Change);
                    next += number;
                }
                1 => {
                    store(&mut outbox, next..next + number, RecordClass::Heartbeat);
                    next += number;
                }
                2 => {
                    let records = outbox.peek(number as usize, usize::MAX);
                    if let Some(last) = records.last() {
                        outbox.ack(last.number).expect("acknowledged");
                        delivered += records.len() as u64;
                    }
                }
                _ => {
                    drop(outbox);
                    outbox = open(&directory.0, MIB).0;
                }
            }
            prop_assert_eq!(all(&mut outbox), (delivered..next).collect::<Vec<_>>());
            prop_assert_eq!(outbox.waiting(), next - delivered);
        }
    }
}
