//! The close protocol, checked exhaustively: every interleaving of customer, gateways, shop, notifications, deliveries,
//! the sweep and the refunder, with answers and messages that are lost and workers that die, up to a bound.
//!
//! The model decides nothing itself: it calls the product's own pure functions, [`order::decide`] and
//! [`order::next_step`]. What surrounds them is modelled here:
//!
//! | here | there |
//! | --- | --- |
//! | [`Action::Take`], [`Action::Ack`] | `Session::receive`, `Batch::ack` (crate `broker`) |
//! | [`Protocol::decide`], [`Protocol::once_closed`], [`Protocol::after_end`] | `Rules::plan_order`, `Rules::once_closed`, `Rules::after_end` (crate `worker`) |
//! | [`Answer`], [`Question`] | `Answer`, `Question` (crate `worker`) |
//! | [`Protocol::call`] | `attempt::follow_protocol` (crate `worker`) |
//! | [`World::close_here`], [`World::pay_here`], [`World::note`] | `settle.sql`, `pay.sql`, `note.sql` (crate `book`) |
//! | [`World::ended`], [`Action::Begin`], [`Action::Replace`] | triggers of the database: `overdue_order_ended`, `overdue_payment_written`, `overdue_payment_replaced` |
//! | [`Action::Sweep`] | `Sweep` (crate `worker`), `unfinished.sql` (crate `book`) |
//! | [`Action::Notify`] | `Notifications::take` (crate `worker`) |
//! | [`Action::Refund`] | `Refunder` (crate `worker`) |
//! | [`Gateway`] | WeChat Pay: pay and close exclude each other |
//!
//! Time is not modelled: the deadline is past, and every wait that is due has passed. The model assumes one thing about
//! delays: a prepay that was under way at the deadline shows at its gateway before `payable_until`.

#![allow(rustdoc::broken_intra_doc_links, reason = "the table names what stands in two files")]

mod protocol;
mod world;

use order::Prepay;
use protocol::{Mistake, Protocol};
use stateright::{Checker, Expectation, Model};
use world::{Attempt, Gateway, Left};

pub(crate) const CLOSED_AND_PAID: &str = "in the end no money is lost, and nothing can be paid any more";

pub(crate) const CLAIMED_TWICE: &str = "no person is called because of money that goes back by itself";

/// What may happen, so that together it stays within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// One trade, which the gateway has confirmed; everything else goes wrong.
    OneTrade,
    /// One trade, of which the prepay was under way at the deadline. It may show late, or never.
    UnderWay,
    /// The shop begins a second attempt, beside the first or in its place.
    TwoAttempts,
    /// The shop cancels the order, or has it paid otherwise, with two attempts open perhaps, and a message is lost.
    Ended,
    /// The book knows no payment: the order is paid at the default gateway, of which one worker has no settings.
    ByDefault,
}

const NOTHING: Left = Left {
    duplicates: 0,
    sweeps: 0,
    crashes: 0,
    lost_answers: 0,
    lost_messages: 0,
    appearances: 0,
    ends: 0,
    begins: 0,
};

impl Scenario {
    const ALL: [Self; 5] = [Self::OneTrade, Self::UnderWay, Self::TwoAttempts, Self::Ended, Self::ByDefault];

    fn protocol(self, mistake: Mistake) -> Protocol {
        let confirmed = Attempt::begun(Gateway::NotPaid, Prepay::Created);
        let under_way = Attempt::begun(Gateway::Absent, Prepay::Attempted);
        let unknown = Attempt { row: None, ..confirmed.clone() };
        let (first, left) = match self {
            Self::OneTrade => (confirmed, Left { duplicates: 1, sweeps: 1, crashes: 2, lost_answers: 1, ..NOTHING }),
            Self::UnderWay => {
                (under_way, Left { duplicates: 1, crashes: 1, lost_answers: 1, appearances: 1, ..NOTHING })
            }
            Self::TwoAttempts => (confirmed, Left { duplicates: 1, crashes: 1, lost_answers: 1, begins: 1, ..NOTHING }),
            Self::Ended => {
                let left = Left { sweeps: 1, crashes: 1, lost_messages: 1, ends: 1, begins: 1, ..NOTHING };
                (confirmed, left)
            }
            Self::ByDefault => (unknown, Left { duplicates: 1, crashes: 1, ..NOTHING }),
        };
        Protocol { mistake, first, left, blind: self == Self::ByDefault && mistake == Mistake::None }
    }

