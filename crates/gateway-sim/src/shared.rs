//! What all parts of the simulator share: its ledger and keys, the knobs that hold for every call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use ring::signature::RsaKeyPair;

use crate::hooks::Hooks;
use crate::message::Reply;
use crate::{Keys, Ledger, Mishap, Signer};

/// How the simulator was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Calls of merchants, whatever their outcome.
    pub calls: u64,
    /// The greatest number of calls under way at the same time.
    pub in_flight_max: u64,
}

/// The state of a simulator. All its connections work on it.
pub(crate) struct Shared {
    pub(crate) ledger: Ledger,
    pub(crate) hooks: Hooks,
    pub(crate) keys: Keys,
    pub(crate) merchant_public_key: Vec<u8>,
    signers: HashMap<&'static str, (String, RsaKeyPair)>,
    knobs: Mutex<Knobs>,
    calls: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    /// The last reply to each kind of call, for replays.
    last: Mutex<HashMap<&'static str, Reply>>,
}

/// What holds for every call.
#[derive(Clone)]
pub(crate) struct Knobs {
    pub(crate) signer: Signer,
    pub(crate) delay: Duration,
    /// What goes wrong with every call.
    pub(crate) outage: Option<Mishap>,
}

const SIGNERS: [(&str, Signer); 4] = [
    ("certificate 1", Signer::Certificate1),
    ("certificate 2", Signer::Certificate2),
    ("public key", Signer::PublicKey),
    ("unknown", Signer::Unknown),
];

impl Shared {
    pub(crate) fn new(keys: Keys) -> anyhow::Result<Self> {
        let mut signers = HashMap::new();
        for (name, signer) in SIGNERS {
            signers.insert(name, (keys.serial(signer)?, keys.sign_with(signer)?));
        }
        Ok(Self {
            ledger: Ledger::default(),
            hooks: Hooks::default(),
            merchant_public_key: keys.merchant_public_key()?,
            keys,
            signers,
            knobs: Mutex::new(Knobs { signer: Signer::Certificate1, delay: Duration::ZERO, outage: None }),
            calls: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            in_flight_max: AtomicU64::new(0),
            last: Mutex::default(),
        })
    }

    pub(crate) fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn last_replies(&self) -> MutexGuard<'_, HashMap<&'static str, Reply>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key, and how `Wechatpay-Serial` names it.
    pub(crate) fn signer(&self, signer: Signer) -> &(String, RsaKeyPair) {
        let name = SIGNERS.iter().find(|(_, known)| *known == signer).map_or("", |(name, _)| name);
        &self.signers[name]
    }

    /// Counts a call and delays it as the knobs say.
    pub(crate) async fn counted(&self, answer: impl Future<Output = Option<Reply>>) -> Option<Reply> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_max.fetch_max(in_flight, Ordering::Relaxed);
        let delay = self.knobs().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let reply = answer.await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        reply
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            calls: self.calls.load(Ordering::Relaxed),
            in_flight_max: self.in_flight_max.load(Ordering::Relaxed),
        }
    }
}

/// Headers in the form of HTTP libraries.
pub(crate) fn header_map(headers: &[(&'static str, String)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, String)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
    };
    headers.iter().filter_map(header).collect()
}
