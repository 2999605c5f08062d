//! Whatever breaks, and whenever: what must never happen does not.

mod simulation;

use jiff::SignedDuration;
use proptest::prelude::*;

use self::simulation::{Dice, Kind, Sick, Weather, World, start};

fn sick() -> impl Strategy<Value = Sick> {
    let kind =
        prop_oneof![3 => Just(Kind::Replace), 1 => Just(Kind::RebootCures), 1 => Just(Kind::RebootInVain)];
    // Gaps and lengths on both sides of the recovery hold (2 min) and of the grace periods (10 and 30 min).
    let seconds = prop_oneof![1 => 1u32..150, 1 => 300u32..2_400];
    let spells = prop::collection::vec((seconds.clone(), seconds), 1..4);
    (kind, spells, any::<bool>()).prop_map(|(kind, spells, ends)| Sick { kind, spells, ends })
}

fn weather() -> impl Strategy<Value = Weather> {
    (0u64..60, 0u64..40, 0u64..20).prop_map(|(faults, twice, stillborn)| Weather { faults, twice, stillborn })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(2000) })]

    /// No call before its deadline, none twice, no more at once than allowed; and once the weather is calm
    /// again, nothing that is bad was forgotten and nothing that began has not ended.
    #[test]
    fn every_call_is_due_made_once_and_within_the_limit(
        sick in prop::collection::vec(sick(), 1..6),
        limit in 1usize..3,
        weather in weather(),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(sick, limit, weather, Dice::new(seed));
        world.run_until(start() + SignedDuration::from_hours(5));
        world.calm();
        world.run_until(start() + SignedDuration::from_hours(72));
        let wrongs = world.wrongs.join("\n");
        prop_assert!(wrongs.is_empty(), "{}\n{}", wrongs, world.story());
        let left = world.leftovers().join("\n");
        prop_assert!(left.is_empty(), "{}\n{}", left, world.story());
    }
}

#[test]
fn the_simulation_does_make_calls() {
    let kinds = [Kind::Replace, Kind::RebootCures, Kind::RebootInVain];
    let sick = kinds.map(|kind| Sick { kind, spells: vec![(10, 10)], ends: false }).to_vec();
    let weather = Weather { faults: 0, twice: 0, stillborn: 0 };
    let mut world = World::new(sick, 2, weather, Dice::new(1));
    world.run_until(start() + SignedDuration::from_hours(6));
    assert_eq!(world.wrongs, Vec::<String>::new(), "{}", world.story());
    assert_eq!(world.leftovers(), Vec::<String>::new(), "{}", world.story());
    // One terminated, one rebooted, one rebooted in vain and then terminated.
    assert_eq!(world.calls(), 4, "{}", world.story());
}
