use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};
use shop::Counts;

use crate::output::print;

/// The live view: one line that changes on a terminal, a line every half second elsewhere.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(orders: u32) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} settled  {msg}");
        let bar = stderr().is_terminal().then(|| ProgressBar::new(orders.into()));
        Self(bar.map(|bar| bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))))
    }

    pub(super) fn show(&self, counts: Counts) {
        let settled = counts.paid + counts.cancelled + counts.closed;
        let text = format!(
            "pending {:5}  paid {:5}  cancelled {:5}  closed {:5}",
            counts.pending, counts.paid, counts.cancelled, counts.closed
        );
        match &self.0 {
            Some(bar) => {
                bar.set_position(settled.unsigned_abs());
                bar.set_message(text);
            }
            None => print(text),
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish();
        }
    }
}
