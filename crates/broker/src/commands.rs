//! Commands to arm and to cancel timers, on their way out of their queue.

use std::borrow::Cow;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use order::{Attempts, BadTimeoutId, Deadline, ParkReason, TimerId, check_timer_due};
use serde::Deserialize;
use serde_json::value::RawValue;
use trace::TraceParent;

use crate::forward::{carried_on, kept_headers};
use crate::headers::{ATTEMPT_HEADER, DETAIL_HEADER, REASON_HEADER, attempts, insert_attempts, insert_text};
use crate::subscription::Subscription;
use crate::topology::{COMMANDS_EXCHANGE, COMMANDS_QUEUE, PARKED_EXCHANGE};
use crate::wire::{BODY_BYTES_MAX, BadEntry, Fault, ORDERS_MAX, envelope};
use crate::{Broker, BrokerError, Outgoing};

/// A consumer of the queue of commands.
pub struct CommandQueue(Subscription);

/// What is to be done with a timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The timer.
    pub id: TimerId,
    /// What.
    pub action: CommandAction,
    /// A number that its sender raises with each command about the timer; none: the command always counts.
    pub version: Option<i64>,
    /// The entry as it stood in the message.
    json: Box<str>,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandAction {
    /// Arms the timer, with this data (JSON).
    Arm {
        /// When it is to fire.
        due: Deadline,
        /// What goes along with its event.
        data: Option<String>,
    },
    /// Cancels it.
    Cancel,
}

/// A message with commands, as it arrived.
pub struct CommandMessage {
    /// What it commands, first the timers that it arms; or why it cannot be understood.
    pub content: Result<Vec<Command>, Fault>,
    /// Entries that are no commands, each in the list in which it stood.
    pub bad: Vec<(CommandList, BadEntry)>,
    body: Vec<u8>,
    properties: BasicProperties,
    tag: u64,
}

/// The two lists of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandList {
    /// Timers to be armed.
    Arm,
    /// Timers to be cancelled.
    Cancel,
}

/// The version that this program understands.
const VERSION: u8 = 1;

/// The most bytes of a timer's data.
const DATA_BYTES_MAX: usize = 8192;

/// How many messages the broker sends ahead, and how many bytes are taken together.
const PREFETCH: u16 = 256;
const BYTES_MAX: usize = 1024 * 1024;

/// The most characters of a detail: all headers must fit into one frame.
const DETAIL_CHARACTERS_MAX: usize = 2_000;

impl CommandQueue {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        Ok(Self(Subscription::open(broker, "commands", COMMANDS_QUEUE, PREFETCH).await?))
    }

    /// Waits for a message and takes with it the others that have arrived. `None` when the subscription has ended.
    ///
    /// May be dropped while it waits.
    pub async fn receive(&mut self) -> Option<Vec<CommandMessage>> {
        Some(self.0.receive(BYTES_MAX).await?.into_iter().map(CommandMessage::read).collect())
    }

    /// Takes these messages, and all before them, out of the queue for good.
    ///
    /// # Errors
    /// [`BrokerError`]: they come again then.
    pub async fn ack(&self, messages: &[CommandMessage]) -> Result<(), BrokerError> {
        match messages.last() {
            Some(last) => self.0.ack_up_to(last.tag).await,
            None => Ok(()),
        }
    }

    /// Gives everything back that was not acked, and hangs up.
    pub async fn close(self) {
        self.0.close().await;
    }
}

impl CommandMessage {
    fn read(delivery: Delivery) -> Self {
        let (content, bad) = match decode(&delivery.data) {
            Ok((commands, bad)) => (Ok(commands), bad),
            Err(fault) => (Err(fault), Vec::new()),
        };
        let Delivery { data: body, properties, delivery_tag: tag, .. } = delivery;
        Self { content, bad, body, properties, tag }
    }

