use percent_encoding::percent_decode_str;

use crate::session::is_ours;

/// The parts of a URL, decoded and not yet understood.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) hosts: Vec<String>,
    /// Those behind the hosts, `port`, or `PGPORT`: one for all, or one for each, separated by commas.
    pub(crate) ports: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) passfile: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) sslmode: Option<String>,
    pub(crate) sslrootcert: Option<String>,
    pub(crate) sslcert: Option<String>,
    pub(crate) sslkey: Option<String>,
    pub(crate) application_name: Option<String>,
    pub(crate) connect_timeout: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) search_path: Option<String>,
    pub(crate) target: Option<String>,
}

impl Parts {
    pub(crate) fn split(url: &str) -> Result<Self, String> {
        let mut parts = Self::default();
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| match url.split_once("://") {
            Some((scheme, _)) => format!("the scheme is {scheme}, not postgres"),
            None => "it does not begin with postgres://".to_owned(),
        })?;
        // As in libpq: what stands before an @, and holds no slash, is the login, whatever else is in it.
        let login_ends = rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@'));
        let (login, rest) = login_ends.map_or((None, rest), |at| (Some(&rest[..at]), &rest[at + 1..]));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('@') {
            return Err("in a user or password, @ is written %40 and / is written %2F".to_owned());
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(login) = login {
            let (user, password) =
                login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
            parts.user = filled(decoded(user, "user")?);
            parts.password = password.map(|password| decoded(password, "password")).transpose()?.and_then(filled);
        }
        let mut ports = Vec::new();
        for host in hosts.split(',') {
            let (name, port) = host_and_port(host)?;
            parts.hosts.push(decoded(name, "host")?);
            ports.push(port.unwrap_or_default());
        }
        if parts.hosts == [""] {
            parts.hosts.clear();
        }
        parts.ports = filled(ports.join(","));
        parts.database = filled(decoded(path, "database")?);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| format!("the parameter {} has no value", known(pair)))?;
            let name = decoded(name, "name of a parameter")?;
            let value = decoded(value, &name)?;
            parts.set(&name, value)?;
        }
        Ok(parts)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let place = match name {
            "host" => {
                self.hosts = value.split(',').map(str::to_owned).collect();
                return Ok(());
            }
            "sslmode" | "connect_timeout" | "target_session_attrs" if value.is_empty() => {
                return Err(format!("the parameter {name} is empty"));
            }
            "options" => &mut self.options,
            "port" => &mut self.ports,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "passfile" => &mut self.passfile,
            "dbname" => &mut self.database,
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            "application_name" => &mut self.application_name,
            "connect_timeout" => &mut self.connect_timeout,
            "search_path" => &mut self.search_path,
            "target_session_attrs" => &mut self.target,
            other => return Err(format!("the parameter {} is not known here", known(other))),
        };
        *place = filled(value);
        Ok(())
    }

    /// What the URL leaves open.
    pub(crate) fn add_variables(&mut self, variable: &impl Fn(&str) -> Option<String>) {
        if self.hosts.is_empty()
            && let Some(hosts) = variable("PGHOST")
        {
            self.hosts = hosts.split(',').map(str::to_owned).collect();
        }
        for (place, name) in [
            (&mut self.ports, "PGPORT"),
            (&mut self.options, "PGOPTIONS"),
            (&mut self.user, "PGUSER"),
            (&mut self.password, "PGPASSWORD"),
            (&mut self.passfile, "PGPASSFILE"),
            (&mut self.database, "PGDATABASE"),
            (&mut self.sslmode, "PGSSLMODE"),
            (&mut self.sslrootcert, "PGSSLROOTCERT"),
            (&mut self.sslcert, "PGSSLCERT"),
            (&mut self.sslkey, "PGSSLKEY"),
            (&mut self.application_name, "PGAPPNAME"),
            (&mut self.connect_timeout, "PGCONNECT_TIMEOUT"),
            (&mut self.target, "PGTARGETSESSIONATTRS"),
        ] {
            if place.is_none() {
                *place = variable(name);
            }
        }
    }
}

/// A name, but not a piece of a password that was taken for one.
fn known(name: &str) -> &str {
    if name.contains('@') { "behind the question mark" } else { name }
}

fn decoded(text: &str, part: &str) -> Result<String, String> {
    let is_code = |code: &str| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_hexdigit()) && code != "00";
    if text.split('%').skip(1).any(|after| !after.get(..2).is_some_and(is_code)) {
        return Err(format!("a percent sign in the {part} is written %25"));
    }
    let text = percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| format!("the {part} is not UTF-8"))
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`, or a percent-encoded directory.
fn host_and_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(|| "a host has no closing bracket".to_owned())?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, Some(port))),
            None if rest.is_empty() => Ok((address, None)),
            None => Err("what stands behind a bracket is not a port".to_owned()),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("a host looks like an IPv6 address: write it in brackets, as in [::1]".to_owned())
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`, separated by blanks; a backslash escapes what follows it.
pub(crate) fn session_settings(options: &str) -> Result<Vec<(String, String)>, String> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => words.last_mut().into_iter().for_each(|word| word.extend(characters.next())),
            blank if blank.is_whitespace() => words.push(String::new()),
            other => words.last_mut().into_iter().for_each(|word| word.push(other)),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).map(str::to_owned)
        };
        let setting = setting.as_deref().and_then(|setting| setting.split_once('='));
        let (name, value) =
            setting.ok_or_else(|| format!("options: {word:?} is not of the form -c name=value or --name=value"))?;
        // As the server does it: `--statement-timeout` is `statement_timeout`.
        let name = name.replace('-', "_");
        if is_ours(&name) {
            return Err(format!("options: {name} is set by this program; a deployment sets --statement-timeout"));
        }
        settings.push((name, value.to_owned()));
    }
    Ok(settings)
}
