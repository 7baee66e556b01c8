use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use console::{Access, TrustedProxy, Users};
use http::HeaderName;

use crate::failure::Failure;

/// The pages for whoever is on call, at /console.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Console")]
pub(crate) struct ConsoleSettings {
    /// Who may open the console: a TOML file with a role and a hashed password for each person. Without it, and without a trusted
    /// proxy, there is a console only where nobody but this machine can connect
    #[arg(long, env = "OVERDUE_CONSOLE_USERS_FILE", value_name = "FILE")]
    console_users_file: Option<PathBuf>,
    /// A header by which a proxy that has logged people in names them, and the proxy's addresses. People who are not in the file may look
    #[arg(long, env = "OVERDUE_CONSOLE_TRUST_HEADER", value_name = "HEADER=ADDRESS,...", value_parser = trusted)]
    console_trust_header: Option<Trusted>,
}

/// A header, and from where it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trusted {
    header: HeaderName,
    addresses: Vec<IpAddr>,
}

impl ConsoleSettings {
    /// Who may come.
    pub(crate) fn access(&self) -> Result<Access, Failure> {
        let users = match &self.console_users_file {
            Some(file) => {
                let bad = |error| {
                    Failure::settings(format!("the users of the console (OVERDUE_CONSOLE_USERS_FILE): {error}"))
                };
                Users::read(file).map_err(bad)?
            }
            None => Users::none(),
        };
        let proxy = self.console_trust_header.clone();
        Ok(Access::new(users, proxy.map(|Trusted { header, addresses }| TrustedProxy { header, addresses })))
    }
}

fn trusted(text: &str) -> Result<Trusted, String> {
    let (header, addresses) = text
        .split_once('=')
        .ok_or("write the header, an equals sign and the proxy's addresses: X-Forwarded-User=10.0.0.5")?;
    let header = header.trim().parse().map_err(|_| format!("{header:?} is no name of a header"))?;
    let address = |text: &str| {
        let address: IpAddr = text.trim().parse().map_err(|_| format!("{text:?} is no IP address"))?;
        Ok(address.to_canonical())
    };
    Ok(Trusted { header, addresses: addresses.split(',').map(address).collect::<Result<_, String>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_proxy_is_a_header_and_addresses() {
        let both = trusted("X-Forwarded-User=10.0.0.5, ::ffff:10.0.0.6").unwrap();
        assert_eq!(both.header, "x-forwarded-user");
        assert_eq!(both.addresses, ["10.0.0.5".parse::<IpAddr>().unwrap(), "10.0.0.6".parse().unwrap()]);
        for bad in ["X-User", "=10.0.0.5", "X User=10.0.0.5", "X-User=", "X-User=10.0.0.0/8", "X-User=proxy.local"] {
            assert!(trusted(bad).is_err(), "{bad}");
        }
    }
}