    /// The trace that it belongs to, if its headers tell.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        match self.properties.headers().as_ref()?.inner().get(trace::HEADER) {
            Some(AMQPValue::LongString(text)) => text.to_string().parse().ok(),
            _ => None,
        }
    }

    /// The whole message, byte for byte, as one to be parked.
    #[must_use]
    pub fn parked(&self, reason: ParkReason, detail: &str) -> Outgoing {
        self.parked_as(self.body.clone(), reason, detail)
    }

    /// A bad entry of the message as one to be parked: its own bytes in a message of its own.
    #[must_use]
    pub fn parked_entry(&self, list: CommandList, entry: &BadEntry) -> Outgoing {
        let body = body_of(list, entry.json.get());
        self.parked_as(body, entry.fault.reason(), &entry.fault.to_string())
    }

    /// A command of the message as one to be parked, in a message of its own.
    #[must_use]
    pub fn parked_command(&self, command: &Command, reason: ParkReason, detail: &str) -> Outgoing {
        self.parked_as(command.body(), reason, detail)
    }

    /// How often its commands were tried in vain, as its headers tell.
    #[must_use]
    pub fn attempts(&self) -> Attempts {
        self.properties.headers().as_ref().map_or_else(Attempts::default, |headers| attempts(headers, ATTEMPT_HEADER))
    }

    /// A command of the message as one that goes to the end of its queue, in a message of its own, with these attempts behind it.
    #[must_use]
    pub fn command_again(&self, command: &Command, attempts: &Attempts) -> Outgoing {
        let mut headers = kept_headers(self.properties.headers().as_ref());
        insert_attempts(&mut headers, ATTEMPT_HEADER, attempts);
        let properties = carried_on(&self.properties, headers);
        let (exchange, routing_key) = (COMMANDS_EXCHANGE, String::new());
        Outgoing { exchange, routing_key, body: command.body(), properties, mandatory: true }
    }

    fn parked_as(&self, body: Vec<u8>, reason: ParkReason, detail: &str) -> Outgoing {
        let mut headers = kept_headers(self.properties.headers().as_ref());
        insert_text(&mut headers, REASON_HEADER, reason.code());
        let detail: String = detail.chars().take(DETAIL_CHARACTERS_MAX).collect();
        insert_text(&mut headers, DETAIL_HEADER, &detail);
        let properties = carried_on(&self.properties, headers);
        // By the queue's name it finds its way back.
        Outgoing {
            exchange: PARKED_EXCHANGE,
            routing_key: COMMANDS_QUEUE.to_owned(),
            body,
            properties,
            mandatory: true,
        }
    }
}

impl Command {
    fn body(&self) -> Vec<u8> {
        let list = match self.action {
            CommandAction::Arm { .. } => CommandList::Arm,
            CommandAction::Cancel => CommandList::Cancel,
        };
        body_of(list, &self.json)
    }
}

fn body_of(list: CommandList, entry: &str) -> Vec<u8> {
    let name = match list {
        CommandList::Arm => "arm",
        CommandList::Cancel => "cancel",
    };
    format!(r#"{{"v":{VERSION},"{name}":[{entry}]}}"#).into_bytes()
}

type Decoded = (Vec<Command>, Vec<(CommandList, BadEntry)>);

/// Reads a body: `{"v":1,"arm":[{"kind":…,"subject":…,"due":…,"data":…,"version":…}],"cancel":[{"kind":…,"subject":…,"version":…}]}`.
fn decode(body: &[u8]) -> Result<Decoded, Fault> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        arm: Option<&'a RawValue>,
        #[serde(borrow)]
        cancel: Option<&'a RawValue>,
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(Fault::TooLarge(body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|error| Fault::NotUtf8(error.valid_up_to()))?;
    let parts: Parts<'_> = envelope(text)?;
    let entries = |list: Option<&'_ RawValue>| -> Result<Vec<Box<RawValue>>, Fault> {
        list.map_or(Ok(Vec::new()), |list| serde_json::from_str(list.get()).map_err(|_| illegal_list()))
    };
    let lists = [(CommandList::Arm, entries(parts.arm)?), (CommandList::Cancel, entries(parts.cancel)?)];
    let count = lists.iter().map(|(_, entries)| entries.len()).sum();
    if count == 0 {
        return Err(illegal_list());
    }
    if count > ORDERS_MAX {
        return Err(Fault::IllegalCommand(format!("{count} commands; at most {ORDERS_MAX} fit into a message")));
    }
    let (mut commands, mut bad) = (Vec::with_capacity(count), Vec::new());
    for (list, entries) in lists {
        for json in entries {
            match command(list, json.get()) {
                Ok(command) => commands.push(command),
                Err(fault) => bad.push((list, BadEntry { json, fault })),
            }
        }
    }
    Ok((commands, bad))
}

