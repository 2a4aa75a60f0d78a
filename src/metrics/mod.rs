//! Every metric, declared in one place; called by whoever counts, rendered by the operators' listener.
//!
//! A new metric is a field here, registered in [`Metrics::new`], with a method that counts it.
//! Names carry base units (seconds, bytes) and the prefix `portcullis_`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The decisions of an access event, as labels.
const DECISIONS: [&str; 3] = ["allow", "deny", "error"];
/// The classes of an HTTP status, as labels.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The ways to sign in, as labels.
const LOGIN_METHODS: [&str; 6] = ["password", "certificate", "sso", "refresh", "client", "session"];
/// The route of requests that none matched, as a label.
const NO_ROUTE: &str = "-";
/// How a sign-in ended, as labels.
const LOGIN_RESULTS: [&str; 5] = ["ok", "wrong", "limited", "overloaded", "error"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    decision: &'static str,
    status_class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoginLabels {
    method: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
    server: String,
}

/// One server of an upstream, and whether the last connection to it could be opened.
#[derive(Clone, Debug)]
pub struct UpstreamServer {
    /// The upstream's name.
    pub upstream: String,
    /// The server's URL.
    pub server: String,
    /// Turned by whoever connects.
    pub up: Arc<AtomicBool>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabels {
    digest: String,
}

/// One route's counters: by decision, then by class of status.
type RouteCounters = [[Counter; 5]; 3];

/// What is read at each scrape instead of counted when it happens.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Audit events not yet in the store.
    pub audit_pending: u64,
    /// Age of the oldest of them.
    pub audit_oldest_pending: Duration,
    /// Digest of the live policy.
    pub policy_digest: String,
    /// Policy reloads that went live.
    pub policy_reloads: u64,
    /// Policy reloads that were refused.
    pub policy_reload_failures: u64,
    /// Decisions that plain casbin would have made otherwise.
    pub policy_mismatches: u64,
    /// Live nodes.
    pub nodes: i64,
    /// Since the revocation log was last confirmed.
    pub revocation_lag: Duration,
}

/// All metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    by_route: RwLock<HashMap<String, Arc<RouteCounters>>>,
    request_duration: Histogram,
    decision_duration: Histogram,
    logins: Family<LoginLabels, Counter>,
    malformed: Counter,
    audit_pending: Gauge,
    audit_oldest: Gauge<f64, AtomicU64>,
    policy_info: Family<PolicyLabels, Gauge>,
    upstream_up: Family<UpstreamLabels, Gauge>,
    upstreams: RwLock<Vec<UpstreamServer>>,
    policy_reloads: Counter,
    policy_failures: Counter,
    policy_mismatches: Counter,
    config_reloads: Counter,
    config_failures: Counter,
    nodes: Gauge,
    revocation_lag: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Arc<Self> {
        let metrics = Self {
            registry: Registry::with_prefix("portcullis"),
            requests: Family::default(),
            by_route: RwLock::default(),
            request_duration: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
            decision_duration: Histogram::new([
                0.000_000_5,
                0.000_001,
                0.000_002,
                0.000_005,
                0.000_01,
                0.000_05,
                0.000_1,
                0.001,
                0.01,
                0.1,
            ]),
            logins: Family::default(),
            malformed: Counter::default(),
            audit_pending: Gauge::default(),
            audit_oldest: Gauge::default(),
            policy_info: Family::default(),
            upstream_up: Family::default(),
            upstreams: RwLock::default(),
            policy_reloads: Counter::default(),
            policy_failures: Counter::default(),
            policy_mismatches: Counter::default(),
            config_reloads: Counter::default(),
            config_failures: Counter::default(),
            nodes: Gauge::default(),
            revocation_lag: Gauge::default(),
        };
        for method in LOGIN_METHODS {
            for result in LOGIN_RESULTS {
                drop(metrics.logins.get_or_create(&LoginLabels { method, result }));
            }
        }
        metrics.declare_route(NO_ROUTE);
        Arc::new(metrics.registered())
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("requests", "Requests to routes, by decision and class of status", self.requests.clone());
        r.register(
            "request_duration_seconds",
            "From the head of the request to the head of the answer",
            self.request_duration.clone(),
        );
        r.register("decision_duration_seconds", "Time to decide by policy", self.decision_duration.clone());
        r.register("logins", "Sign-ins, by method and result", self.logins.clone());
        r.register(
            "malformed_requests",
            "Requests that the HTTP library refused as malformed",
            self.malformed.clone(),
        );
        r.register(
            "audit_pending",
            "Audit events in the log and not yet in the store",
            self.audit_pending.clone(),
        );
        r.register(
            "audit_oldest_pending_seconds",
            "Age of the oldest audit event not yet in the store",
            self.audit_oldest.clone(),
        );
        r.register("policy_info", "The live policy's digest", self.policy_info.clone());
        r.register(
            "upstream_up",
            "1, and 0 after a connection to the server could not be opened, until one can",
            self.upstream_up.clone(),
        );
        r.register("policy_reloads", "Policies that went live", self.policy_reloads.clone());
        r.register("policy_reload_failures", "Policies that were refused", self.policy_failures.clone());
        let differing =
            "Decisions, of one in 1,024 that are checked, that plain casbin would have made otherwise";
        r.register("policy_mismatch", differing, self.policy_mismatches.clone());
        r.register("config_reloads", "Changed configurations that went live", self.config_reloads.clone());
        r.register(
            "config_reload_failures",
            "Changed configurations that were refused",
            self.config_failures.clone(),
        );
        r.register("nodes", "Live nodes", self.nodes.clone());
        r.register(
            "revocation_lag_seconds",
            "Since the revocation log was last confirmed",
            self.revocation_lag.clone(),
        );
        self
    }

    /// Makes a route's series, so that they are there before its first request.
    pub fn declare_route(&self, route: &str) {
        drop(self.route(route));
    }

    /// Says which servers there are from now on.
    pub fn declare_upstreams(&self, servers: Vec<UpstreamServer>) {
        *self.upstreams.write().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    fn route(&self, route: &str) -> Arc<RouteCounters> {
        if let Some(found) = self.by_route.read().unwrap_or_else(PoisonError::into_inner).get(route) {
            return Arc::clone(found);
        }
        let counters = Arc::new(DECISIONS.map(|decision| {
            CLASSES.map(|status_class| {
                let labels = RequestLabels { route: route.to_owned(), decision, status_class };
                self.requests.get_or_create(&labels).clone()
            })
        }));
        let mut all = self.by_route.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(route.to_owned()).or_insert(counters))
    }

    /// Counts a request to a route (`-` when none matched). `decision`: `allow`, `deny` or `error`.
    pub fn request(&self, route: &str, decision: &'static str, status: u16, took: Duration) {
        let counters = self.route(route);
        let decision = DECISIONS.iter().position(|name| *name == decision).unwrap_or(2);
        let class = usize::from(status / 100).saturating_sub(1).min(4);
        if let Some(counter) = counters.get(decision).and_then(|by_class| by_class.get(class)) {
            counter.inc();
        }
        self.request_duration.observe(took.as_secs_f64());
    }

    /// Counts a decision.
    pub fn decision(&self, took: Duration) {
        self.decision_duration.observe(took.as_secs_f64());
    }

    /// Counts a sign-in. `method`: password, certificate, sso, refresh or client; `result`: ok, wrong, limited,
    /// overloaded or error.
    pub fn login(&self, method: &'static str, result: &'static str) {
        self.logins.get_or_create(&LoginLabels { method, result }).inc();
    }

    /// Counts a request that the HTTP library refused as malformed.
    pub fn malformed(&self) {
        self.malformed.inc();
    }

    /// Counts a reload of the configuration.
    pub fn config_reload(&self, taken: bool) {
        if taken {
            self.config_reloads.inc()
        } else {
            self.config_failures.inc()
        };
    }

    /// The Prometheus text, with what is read at the scrape.
    pub fn render(&self, readings: &Readings) -> String {
        self.audit_pending.set(i64::try_from(readings.audit_pending).unwrap_or(i64::MAX));
        self.audit_oldest.set(readings.audit_oldest_pending.as_secs_f64());
        self.policy_info.clear();
        self.policy_info.get_or_create(&PolicyLabels { digest: readings.policy_digest.clone() }).set(1);
        self.upstream_up.clear();
        for UpstreamServer { upstream, server, up } in
            self.upstreams.read().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let labels = UpstreamLabels { upstream: upstream.clone(), server: server.clone() };
            self.upstream_up.get_or_create(&labels).set(i64::from(up.load(Ordering::Relaxed)));
        }
        self.policy_reloads.inner().store(readings.policy_reloads, Ordering::Relaxed);
        self.policy_failures.inner().store(readings.policy_reload_failures, Ordering::Relaxed);
        self.policy_mismatches.inner().store(readings.policy_mismatches, Ordering::Relaxed);
        self.nodes.set(readings.nodes);
        self.revocation_lag.set(readings.revocation_lag.as_secs_f64());
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be rendered");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_dashboards_rely_on_are_there_from_the_start() {
        let metrics = Metrics::new();
        metrics.declare_route("orders");
        metrics.request("orders", "allow", 204, Duration::from_millis(1));
        let server = |server: &str, up| UpstreamServer {
            upstream: "u".into(),
            server: server.into(),
            up: Arc::new(AtomicBool::new(up)),
        };
        metrics.declare_upstreams(vec![server("http://a", true), server("http://b", false)]);
        let text = metrics.render(&Readings { policy_digest: "abc".into(), ..Readings::default() });
        for name in [
            "portcullis_requests_total{route=\"orders\",decision=\"allow\",status_class=\"2xx\"} 1",
            "portcullis_requests_total{route=\"orders\",decision=\"deny\",status_class=\"4xx\"} 0",
            "portcullis_request_duration_seconds_count 1",
            "portcullis_decision_duration_seconds_count 0",
            "portcullis_logins_total{method=\"password\",result=\"ok\"} 0",
            "portcullis_audit_pending 0",
            "portcullis_audit_oldest_pending_seconds 0",
            "portcullis_policy_info{digest=\"abc\"} 1",
            "portcullis_requests_total{route=\"-\",decision=\"deny\",status_class=\"4xx\"} 0",
            "portcullis_upstream_up{upstream=\"u\",server=\"http://a\"} 1",
            "portcullis_upstream_up{upstream=\"u\",server=\"http://b\"} 0",
            "portcullis_policy_reloads_total 0",
            "portcullis_config_reloads_total 0",
            "portcullis_config_reload_failures_total 0",
            "portcullis_policy_reload_failures_total 0",
            "portcullis_nodes 0",
            "portcullis_revocation_lag_seconds 0",
        ] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
    }
}
