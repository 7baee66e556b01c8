//! Pages of what was not done, or is not there.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;
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
    page(StatusCode::CONFLICT, console, ask, title, why, Some(back)).await
}

pub(crate) async fn not_found(console: &Console, ask: Ask) -> Response {
    let (title, why) = (ask.texts().not_found_title, ask.texts().not_found);
    page(StatusCode::NOT_FOUND, console, ask, title, why, None).await
}

async fn page(status: StatusCode, console: &Console, ask: Ask, title: &str, why: &str, back: Option<&str>) -> Response {
    // Its own address may be one that nobody can look at: what is pressed in the frame leads to where it was asked for.
    let (path, query) = back.unwrap_or("/console").split_once('?').unwrap_or((back.unwrap_or("/console"), ""));
    let ask = Ask { path: path.to_owned(), query: Fields::parse(query.as_bytes()), ..ask };
    let back = back.map(|back| ask.link(back));
    // It tells of a moment.
    let l = Layout::new(console, ask, title).await.still();
    rendered(status, &FailurePage { l, why: without_tricks(why), back })
}