fn illegal_list() -> Fault {
    Fault::IllegalCommand("`arm`, `cancel` or both must be lists, not all of them empty".to_owned())
}

fn command(list: CommandList, json: &str) -> Result<Command, Fault> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        subject: Cow<'a, str>,
        due: Option<String>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        version: Option<i64>,
    }
    let illegal = |what: String| Fault::IllegalCommand(what);
    let fields: Fields<'_> = serde_json::from_str(json).map_err(|error| illegal(error.to_string()))?;
    let id = TimerId::new(&fields.kind, &fields.subject).map_err(BadTimeoutId::Timer)?;
    let action = match list {
        CommandList::Cancel => CommandAction::Cancel,
        CommandList::Arm => {
            let due = fields.due.ok_or_else(|| illegal("it does not say when the timer is due".to_owned()))?;
            let due: Deadline = due.parse().map_err(|error: order::BadDeadline| illegal(error.to_string()))?;
            check_timer_due(due).map_err(|error| illegal(error.to_string()))?;
            let data = fields.data.map(|data| data.get().to_owned());
            if let Some(bytes) = data.as_ref().map(String::len).filter(|bytes| *bytes > DATA_BYTES_MAX) {
                return Err(illegal(format!("its data has {bytes} bytes, at most {DATA_BYTES_MAX} are allowed")));
            }
            CommandAction::Arm { due, data }
        }
    };
    Ok(Command { id, action, version: fields.version, json: json.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_read_and_bad_ones_do_not_spoil_their_neighbours() {
        let body = br#"{"v":1,"arm":[{"kind":"sms","subject":"1","due":"2026-11-22T08:30:00Z","data":{"a": 1},"version":7},
            {"kind":"sms","subject":"2"},{"kind":"SMS","subject":"3","due":"2026-11-22T08:30:00Z"},7,
            {"kind":"sms","subject":"4","due":"9999-01-01T00:00:00Z"}],"cancel":[{"kind":"sms","subject":"5","more":[]},{"subject":"6"}]}"#;
        let (commands, bad) = decode(body).unwrap();
        let names: Vec<(String, Option<i64>)> = commands.iter().map(|it| (it.id.to_string(), it.version)).collect();
        assert_eq!(names, [("sms:1".to_owned(), Some(7)), ("sms:5".to_owned(), None)]);
        let CommandAction::Arm { data, .. } = &commands[0].action else { panic!("it arms") };
        assert_eq!((data.as_deref(), &commands[1].action), (Some(r#"{"a": 1}"#), &CommandAction::Cancel));
        let codes: Vec<&str> = bad.iter().map(|(_, bad)| bad.fault.reason().code()).collect();
        assert_eq!(
            codes,
            ["illegal_command", "illegal_timer_id", "illegal_command", "illegal_command", "illegal_command"]
        );
        for (list, entry) in &bad {
            let alone = decode(&body_of(*list, entry.json.get())).unwrap();
            assert_eq!((alone.0.len(), &alone.1[0].1.fault), (0, &entry.fault), "it is as bad alone");
        }
    }

    #[test]
    fn each_fault_has_its_code() {
        for (body, code) in [
            (&b"842317"[..], "not_json"),
            (b"\xff", "not_utf8"),
            (b"{}", "unknown_version"),
            (br#"{"v":2,"arm":[]}"#, "unknown_version"),
            (br#"{"v":1}"#, "illegal_command"),
            (br#"{"v":1,"arm":[],"cancel":[]}"#, "illegal_command"),
            (br#"{"v":1,"arm":{}}"#, "illegal_command"),
        ] {
            let Err(fault) = decode(body) else { panic!("{body:?} was read") };
            assert_eq!(fault.reason().code(), code, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(inner in r#"[{}\[\]":,a-z0-9\\ ]{0,60}"#) {
            let _ = decode(format!("{{\"v\":1,\"arm\":[{inner}]}}").as_bytes());
            let _ = decode(inner.as_bytes());
        }
    }
}