    fn check(self, mistake: Mistake) -> impl Checker<Protocol> {
        // One thread, so that a counter-example is a shortest one.
        self.protocol(mistake).checker().spawn_bfs().join()
    }
}

#[test]
fn the_close_protocol_holds_in_every_interleaving() {
    for scenario in Scenario::ALL {
        let checked = scenario.check(Mistake::None);
        println!(
            "{scenario:?}: {} states, {} of them distinct, at most {} steps deep",
            checked.state_count(),
            checked.unique_state_count(),
            checked.max_depth()
        );
        // With one trade that the gateway has confirmed, no order is closed unheard, and so no money comes back.
        let never_back = matches!(scenario, Scenario::OneTrade | Scenario::ByDefault);
        for property in checked.model().properties() {
            match property.expectation {
                Expectation::Sometimes if never_back && property.name == "money is back" => {
                    checked.assert_no_discovery(property.name);
                }
                Expectation::Sometimes => drop(checked.assert_any_discovery(property.name)),
                _ => checked.assert_no_discovery(property.name),
            }
        }
        assert!(checked.is_done(), "every state was looked at");
    }
}

/// The checks would be worth nothing if they passed whatever the rules.
#[test]
fn the_known_mistakes_are_found() {
    for (scenario, mistake) in [
        (Scenario::Ended, Mistake::OwnRefundClaimed),
        (Scenario::OneTrade, Mistake::LocalFirst),
        (Scenario::OneTrade, Mistake::WithoutConfirm),
        (Scenario::TwoAttempts, Mistake::OldTradeForgotten),
        (Scenario::TwoAttempts, Mistake::GatewayNotCompared),
        (Scenario::TwoAttempts, Mistake::NoFence),
        (Scenario::UnderWay, Mistake::MissedTwiceIsGone),
        (Scenario::Ended, Mistake::EndedOrdersNotAsked),
        (Scenario::ByDefault, Mistake::NoGatewayHere),
    ] {
        let checked = scenario.check(mistake);
        let broken = if mistake == Mistake::OwnRefundClaimed { CLAIMED_TWICE } else { CLOSED_AND_PAID };
        let counter_example = checked.assert_any_discovery(broken);
        println!("{mistake:?}: money is lost after {:?}", counter_example.into_actions());
    }
}

/// The table above is checked, since nothing else would notice a name that has gone.
#[test]
fn what_the_model_mirrors_exists() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut files = Vec::new();
    let mut directories = ["crates", "migrations"].map(|name| std::path::Path::new(root).join(name)).to_vec();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    let source =
        |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "rs" || extension == "sql");
    let sources: Vec<String> =
        files.iter().filter(|path| source(path)).map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let exists = |name: &str| {
        let last = name.rsplit("::").next().unwrap();
        let defined = |text: &String| {
            ["fn ", "struct ", "enum ", "create function "].iter().any(|word| {
                text.match_indices(&format!("{word}{last}")).any(|(at, found)| {
                    !text[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
                })
            })
        };
        files.iter().any(|path| path.ends_with(name)) || sources.iter().any(defined)
    };
    let rows = include_str!("main.rs").lines().filter_map(|line| line.strip_prefix("//! | [")?.split_once(" | "));
    let names: Vec<&str> = rows.flat_map(|(_, there)| there.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names.iter().filter(|name| !["broker", "worker", "book"].contains(name)) {
        assert!(exists(name), "{name} is gone; the table of the model names it still");
    }
    assert!(!exists("Desk::follow_protocols"), "the test can tell");
}
