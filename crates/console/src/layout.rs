//! The frame of every page: menu, tools, what is away, and what was just done.

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use book::{ActionRow, OperatorActions};
use http::StatusCode;
use time::OffsetDateTime;

use crate::ask::{Ask, EVERY};
use crate::console::Console;
use crate::format::{Moment, duration_in, number};
use crate::snapshot::Snapshot;
use crate::text::{Language, Texts, fill};

/// What the frame needs.
pub(crate) struct Layout {
    pub(crate) ask: Ask,
    pub(crate) t: &'static Texts,
    pub(crate) title: String,
    pub(crate) snapshot: Snapshot,
    /// The database's time, as far as it is known.
    pub(crate) now: OffsetDateTime,
    pub(crate) notice: Option<Notice>,
    /// Whether the page renews itself. One with forms that are filled in does not.
    pub(crate) renews: bool,
}

/// Something that was just done, or is under way.
pub(crate) struct Notice {
    pub(crate) tone: &'static str,
    pub(crate) state: &'static str,
    pub(crate) text: String,
    /// Of how many how many are done with.
    pub(crate) progress: Option<(i64, i64)>,
    /// The action that can be undone.
    pub(crate) undo: Option<i64>,
}

/// An entry of the menu.
pub(crate) struct Entry {
    pub(crate) href: String,
    pub(crate) text: &'static str,
    pub(crate) is_here: bool,
}

/// A server that does not answer.
pub(crate) struct Away {
    pub(crate) what: &'static str,
    pub(crate) why: String,
    pub(crate) since: Moment,
    /// When what is shown was true.
    pub(crate) shown: Option<Moment>,
}

impl Layout {
    pub(crate) async fn new(console: &Console, ask: Ask, title: &str) -> Self {
        let snapshot = console.snapshots.latest().await;
        let now = time_of(&snapshot);
        let t = ask.texts();
        let mut layout = Self { t, title: title.to_owned(), snapshot, now, notice: None, renews: true, ask };
        layout.notice = layout.look_up_notice(console).await;
        layout
    }

    /// The same, as it is: it does not renew itself.
    pub(crate) fn still(self) -> Self {
        Self { renews: false, ..self }
    }

    /// How often the page renews itself, in seconds; 0: never.
    pub(crate) fn every(&self) -> u32 {
        if self.renews { self.ask.every } else { 0 }
    }

    /// What the query says was just done.
    async fn look_up_notice(&self, console: &Console) -> Option<Notice> {
        let id: i64 = self.ask.query.optional("done")?.parse().ok()?;
        let row = OperatorActions::new(console.client.clone()).get(id).await.ok()??;
        Some(self.notice(&row))
    }

    pub(crate) fn notice(&self, row: &ActionRow) -> Notice {
        let (tone, state) = self.action_state(row);
        let action = &row.action;
        let after = row.after.as_deref().map(|after| format!(": {after}")).unwrap_or_default();
        let can_be_undone =
            action.action == "parked.drop" && (row.state != "begun" || row.is_abandoned()) && row.handled > 0;
        Notice {
            tone,
            state,
            text: crate::format::plain(&format!("{} {}{after}", action.action, action.subject)),
            progress: action.total.map(|total| (row.handled.min(total), total)),
            undo: (can_be_undone && self.ask.may_act()).then_some(row.id),
        }
    }

    /// The tone and the word for where an action stands.
    pub(crate) fn action_state(&self, row: &ActionRow) -> (&'static str, &'static str) {
        match row.state.as_str() {
            "done" => ("good", self.t.a_done),
            "failed" => ("bad", self.t.a_failed),
            "refused" => ("bad", self.t.a_refused),
            _ if row.is_abandoned() => ("bad", self.t.a_abandoned),
            _ => ("plain", self.t.a_begun),
        }
    }

