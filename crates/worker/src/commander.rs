//! Commands to arm and to cancel timers, which come by RabbitMQ.

use std::time::Duration;

use book::{BookError, TimerCommand};
use broker::{Broker, Command, CommandAction, CommandMessage, CommandQueue, Outgoing, Publisher};
use order::ParkReason;
use retry::Policy;
use tokio_util::sync::CancellationToken;
use trace::TraceParent;

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
    /// Commands about timers that another transaction holds: they go to the end of their queue.
    again: Vec<Outgoing>,
}

/// How long to rest when a timer is held: its command comes again.
const HELD_PAUSE: Duration = Duration::from_millis(500);

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
        while self.is_ready().await.is_ok() {
            let ended = match CommandQueue::open(&self.broker).await {
                Ok(mut queue) => {
                    delays.reset();
                    let ended = self.work(&mut queue).await;
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

    async fn is_ready(&self) -> Result<(), Interrupted> {
        self.patience.until(TROUBLE, |_| false, || self.timers.timers.ready_for_commands()).await.map(drop)
    }

    async fn work(&mut self, queue: &mut CommandQueue) -> Result<(), String> {
        let shutdown = self.patience.shutdown().clone();
        loop {
            let received = tokio::select! {
                received = queue.receive() => received,
                () = shutdown.cancelled() => return Ok(()),
            };
            let messages = received.ok_or("the subscription has ended")?;
            let Ok(Done { parked, again }) = self.obey(&messages).await else { return Ok(()) };
            if let Some((reason, _)) = parked.first() {
                tracing::error!(commands = parked.len(), %reason, "commands cannot be done; they are parked");
            }
            let is_held = !again.is_empty();
            let follow_ups: Vec<Outgoing> = parked.into_iter().map(|(_, message)| message).chain(again).collect();
            self.publisher.publish_all(&follow_ups).await.map_err(|error| error.to_string())?;
            queue.ack(&messages).await.map_err(|error| error.to_string())?;
            if is_held {
                tokio::select! {
                    () = tokio::time::sleep(HELD_PAUSE) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
        }
    }

    /// Does what the messages say, and waits out a database that is away.
    async fn obey(&self, messages: &[CommandMessage]) -> Result<Done, Interrupted> {
        let (mut done, mut good) = (Done::default(), Vec::new());
        for message in messages {
            let commands = match &message.content {
                Ok(commands) => commands,
                Err(fault) => {
                    done.parked.push((fault.reason(), message.parked(fault.reason(), &fault.to_string())));
                    continue;
                }
            };
            let bad = message.bad.iter().map(|(list, bad)| (bad.fault.reason(), message.parked_entry(*list, bad)));
            done.parked.extend(bad);
            for command in commands {
                if self.timers.is_expected(&command.id) {
                    good.push((message, command));
                } else {
                    let detail = format!("timers of the kind {} are not expected here", command.id.kind());
                    done.park(message, command, ParkReason::UnexpectedTimer, &detail);
                }
            }
        }
        let trace = good.iter().find_map(|(message, _)| message.traceparent());
        let all: Vec<TimerCommand> = good.iter().map(|(_, command)| timer_command(command)).collect();
        if self.call(&all, trace.as_ref()).await?.is_ok() {
            return Ok(done);
        }
        // One by one it is found which of them fails.
        for ((message, command), one) in good.into_iter().zip(all) {
            match self.call_about(&one, message).await? {
                Ok(()) => {}
                Err(BookError::Refused(detail)) => {
                    done.park(message, command, ParkReason::RefusedByDatabase, &detail);
                }
                // Another transaction holds the timer.
                Err(_) => done.again.push(message.command_again(command)),
            }
        }
        Ok(done)
    }

    /// As [`Commander::call`], about one. What is refused whatever the command is no fault of this one, and waited out.
    async fn call_about(
        &self,
        one: &TimerCommand,
        message: &CommandMessage,
    ) -> Result<Result<(), BookError>, Interrupted> {
        let (one, trace) = (std::slice::from_ref(one), message.traceparent());
        loop {
            match self.call(one, trace.as_ref()).await? {
                Err(BookError::Refused(_)) if self.timers.timers.ready_for_commands().await.is_err() => {
                    self.is_ready().await?;
                }
                answer => return Ok(answer),
            }
        }
    }

    /// An error is about these commands.
    async fn call(
        &self,
        commands: &[TimerCommand],
        trace: Option<&TraceParent>,
    ) -> Result<Result<(), BookError>, Interrupted> {
        if commands.is_empty() {
            return Ok(Ok(()));
        }
        let is_answer = |error: &BookError| matches!(error, BookError::Refused(_) | BookError::Slow(_));
        self.patience.until(TROUBLE, is_answer, || self.timers.timers.command(commands, trace)).await
    }
}

impl Done {
    fn park(&mut self, message: &CommandMessage, command: &Command, reason: ParkReason, detail: &str) {
        self.parked.push((reason, message.parked_command(command, reason, detail)));
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
