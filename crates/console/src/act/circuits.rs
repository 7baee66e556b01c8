//! Gateways, endpoints and processes.

use std::sync::Arc;

use axum::response::Response;
use book::{CircuitOf, Processes, StoppedEndpoints};

use super::deed::{Deed, at_once};
use crate::action::Action;
use crate::ask::Ask;
use crate::console::Console;
use crate::fields::Fields;

const BACK: &str = "/console/gateways";

pub(super) async fn probe(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let processes = Processes::new(console.client.clone());
    let (name, by) = (fields.exact("name").unwrap_or_default().to_owned(), ask.visitor.name.clone());
    let deed = Deed::new(Action::CircuitProbe, fields, BACK);
    let work = async {
        let of = match fields.get("kind") {
            "gateway" => CircuitOf::Gateway,
            "endpoint" => CircuitOf::Endpoint,
            _ => return Err("it is neither a gateway nor an endpoint".to_owned()),
        };
        if name.is_empty() || name.len() > 64 {
            return Err("there is nothing of this name".to_owned());
        }
        processes.request_probe(of, &name, &by).await.map_err(|error| error.to_string())?;
        Ok("each process tries it with its next call".to_owned())
    };
    at_once(&console, ask, deed, work).await
}

pub(super) async fn stop(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let endpoints = StoppedEndpoints::new(console.client.clone());
    let name = fields.exact("name").unwrap_or_default();
    let reason = fields.optional("note").unwrap_or("stopped from the console");
    let by = ask.visitor.name.clone();
    let deed = Deed::new(Action::EndpointStop, fields, BACK);
    let work = async {
        match endpoints.stop(name, reason, &by).await {
            Ok(true) => Ok("it is sent nothing more, in two seconds at the latest".to_owned()),
            Ok(false) => Err("it is stopped already".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    at_once(&console, ask, deed, work).await
}

pub(super) async fn resume(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let endpoints = StoppedEndpoints::new(console.client.clone());
    let name = fields.exact("name").unwrap_or_default();
    let deed = Deed::new(Action::EndpointResume, fields, BACK);
    let work = async {
        match endpoints.resume(name).await {
            Ok(true) => Ok("it goes on".to_owned()),
            Ok(false) => Err("it is not stopped".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    at_once(&console, ask, deed, work).await
}

pub(super) async fn forget_process(console: Arc<Console>, ask: Ask, fields: &Fields) -> Response {
    let processes = Processes::new(console.client.clone());
    let deed = Deed::new(Action::ProcessForget, fields, "/console/processes");
    let work = async {
        match processes.forget_silent(fields.get("process")).await {
            Ok(true) => Ok("it is not missed any more".to_owned()),
            Ok(false) => Err("there is no such process that is silent".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    at_once(&console, ask, deed, work).await
}
