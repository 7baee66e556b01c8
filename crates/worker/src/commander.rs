//! Commands to arm and to cancel timers, which come by RabbitMQ.

use std::collections::HashSet;
use std::time::Duration;

use book::{ItemReply, TimerCommand};
use broker::{Broker, Command, CommandAction, CommandMessage, CommandQueue, Outgoing, Publisher};
use order::{Attempts, ParkReason, RetryReason};
use retry::{Delays, Policy};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::patience::{Interrupted, Patience};
use crate::timers::SharedTimers;

/// Does what commands say. A message leaves their queue only when its effect is committed.
pub struct Commander {
    broker: Broker,
    timers: SharedTimers,
    publisher: Publisher,
    patience: Patience,
}

/// What messages have led to, but for what is committed.
#[derive(Default)]
struct Done {
    /// Commands that cannot be done, and why.
    parked: Vec<(ParkReason, Outgoing)>,
    /// Commands that cannot be done now: they go to the end of their queue.
    again: Vec<Outgoing>,
    /// How long to rest before they are taken again.
    rest: Duration,
}

/// How long to rest when a timer is held: its command comes again.
const HELD_PAUSE: Duration = Duration::from_millis(500);

/// After so many tries, a quarter of an hour or more, a command about a timer that stays locked is for a person.
const TRIES_MAX: u32 = 2_000;

const TROUBLE: &str = "commands to arm and cancel timers are not taken";

impl Commander {
    /// A commander that has not begun.
    #[must_use]
    pub fn new(broker: Broker, timers: SharedTimers, confirm_timeout: Duration, shutdown: CancellationToken) -> Self {
        let publisher = Publisher::new(broker.clone(), "commands", confirm_timeout);
        let patience = Patience::endless(shutdown, prometheus_client::metrics::counter::Counter::default());
        Self { broker, timers, publisher, patience }
    }

    /// Works until told to stop. While the database is away commands stay in the queue.
    pub async fn run(mut self) {
        let mut delays = Policy::RECONNECT.delays();
        while self.timers.wait_for_commands(&self.patience).await.is_ok() {
            let ended = match CommandQueue::open(&self.broker).await {
                Ok(mut queue) => {
                    let ended = self.work(&mut queue, &mut delays).await;
                    queue.close().await;
                    ended
                }
                Err(error) => Err(error.to_string()),
            };
            if self.patience.shutdown().is_cancelled() {
                break;
            }
            if let Err(error) = ended
                && self.patience.pause(&mut delays, TROUBLE, &error).await.is_err()
            {
                break;
            }
        }
        self.publisher.close().await;
    }

    async fn work(&mut self, queue: &mut CommandQueue, delays: &mut Delays) -> Result<(), String> {
        let shutdown = self.patience.shutdown().clone();
        loop {
            let received = tokio::select! {
                received = queue.receive() => received,
                () = shutdown.cancelled() => return Ok(()),
            };
            let messages = received.ok_or("the subscription has ended")?;
            let Ok(Done { parked, again, rest }) = self.obey(&messages).await else { return Ok(()) };
            if let Some((reason, _)) = parked.first() {
                tracing::error!(commands = parked.len(), %reason, "commands cannot be done; they are parked");
            }
            let follow_ups: Vec<Outgoing> = parked.into_iter().map(|(_, message)| message).chain(again).collect();
            if self.publish(follow_ups).await.is_err() {
                return Ok(());
            }
            queue.ack(&messages).await.map_err(|error| error.to_string())?;
            delays.reset();
            if !rest.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
        }
    }

    /// Publishes until everything is confirmed. Given back meanwhile, the messages would come again at once, and be done twice.
    async fn publish(&mut self, mut left: Vec<Outgoing>) -> Result<(), Interrupted> {
        let mut delays = Policy::RECONNECT.delays();
        while !left.is_empty() {
            let fates = self.publisher.publish(&left).await;
            let failure = fates.iter().find_map(|fate| fate.as_ref().err().cloned());
            let mut fates = fates.into_iter();
            left.retain(|_| fates.next().is_none_or(|fate| fate.is_err()));
            if let Some(error) = failure {
                self.patience.pause(&mut delays, "commands that cannot be done cannot be set aside", &error).await?;
            }
        }
        Ok(())
    }

    /// Does what the messages say, and waits out a database that is away.
    async fn obey(&self, messages: &[CommandMessage]) -> Result<Done, Interrupted> {
        let (mut done, mut open) = (Done::default(), Vec::new());
        for message in messages {
            match &message.content {
                Ok(commands) => {
                    let bad = message.bad.iter();
                    done.parked.extend(bad.map(|(list, it)| (it.fault.reason(), message.parked_entry(*list, it))));
                    open.extend(commands.iter().map(|command| (message, command)));
                }
                Err(fault) => done.parked.push((fault.reason(), message.parked(fault.reason(), &fault.to_string()))),
            }
        }
        let is_expected = |(_, command): &(&CommandMessage, &Command)| self.timers.is_expected(&command.id);
        for (message, command) in open.extract_if(.., |about| !is_expected(about)) {
            let detail = format!("timers of the kind {} are not expected here", command.id.kind());
            done.park(message, command, ParkReason::UnexpectedTimer, &detail);
        }
        // Of each timer the first command, then the second, and so on.
        while !open.is_empty() {
            let mut names = HashSet::new();
            let round: Vec<_> = open.extract_if(.., |(_, command)| names.insert(command.id.clone())).collect();
            let commands: Vec<TimerCommand> = round.iter().map(|(_, command)| timer_command(command)).collect();
            let trace = round.iter().find_map(|(message, _)| message.traceparent());
            let mut reply = self.timers.command(&commands, trace.as_ref(), &self.patience).await?;
            for (message, command) in round {
                match reply.items.remove(&command.id) {
                    Some(ItemReply::Done(())) => {}
                    Some(ItemReply::Refused(detail)) => {
                        done.park(message, command, ParkReason::RefusedByDatabase, &detail);
                    }
                    Some(ItemReply::Later(wait)) => done.again(message, command, None, wait),
                    Some(ItemReply::Locked(why)) => done.again(message, command, Some(why), HELD_PAUSE),
                    _ => done.again(message, command, None, HELD_PAUSE),
                }
            }
        }
        Ok(done)
    }
}

impl Done {
    fn park(&mut self, message: &CommandMessage, command: &Command, reason: ParkReason, detail: &str) {
        self.parked.push((reason, message.parked_command(command, reason, detail)));
    }

    /// The command is to be tried again. Where it is its timer that is `held`, that is not done for ever.
    fn again(&mut self, message: &CommandMessage, command: &Command, held: Option<String>, wait: Duration) {
        self.rest = self.rest.max(wait);
        let attempts: Attempts = message.attempts();
        let Some(why) = held else {
            self.again.push(message.command_again(command, &attempts));
            return;
        };
        let attempts = attempts.plus(OffsetDateTime::now_utc(), &RetryReason::Locked);
        if attempts.made >= TRIES_MAX {
            let detail = format!("{} tries; the last: {why}", attempts.made);
            self.park(message, command, ParkReason::StaysLocked, &detail);
        } else {
            self.again.push(message.command_again(command, &attempts));
        }
    }
}

fn timer_command(command: &Command) -> TimerCommand {
    let Command { id, action, version, .. } = command;
    let (due, data) = match action {
        CommandAction::Arm { due, data } => (Some(*due), data.clone()),
        CommandAction::Cancel => (None, None),
    };
    TimerCommand { id: id.clone(), due, data, version: *version }
}
