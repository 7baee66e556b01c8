//! Whatever bytes a message has: reading it breaks nothing, and what was understood can be written and read again.
#![no_main]

use broker::wire::{self, ORDERS_MAX};
use order::{Deadline, TimeoutKind};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    for kind in [TimeoutKind::Payment, TimeoutKind::Timer] {
        read(kind, body);
    }
});

fn read(kind: TimeoutKind, body: &[u8]) {
    let Ok(decoded) = wire::decode(kind, body) else { return };
    assert!(!decoded.ids.is_empty() || !decoded.bad_entries.is_empty(), "neither good nor bad");
    assert!(decoded.ids.len() + decoded.bad_entries.len() <= ORDERS_MAX);
    for bad in &decoded.bad_entries {
        // Alone it is as bad as it was among others.
        let alone = wire::decode(kind, &wire::encode_entries(&[&bad.json])).expect("an envelope of ours");
        assert!(alone.ids.is_empty() && alone.bad_entries.len() == 1);
        assert_eq!(alone.bad_entries[0].fault, bad.fault);
    }
    if decoded.ids.is_empty() {
        return;
    }
    let due: Deadline = "2026-11-22T08:30:00Z".parse().expect("a deadline");
    let orders: Vec<_> = decoded.ids.iter().map(|id| (id.clone(), due)).collect();
    let again = wire::decode(kind, &wire::encode(&orders)).expect("what we write we can read");
    assert_eq!(again.ids, decoded.ids);
}
