//! Changes a case or a group in the form in which a store keeps it, for tests that need a state and not the transitions to
//! it.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Merges a patch into the stored form (RFC 7396): objects recursively, null removes.
///
/// # Panics
/// If the result is not a valid item.
pub fn edit<T: Serialize + DeserializeOwned>(item: &mut T, patch: Value) {
    edit_stored(item, |stored| merge(stored, patch));
}

/// The same, by a function of the stored form.
///
/// # Panics
/// If the result is not a valid item.
pub fn edit_stored<T: Serialize + DeserializeOwned>(item: &mut T, change: impl FnOnce(&mut Value)) {
    let mut stored = serde_json::to_value(&*item).expect("an item is JSON");
    change(&mut stored);
    *item = serde_json::from_value(stored).expect("still an item");
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
