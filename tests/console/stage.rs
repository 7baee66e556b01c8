//! A process with a console, and somebody who looks at it.

use std::path::PathBuf;
use std::time::Duration;

use console::hash_password;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tests::{Process, World, eventually};

/// A console with a person who may act, and one who may look.
pub(crate) struct Stage {
    pub(crate) process: Process,
    pub(crate) base: String,
    pub(crate) client: Client,
    users: PathBuf,
}

pub(crate) const ACTS: (&str, &str) = ("alice", "correct horse battery");
pub(crate) const LOOKS: (&str, &str) = ("bob", "a window to look through");

impl Stage {
    /// With all roles in one process.
    pub(crate) async fn new(world: &World) -> Self {
        Self::with(world, &["run"], &[]).await
    }

    pub(crate) async fn with(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let users = std::env::temp_dir().join(format!("overdue-test-users-{}.toml", world.vhost));
        let person = |(name, password): (&str, &str), role: &str| {
            format!("[{name}]\nrole = \"{role}\"\npassword = \"{}\"\n", hash_password(password).unwrap())
        };
        std::fs::write(&users, person(ACTS, "act") + &person(LOOKS, "look")).unwrap();
        let mut command = world.command(arguments);
        command.args(["--listen", "127.0.0.1:0"]).env("OVERDUE_CONSOLE_USERS_FILE", &users);
        command.envs(environment.iter().copied());
        let process = world.start_command(command);
        process.says("running").await;
        let base = process.http_base().await;
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { process, base, client, users }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base)).basic_auth(ACTS.0, Some(ACTS.1))
    }

    /// The page, in English.
    pub(crate) async fn page(&self, path: &str) -> String {
        let response = self.get(path).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{path}: {status} {text}");
        text
    }

    /// Waits until a page says this.
    pub(crate) async fn shows(&self, path: &str, text: &str) {
        eventually(&format!("{path} shows {text:?}"), async || self.page(path).await.contains(text)).await;
    }

    pub(crate) async fn act(&self, (name, password): (&str, &str), action: &str, form: &[(&str, &str)]) -> Response {
        let request = self.client.post(format!("{}/console/act/{action}", self.base));
        with_form(request.basic_auth(name, Some(password)), form).send().await.unwrap()
    }

    /// Does it, and gives the page that is shown then.
    pub(crate) async fn done(&self, action: &str, form: &[(&str, &str)]) -> String {
        let response = self.act(ACTS, action, form).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{action} {form:?}: {}", response.text().await.unwrap());
        let path = response.headers()["location"].to_str().unwrap().to_owned();
        // What takes longer than a moment is told of when it is done.
        for _ in 0..100 {
            let page = self.page(&path).await;
            if !page.contains("<strong>under way</strong>") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{action} does not end");
    }

    pub(crate) async fn end(self) {
        self.process.kill().await;
        std::fs::remove_file(&self.users).unwrap();
    }
}

/// As a browser sends a form.
pub(crate) fn with_form(request: RequestBuilder, form: &[(&str, &str)]) -> RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

/// Messages that wait for a person: so many for each of three reasons, each about an order of its own.
pub(crate) async fn park(world: &World, each: i64, prefix: &str) {
    let insert = format!(
        "insert into parked (reason, detail, orders, routing_key, body, fingerprint, first_at, last_at)
         select reason, 'an example', array['{prefix}-' || reason || '-' || n], 'now.payment', convert_to('{prefix}-' || reason || '-' || n, 'UTF8'),
                decode(md5('{prefix}' || reason || n), 'hex'), now() - interval '3 hours', now() - interval '1 minute'
         from generate_series(1, {each}) n, unnest(array['unknown_order', 'not_json', 'delivery_limit']) reason"
    );
    world.execute(&insert).await;
}
