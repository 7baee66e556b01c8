use book::{StoppedEndpoint, StoppedEndpoints};
use clap::Subcommand;
use comfy_table::{Table, presets};
use database::Purpose;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{plain, print, print_list};
use crate::servers;
use crate::settings::{DatabaseSettings, WebhookSettings};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// List the endpoints, and which of them are stopped
    List {
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        webhooks: WebhookSettings,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Send an endpoint nothing more until it is resumed; its events wait in its queue
    Stop {
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        webhooks: WebhookSettings,
        /// The endpoint; one of the file, where one is given
        name: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "stopped by hand")]
        reason: String,
    },
    /// Let a stopped endpoint go on
    Resume {
        #[command(flatten)]
        database: DatabaseSettings,
        /// The endpoint
        name: String,
    },
}

/// An endpoint as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// Without its query: that may have a secret. `None`: the file does not have it.
    url: Option<String>,
    types: Vec<String>,
    stopped: Option<StoppedEndpoint>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::List { database, webhooks, json } => {
            let mut stopped = store(&database).await?.all().await?;
            let mut listed: Vec<Listed> = Vec::new();
            for endpoint in webhooks.endpoints()? {
                let place = stopped.iter().position(|other| other.name == endpoint.name);
                let mut url = endpoint.url.clone();
                url.set_query(None);
                listed.push(Listed {
                    name: endpoint.name,
                    url: Some(url.to_string()),
                    types: endpoint.types,
                    stopped: place.map(|place| stopped.remove(place)),
                });
            }
            let elsewhere = |stopped: StoppedEndpoint| Listed {
                name: stopped.name.clone(),
                url: None,
                types: Vec::new(),
                stopped: Some(stopped),
            };
            listed.extend(stopped.into_iter().map(elsewhere));
            let nothing = "there are no endpoints: --webhooks FILE names them";
            print_list(&listed, json, nothing, table)?;
        }
        Args::Stop { database, webhooks, name, reason } => {
            let endpoints = webhooks.endpoints()?;
            if !endpoints.is_empty() && !endpoints.iter().any(|endpoint| endpoint.name == name) {
                let known: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
                let text = format!("no endpoint is called {name}; the file has {}", known.join(", "));
                return Err(Failure::negative(text));
            }
            let by = std::env::var("USER").unwrap_or_else(|_| "operator".to_owned());
            if store(&database).await?.stop(&name, &reason, &by).await? {
                print(format_args!(
                    "endpoint {name} is sent nothing more, in two seconds at the latest; `overdue webhook resume {name}` lets it go on"
                ));
            } else {
                print(format_args!("endpoint {name} is stopped already"));
            }
        }
        Args::Resume { database, name } => {
            if !store(&database).await?.resume(&name).await? {
                return Err(Failure::negative(format!("endpoint {name} is not stopped")));
            }
            print(format_args!("endpoint {name} goes on"));
        }
    }
    Ok(())
}

async fn store(settings: &DatabaseSettings) -> Result<StoppedEndpoints, Failure> {
    drop(servers::migrated_database(settings).await?);
    Ok(StoppedEndpoints::new(servers::client(settings, 1, Purpose::Shop)?))
}

fn table(endpoints: &[Listed]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["endpoint", "url", "types", "stopped"]);
    for Listed { name, url, types, stopped } in endpoints {
        let stopped = stopped.as_ref().map_or(String::new(), |stopped| {
            format!(
                "{} by {}: {}",
                order::Deadline::at(stopped.stopped_at),
                plain(&stopped.stopped_by),
                plain(&stopped.reason)
            )
        });
        let url = url.as_deref().unwrap_or("(not in this file)");
        table.add_row([name.as_str(), url, &types.join(" "), &stopped]);
    }
    table
}
