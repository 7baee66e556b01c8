use broker::{Management, Topology};

use crate::commands::print;
use crate::failure::Failure;
use crate::servers;
use crate::settings::{TopologyArgs, TopologyCommand};

pub(crate) async fn run(args: TopologyArgs) -> Result<(), Failure> {
    match args.command {
        TopologyCommand::Declare { broker, lanes } => {
            let broker = servers::broker(&broker, "topology").await?;
            broker::declare(&Topology::new(&lanes.lanes()), &broker).await?;
            print(format_args!("the topology is declared in virtual host {}", broker.vhost()));
            Ok(())
        }
        TopologyCommand::Verify { broker, lanes, management_url } => {
            let management = management_url.as_ref().map(Management::new).transpose()?;
            let broker = servers::broker(&broker, "topology").await?;
            let verification = broker::verify(&Topology::new(&lanes.lanes()), &broker, management.as_ref()).await?;
            for finding in &verification.findings {
                print(finding);
            }
            for unchecked in &verification.unchecked {
                complain!("not checked: {unchecked}");
            }
            match verification.findings.len() {
                0 => {
                    print(format_args!("the topology in virtual host {} is as it must be", broker.vhost()));
                    Ok(())
                }
                count => Err(Failure::negative(format!("{count} things are off in virtual host {}", broker.vhost()))),
            }
        }
        TopologyCommand::Users { vhost } => {
            print(format_args!("{:#}", broker::user_definitions(&vhost)));
            Ok(())
        }
        TopologyCommand::Export { lanes, vhost } => {
            print(format_args!("{:#}", Topology::new(&lanes.lanes()).definitions(&vhost)));
            Ok(())
        }
    }
}
