use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, stderr, stdin};
use std::time::Duration;

use broker::{Outgoing, Publisher, Topology, wire};
use indicatif::{ProgressBar, ProgressStyle};
use order::{Deadline, Hop, Lanes, OrderId, Shard, TimeoutKind};
use time::OffsetDateTime;

use crate::failure::Failure;
use crate::output::{complain, print};
use crate::servers;
use crate::settings::{BrokerSettings, Human, LaneSettings};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: BrokerSettings,
    #[command(flatten)]
    lanes: LaneSettings,
    /// The orders; without any, one a line from standard input
    ids: Vec<OrderId>,
    /// When they fall due, from now
    #[arg(long, value_name = "DURATION", conflicts_with = "due", required_unless_present = "due")]
    after: Option<Human>,
    /// When they fall due, in RFC 3339 form
    #[arg(long, value_name = "INSTANT")]
    due: Option<Deadline>,
    /// One bare ID a message, as most foreign publishers do, instead of up to 256 orders a message
    #[arg(long)]
    bare: bool,
}

/// How many orders are published, and confirmed, before more are read.
const CHUNK_ORDERS: usize = 16 * 1024;

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let due = match (args.due, args.after) {
        (Some(due), _) => due,
        (None, after) => {
            let after = time::Duration::try_from(after.map_or(Duration::ZERO, |after| after.0)).ok();
            let instant = after.and_then(|after| now.checked_add(after));
            Deadline::at(instant.ok_or_else(|| Failure::settings("--after leads beyond the calendar".to_owned()))?)
        }
    };
    let lanes = args.lanes.lanes();
    let broker = servers::broker(&args.broker, "publish").await?;
    broker::check_presence(&Topology::new(&lanes), &broker).await?;
    let publisher = Publisher::new(broker, "publish", args.broker.confirm_timeout());
    let bar = progress(args.ids.len());
    let mut run = Run { publisher, due, lanes, bare: args.bare, bar, sent: 0, unsent: Vec::new(), reason: None };

    let mut refused = 0;
    if args.ids.is_empty() {
        refused = run.publish_lines(stdin().lock()).await?;
    } else {
        for chunk in args.ids.chunks(CHUNK_ORDERS) {
            run.publish(chunk).await;
        }
    }
    run.finish(refused).await
}

struct Run {
    publisher: Publisher,
    due: Deadline,
    lanes: Lanes,
    bare: bool,
    bar: ProgressBar,
    sent: usize,
    unsent: Vec<OrderId>,
    reason: Option<broker::NotPublished>,
}

impl Run {
    /// One ID a line; empty lines do not count. Returns how many lines are no IDs; each is named.
    async fn publish_lines(&mut self, input: impl BufRead) -> Result<usize, Failure> {
        let mut refused = 0;
        let mut chunk = Vec::with_capacity(CHUNK_ORDERS);
        for (number, line) in input.split(b'\n').enumerate() {
            let line = line.map_err(|error| anyhow::anyhow!("cannot read standard input: {error}"))?;
            let line = String::from_utf8_lossy(&line);
            match OrderId::new(line.trim()) {
                _ if line.trim().is_empty() => continue,
                Ok(id) => chunk.push(id),
                Err(error) => {
                    refused += 1;
                    self.bar.suspend(|| complain(format_args!("line {}: {error}", number + 1)));
                }
            }
            if chunk.len() == CHUNK_ORDERS {
                self.publish(&chunk).await;
                chunk.clear();
            }
        }
        self.publish(&chunk).await;
        Ok(refused)
    }

    async fn publish(&mut self, ids: &[OrderId]) {
        let hop = self.lanes.choose(self.due.remaining(OffsetDateTime::now_utc()));
        let mut by_shard: BTreeMap<Shard, Vec<OrderId>> = BTreeMap::new();
        for id in ids {
            by_shard.entry(self.lanes.shards().of(id.as_str())).or_default().push(id.clone());
        }
        let together = if self.bare { 1 } else { wire::ORDERS_MAX };
        let groups = by_shard.iter().flat_map(|(shard, ids)| ids.chunks(together).map(|group| (*shard, group)));
        let (groups, messages): (Vec<&[OrderId]>, Vec<Outgoing>) =
            groups.map(|(shard, group)| (group, self.message(group, hop, shard))).unzip();
        for (group, fate) in groups.into_iter().zip(self.publisher.publish(&messages).await) {
            match fate {
                Ok(()) => self.sent += group.len(),
                Err(error) => {
                    self.unsent.extend_from_slice(group);
                    self.reason.get_or_insert(error);
                }
            }
            self.bar.inc(group.len() as u64);
        }
    }

    fn message(&self, group: &[OrderId], hop: Hop, shard: Shard) -> Outgoing {
        match group {
            [id] if self.bare => Outgoing::bare_timeout(TimeoutKind::Payment, id, hop, shard),
            _ => {
                let orders: Vec<_> = group.iter().map(|id| (id.clone().into(), self.due)).collect();
                Outgoing::timeout(TimeoutKind::Payment, &orders, hop, shard)
            }
        }
    }

    /// IDs that were not confirmed go to standard output, so that they can be piped in once more.
    async fn finish(self, refused: usize) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        self.publisher.close().await;
        complain(format_args!("{} orders published, due {}", self.sent, self.due));
        for id in &self.unsent {
            print(id);
        }
        match self.reason {
            Some(reason) => {
                complain(format_args!(
                    "{} orders are not confirmed; their IDs are on standard output; publish them again (twice does no harm)",
                    self.unsent.len()
                ));
                Err(reason.into())
            }
            None if refused > 0 => {
                Err(Failure::negative(format!("{refused} lines are no order IDs and were not published")))
            }
            None => Ok(()),
        }
    }
}

/// A bar where the count is known, a counter where it is not, and nothing without a terminal.
fn progress(count: usize) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match count {
        0 => (ProgressBar::new_spinner(), "{spinner} {human_pos} orders, {per_sec}"),
        count => (ProgressBar::new(count as u64), "{bar:40} {human_pos}/{human_len} orders, {per_sec}"),
    };
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
