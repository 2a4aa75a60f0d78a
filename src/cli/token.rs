//! `portcullis token`: what verification says of a token, with a node's keys or given ones; issuing and revoking.

use std::path::Path;

use clap::Subcommand;
use http::{Method, Request};
use serde_json::{Value, json};

use super::node::{Node, block_on, with};
use super::{Context, Done, Failure, one_line};
use crate::keys::set::{ALGORITHMS, KeySet};
use crate::model::{Clock as _, SystemClock};
use crate::outbound::Outbound;
use crate::record::printable;
use crate::tokens::{Expected, inspect};

/// The largest set of keys that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// What to do with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Print an access token for a principal, without a refresh token.
    #[command(after_help = "Example:\n  TOKEN=$(portcullis token issue client:robot --scope authzen)")]
    Issue {
        /// The principal's name: an account or `client:ID`.
        name: String,
        /// An OAuth scope; may be repeated.
        #[arg(long)]
        scope: Vec<String>,
    },
    /// Say everything that is wrong with a token: 0 when nothing is, else 1.
    #[command(
        after_help = "Examples:\n  portcullis token inspect \"$TOKEN\"\n  portcullis token inspect --jwks https://gate.example.com/.well-known/jwks.json - < token"
    )]
    Inspect {
        /// Verify with this key set, a file or URL, and without a node. Issuer and audience are then those of
        /// `--issuer` and `--audience`, else of a configuration named with `--config`, else whatever the token says.
        #[arg(long, value_name = "FILE|URL")]
        jwks: Option<String>,
        /// The issuer that it must have.
        #[arg(long, requires = "jwks")]
        issuer: Option<String>,
        /// The audience that it must have.
        #[arg(long, requires = "jwks")]
        audience: Option<String>,
        /// The token; `-` or nothing: one line of standard input.
        token: Option<String>,
    },
    /// Revoke an access token, or a refresh token with its whole sign-in.
    #[command(after_help = "Example:\n  portcullis token revoke - < token")]
    Revoke {
        /// The token; `-` or nothing: one line of standard input.
        token: Option<String>,
    },
}

/// Runs the command.
pub fn run(context: &Context, command: &TokenCommand) -> Done {
    match command {
        TokenCommand::Issue { name, scope } => {
            let body = json!({"subject": name, "scope": scope});
            let issued = with(context, async |node: &Node<'_>| {
                node.json(Method::POST, "/api/v1/tokens", Some(&body)).await
            })?;
            let token = issued.get("access_token").and_then(Value::as_str).unwrap_or_default();
            context.print(&issued, &format!("{token}\n"));
            Ok(())
        }
        TokenCommand::Inspect { jwks: Some(jwks), issuer, audience, token } => {
            let token = given(token.as_deref())?;
            let keys = key_set(jwks)?;
            let inspection = against(context, &keys, issuer.as_deref(), audience.as_deref(), &token)?;
            verdict(context, &inspection)
        }
        TokenCommand::Inspect { token, .. } => {
            let body = json!({"token": given(token.as_deref())?});
            let inspection = with(context, async |node: &Node<'_>| {
                node.json(Method::POST, "/api/v1/tokens/inspect", Some(&body)).await
            })?;
            verdict(context, &inspection)
        }
        TokenCommand::Revoke { token } => {
            let body = json!({"token": given(token.as_deref())?});
            let revoked = with(context, async |node: &Node<'_>| {
                node.json(Method::POST, "/api/v1/tokens/revoke", Some(&body)).await
            })?;
            let subject = revoked.get("subject").and_then(Value::as_str).unwrap_or_default();
            context.print(
                &json!({"subject": subject, "revoked": true}),
                &format!("revoked a token of {subject}\n"),
            );
            Ok(())
        }
    }
}

fn given(token: Option<&str>) -> Result<String, Failure> {
    let token = match token {
        Some(token) if token != "-" => token.to_owned(),
        _ => one_line().map_err(|error| Failure::usage(format!("the token on standard input: {error}")))?,
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(Failure::usage("no token: give it as an argument or on standard input"));
    }
    Ok(token.to_owned())
}

fn verdict(context: &Context, inspection: &Value) -> Done {
    let member = |name: &str| inspection.get(name).cloned().unwrap_or_default();
    let pretty = |value: &Value| printable_lines(&serde_json::to_string_pretty(value).unwrap_or_default());
    let problems = member("problems");
    let problems: Vec<_> = problems.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut text = format!(
        "signature  {}\nheader     {}\nclaims     {}\n",
        member("signature").as_str().unwrap_or_default(),
        pretty(&member("header")),
        pretty(&member("claims")),
    );
    for problem in &problems {
        text.push_str(&format!("wrong      {problem}\n"));
    }
    if problems.is_empty() {
        text.push_str("nothing is wrong with it\n");
    }
    context.print(inspection, &text);
    if problems.is_empty() { Ok(()) } else { Err(Failure::no("")) }
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n           ")
}

fn key_set(place: &str) -> Result<KeySet, Failure> {
    let text = if place.starts_with("http://") || place.starts_with("https://") {
        block_on(fetched(place))?
    } else {
        let path = Path::new(place);
        let wrong = |error: std::io::Error| Failure::usage(format!("{place}: {error}"));
        if std::fs::metadata(path).map_err(wrong)?.len() > LARGEST {
            return Err(Failure::usage(format!("{place} is larger than {LARGEST} bytes: it is no key set")));
        }
        std::fs::read_to_string(path).map_err(wrong)?
    };
    KeySet::parse(text.as_bytes(), &ALGORITHMS)
        .map_err(|why| Failure::usage(format!("{place} is not a key set (RFC 7517): {why}")))
}

async fn fetched(url: &str) -> Result<String, Failure> {
    let away = |why: String| Failure::unreachable(format!("{url}: {why}"));
    let client = Outbound::new(None, true).map_err(|error| away(error.to_string()))?;
    let request =
        Request::get(url).body(Vec::new()).map_err(|error| Failure::usage(format!("{url}: {error}")))?;
    let answer = client.send(request).await.map_err(|error| away(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(away(format!("it answered {}", answer.status())));
    }
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

fn against(
    context: &Context,
    keys: &KeySet,
    issuer: Option<&str>,
    audience: Option<&str>,
    token: &str,
) -> Result<Value, Failure> {
    let algorithm = jsonwebtoken::decode_header(token)
        .map_or_else(|_| String::new(), |header| format!("{:?}", header.alg));
    let configured = if context.config_given { Some(context.load()?.config.tokens) } else { None };
    let looked = |issuer: &str, audience: &[String]| {
        let expected = Expected { issuer, audience, now: SystemClock.now() };
        let inspection =
            inspect(token, &|kid| keys.find(kid, &algorithm).or_else(|| keys.any(kid)), &expected);
        serde_json::to_value(inspection).unwrap_or_default()
    };
    let says = looked("", &[]);
    let claim = |name: &str| says.get("claims").and_then(|claims| claims.get(name));
    let said_issuer = claim("iss").and_then(Value::as_str).unwrap_or_default();
    let issuer = issuer.or(configured.as_ref().map(|tokens| tokens.issuer.as_str())).unwrap_or(said_issuer);
    let said_audience = match claim("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let audience = match (audience, configured.as_ref()) {
        (Some(audience), _) => vec![audience.to_owned()],
        (None, Some(tokens)) => tokens.audience.clone(),
        (None, None) => said_audience,
    };
    Ok(looked(issuer, &audience))
}
