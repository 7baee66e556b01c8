//! Pages of what was not done, or is not there.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use crate::ask::Ask;
use crate::console::Console;
use crate::format::plain as without_tricks;
use crate::layout::{Layout, rendered};
use crate::text::Language;

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    l: Layout,
    why: String,
    back: Option<String>,
}

/// Without menu: it is not known who asks.
#[derive(Template)]
#[template(path = "bare.html")]
struct BarePage<'a> {
    language: Language,
    status: StatusCode,
    why: &'a str,
}

/// For somebody who was not let in.
pub(crate) fn plain(status: StatusCode, language: Language, why: &str) -> Response {
    rendered(status, &BarePage { language, status, why })
}

/// Something that this visitor may not do.
pub(crate) async fn refused(console: &Console, ask: Ask, why: &str) -> Response {
    let title = ask.texts().refused_title;
    page(StatusCode::FORBIDDEN, console, ask, title, why, None).await
}

/// Something that could not be done. `back` leads to where it was asked for.
pub(crate) async fn failed(console: &Console, ask: Ask, why: &str, back: &str) -> Response {
    let title = ask.texts().failed_title;
    let back = Some(ask.link(back));
    page(StatusCode::CONFLICT, console, ask, title, why, back).await
}

pub(crate) async fn not_found(console: &Console, ask: Ask) -> Response {
    let (title, why) = (ask.texts().not_found_title, ask.texts().not_found);
    page(StatusCode::NOT_FOUND, console, ask, title, why, None).await
}

async fn page(
    status: StatusCode,
    console: &Console,
    ask: Ask,
    title: &str,
    why: &str,
    back: Option<String>,
) -> Response {
    // It tells of a moment, and does not renew itself.
    let l = Layout::new(console, Ask { every: 0, ..ask }, title).await;
    rendered(status, &FailurePage { l, why: without_tricks(why), back })
}
