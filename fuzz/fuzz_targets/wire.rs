//! Whatever bytes a message has: reading it breaks nothing, and what was understood can be written and read again.
#![no_main]

use broker::wire::{self, ORDERS_MAX};
use order::Deadline;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let Ok(decoded) = wire::decode(body) else { return };
    assert!(!decoded.orders.is_empty() || !decoded.bad_entries.is_empty(), "neither good nor bad");
    assert!(decoded.orders.len() + decoded.bad_entries.len() <= ORDERS_MAX);
    for bad in &decoded.bad_entries {
        // Alone it is as bad as it was among others.
        let alone = wire::decode(&wire::encode_entries(&[&bad.json])).expect("an envelope of ours");
        assert!(alone.orders.is_empty() && alone.bad_entries.len() == 1);
        assert_eq!(alone.bad_entries[0].fault, bad.fault);
    }
    if decoded.orders.is_empty() {
        return;
    }
    let due: Deadline = "2026-11-22T08:30:00Z".parse().expect("a deadline");
    let orders: Vec<_> = decoded.orders.iter().map(|id| (id.clone(), due)).collect();
    let again = wire::decode(&wire::encode(&orders)).expect("what we write we can read");
    assert_eq!(again.orders, decoded.orders);
});