    pub(crate) fn lang(&self) -> &'static str {
        self.ask.language.tag()
    }

    pub(crate) fn menu(&self) -> Vec<Entry> {
        let t = self.t;
        let pages = [
            ("/console", t.now),
            ("/console/lanes", t.lanes),
            ("/console/orders", t.orders),
            ("/console/parked", t.parked),
            ("/console/refunds", t.refunds),
            ("/console/gateways", t.gateways),
            ("/console/processes", t.processes),
            ("/console/timers", t.timers),
            ("/console/doctor", t.doctor),
            ("/console/audit", t.audit),
            ("/console/actions", t.actions),
        ];
        let path = self.ask.path.trim_end_matches('/');
        let is_here = |page: &str| path == page || (page != "/console" && path.starts_with(&format!("{page}/")));
        pages.map(|(page, text)| Entry { href: self.ask.link(page), text, is_here: is_here(page) }).into()
    }

    pub(crate) fn languages(&self) -> Vec<(Language, String, bool)> {
        let back = self.ask.here_with("done", "");
        let link = |language: Language| {
            format!("/console/language?to={}&back={}", language.code(), crate::format::encode(&back))
        };
        Language::ALL.into_iter().map(|language| (language, link(language), language == self.ask.language)).collect()
    }

    pub(crate) fn paces(&self) -> Vec<(String, String, bool)> {
        let pace = |every: u32| {
            let text = if every == 0 { self.t.refresh_off.to_owned() } else { fill(self.t.seconds_short, &[&every]) };
            let value = if every == EVERY[0] { String::new() } else { every.to_string() };
            (text, self.ask.here_with("every", &value), every == self.ask.every)
        };
        EVERY.into_iter().map(pace).collect()
    }

    pub(crate) fn you_are(&self) -> String {
        let may = if self.ask.may_act() { self.t.may_act } else { self.t.may_look };
        fill(self.t.you_are, &[&self.ask.visitor.name, &may])
    }

    pub(crate) fn may_act(&self) -> bool {
        self.ask.may_act()
    }

    pub(crate) fn link(&self, path: &str) -> String {
        self.ask.link(path)
    }

    /// The link to the story of an order.
    pub(crate) fn order(&self, id: &str) -> String {
        self.ask.link(&crate::format::order_path(id))
    }

    /// The link to a parked message.
    pub(crate) fn message(&self, id: &i64) -> String {
        self.ask.link(&format!("/console/parked/{id}"))
    }

    /// Where the form of an action is sent.
    pub(crate) fn act(&self, slug: &str) -> String {
        self.ask.link(&format!("/console/act/{slug}"))
    }

    /// A text of others.
    pub(crate) fn plain(&self, text: &str) -> String {
        crate::format::plain(text)
    }

    /// A moment in HTML, with how far it is from now. Nothing of others is in it.
    pub(crate) fn time(&self, at: &OffsetDateTime) -> String {
        self.time_of(&Moment::of(*at, self.now))
    }

    pub(crate) fn time_of(&self, moment: &Moment) -> String {
        let Moment { machine, utc, distance, is_ahead } = moment;
        let distance = duration_in(*distance, self.ask.language);
        let distance = fill(if *is_ahead { self.t.in_time } else { self.t.ago }, &[&distance]);
        format!("<time datetime=\"{machine}\">{utc} UTC</time> <span class=\"ago\">{distance}</span>")
    }

    /// A moment in HTML, without how far it is from now.
    pub(crate) fn time_only(&self, at: &OffsetDateTime) -> String {
        let Moment { machine, utc, .. } = Moment::of(*at, self.now);
        format!("<time datetime=\"{machine}\">{utc} UTC</time>")
    }

    /// The same to the millisecond.
    pub(crate) fn time_exact(&self, at: &OffsetDateTime) -> String {
        let Moment { machine, utc, .. } = Moment::of(*at, self.now);
        format!("<time datetime=\"{machine}\">{utc}.{:03} UTC</time>", at.millisecond())
    }

    /// A text with one value in it.
    pub(crate) fn fill1(&self, text: &str, value: impl std::fmt::Display) -> String {
        crate::format::plain(&fill(text, &[&value]))
    }

    pub(crate) fn of(&self, handled: &i64, total: &i64) -> String {
        fill(self.t.progress, &[&number(*handled), &number(*total)])
    }

    /// When a check ran, in HTML.
    pub(crate) fn ran(&self, at: &OffsetDateTime, by: &str, took: &str) -> String {
        let by = by.replace('&', "&amp;").replace('<', "&lt;");
        fill(self.t.ran, &[&self.time(at), &by, &took])
    }

    /// For a button that only those may press who may act.
    pub(crate) fn disabled(&self) -> &'static str {
        if self.may_act() { "" } else { " disabled" }
    }

    /// The same, also if there is another reason why not.
    pub(crate) fn disabled_if(&self, why_not: &Option<String>) -> &'static str {
        if why_not.is_some() { " disabled" } else { self.disabled() }
    }

    /// Why a button cannot be pressed, or else what it does.
    pub(crate) fn hint<'a>(&'a self, why_not: &'a Option<String>, otherwise: &'a str) -> &'a str {
        if self.may_act() { why_not.as_deref().unwrap_or(otherwise) } else { self.t.why_disabled }
    }

    pub(crate) fn hint_of_role<'a>(&'a self, otherwise: &'a str) -> &'a str {
        if self.may_act() { otherwise } else { self.t.why_disabled }
    }

    pub(crate) fn away(&self) -> Vec<Away> {
        let (books, queues) = (&self.snapshot.books, &self.snapshot.queues);
        // By this machine's clock, as are the moments.
        let now = OffsetDateTime::now_utc();
        let away = |what, away: &Option<(OffsetDateTime, String)>, at: Option<OffsetDateTime>| {
            let (since, why) = away.clone()?;
            let shown = at.map(|at| Moment::of(at, now));
            Some(Away { what, why: crate::format::plain(&why), since: Moment::of(since, now), shown })
        };
        let of_books = away(self.t.away_database, &books.away, books.last.as_ref().map(|(_, at)| *at));
        let of_queues = away(self.t.away_broker, &queues.away, queues.last.as_ref().map(|(_, at)| *at));
        of_books.into_iter().chain(of_queues).collect()
    }

    /// What stands in the place of a list without entries.
    pub(crate) fn empty<'a>(&self, nothing: &'a str) -> &'a str {
        if self.snapshot.books.last.is_some() { nothing } else { self.t.not_known }
    }

    /// Whether a process is at work with this role; `None`: nobody knows.
    pub(crate) fn has_role(&self, role: &str) -> Option<bool> {
        self.snapshot.books.value().map(|books| books.processes.iter().any(|process| process.serves(role)))
    }
}

/// The database's time now: as it said in the snapshot, and carried on since.
fn time_of(snapshot: &Snapshot) -> OffsetDateTime {
    let here = OffsetDateTime::now_utc();
    let known = snapshot.books.last.as_ref();
    known.map_or(here, |(books, at)| books.overview.now + (here - *at))
}

/// A page, or what went wrong with it.
pub(crate) fn render(template: &impl Template) -> Response {
    rendered(StatusCode::OK, template)
}

/// The same with another status.
pub(crate) fn rendered(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(page) => (status, Html(page)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
