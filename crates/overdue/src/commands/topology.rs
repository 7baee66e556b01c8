use broker::Topology;
use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{complain, print};
use crate::servers;
use crate::settings::{BrokerSettings, LaneSettings, ManagementSettings, WebhookSettings};

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Create the exchanges, queues and bindings that are missing
    Declare {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        lanes: LaneSettings,
        #[command(flatten)]
        webhooks: WebhookSettings,
    },
    /// Compare the live broker with what it should be; change nothing; exit 1 when something is off
    Verify {
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        lanes: LaneSettings,
        #[command(flatten)]
        webhooks: WebhookSettings,
        #[command(flatten)]
        management: ManagementSettings,
    },
    /// Print the same as a definitions file, for `rabbitmqctl import_definitions`
    Export {
        #[command(flatten)]
        lanes: LaneSettings,
        #[command(flatten)]
        webhooks: WebhookSettings,
        /// The virtual host that the file is for
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Print users with no more rights than each role needs, as a definitions file
    Users {
        /// The virtual host that the file is for
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::Declare { broker, lanes, webhooks } => {
            let topology = webhooks.topology(&lanes.lanes())?;
            let broker = servers::broker(&broker, "topology").await?;
            broker::declare(&topology, &broker).await?;
            print(format_args!("the topology is declared in virtual host {}", broker.vhost()));
            Ok(())
        }
        Args::Verify { broker, lanes, webhooks, management } => {
            verify(&broker, &webhooks.topology(&lanes.lanes())?, &management).await
        }
        Args::Users { vhost } => {
            print(format_args!("{:#}", broker::user_definitions(&vhost)));
            Ok(())
        }
        Args::Export { lanes, webhooks, vhost } => {
            print(format_args!("{:#}", webhooks.topology(&lanes.lanes())?.definitions(&vhost)));
            Ok(())
        }
    }
}

async fn verify(broker: &BrokerSettings, topology: &Topology, management: &ManagementSettings) -> Result<(), Failure> {
    let management = management.management()?;
    let broker = servers::broker(broker, "topology").await?;
    let verification = broker::verify(topology, &broker, management.as_ref()).await?;
    for finding in &verification.findings {
        print(finding);
    }
    for unchecked in &verification.unchecked {
        complain(format_args!("not checked: {unchecked}"));
    }
    match verification.findings.len() {
        0 => {
            print(format_args!("the topology in virtual host {} is as it must be", broker.vhost()));
            Ok(())
        }
        count => Err(Failure::negative(format!("{count} things are off in virtual host {}", broker.vhost()))),
    }
}
