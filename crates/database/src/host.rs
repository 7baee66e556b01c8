use std::path::PathBuf;

use secrecy::SecretString;

/// A server that may be tried.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: HostName,
    pub(crate) port: u16,
    pub(crate) password: Option<SecretString>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostName {
    Tcp(String),
    /// The directory of a Unix-domain socket.
    Unix(PathBuf),
}

impl Host {
    pub(crate) fn address(&self) -> String {
        match &self.name {
            HostName::Tcp(name) if name.contains(':') => format!("[{name}]:{}", self.port),
            HostName::Tcp(name) => format!("{name}:{}", self.port),
            HostName::Unix(directory) => format!("{}/.s.PGSQL.{}", directory.display(), self.port),
        }
    }
}

/// The servers that these names and ports stand for.
pub(crate) fn hosts(named: &[String], ports: Option<&str>) -> Result<Vec<Host>, String> {
    if named.is_empty() {
        return Err("it names no host".to_owned());
    }
    let ports: Vec<&str> = ports.map_or(Vec::new(), |ports| ports.split(',').collect());
    if ports.len() > 1 && ports.len() != named.len() {
        return Err(format!("it names {} hosts and {} ports", named.len(), ports.len()));
    }
    let host = |(place, name): (usize, &String)| {
        let port = ports.get(place).or(ports.first()).copied().filter(|port| !port.is_empty());
        // Not repeated: what stands there may be a piece of a password.
        let not_a_port = |_| "a port is not a number from 0 to 65535".to_owned();
        let port = port.map_or(Ok(5432), |port| port.parse().map_err(not_a_port))?;
        let name = match name.as_str() {
            "" => return Err("it names an empty host".to_owned()),
            directory if directory.starts_with('/') => HostName::Unix(directory.into()),
            name if name.starts_with('@') => return Err(format!("{name}: abstract sockets are not known here")),
            name => HostName::Tcp(name.to_owned()),
        };
        Ok(Host { name, port, password: None })
    };
    named.iter().enumerate().map(host).collect()
}
