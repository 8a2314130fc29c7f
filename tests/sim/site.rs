//! The gateway's config, and the policy file: swapped under way as an officer's tool would.

use std::path::Path;

use sluice::identity::keys::{KeysFile, NewKey};

use crate::cloud::Cloud;
use crate::gateway::with_upstreams;

const SHIPPED: &str = include_str!("../../policies/site.yaml");

/// The server on the premises.
pub(crate) const WARD: &str = "ward";
/// The caller whose requests are counted.
pub(crate) const LIMITED: &str = "limited";
/// Fewer than clients, so that now and then one is turned away.
const IN_FLIGHT: usize = 14;
pub(crate) const REQUESTS_PER_MINUTE: u64 = 20;

/// The upstreams besides the edge.
pub(crate) struct Upstreams {
    pub(crate) ward: Cloud,
    pub(crate) openai: Cloud,
    pub(crate) anthropic: Cloud,
}

impl Upstreams {
    pub(crate) fn all(&self) -> [(&'static str, &Cloud); 3] {
        [(WARD, &self.ward), ("openai", &self.openai), ("anthropic", &self.anthropic)]
    }

    /// An edge, a server on the premises and two clouds; whoever is silent is soon given up, whoever is slow is
    /// raced, and whoever fails is soon asked again.
    pub(crate) fn config(&self) -> String {
        let upstream = |(name, cloud): (&str, &Cloud)| {
            let kind = if name == "anthropic" { "anthropic" } else { "openai" };
            format!(
                "  {name}:\n    kind: {kind}\n    base_url: \"http://{}/v1\"\n    \
                 timeouts: {{connect: 1s, first_byte: 150ms, idle: 150ms, total: 5s}}\n    \
                 breaker: {{failures: 3, open: 50ms, open_at_most: 200ms}}\n    \
                 capabilities: {{quality: general}}\n",
                cloud.address
            )
        };
        format!(
            "{}policy: {{site: $FOLDER/site.yaml}}\nidentity: {{keys: $FOLDER/keys.yaml}}\n\
             choose: weighted\nhedge: {{after: 80ms}}\n\
             limits: {{in_flight: {IN_FLIGHT}, callers: {{{LIMITED}: {{requests_per_minute: {REQUESTS_PER_MINUTE}}}}}}}\n",
            with_upstreams(&self.all().map(upstream).concat())
        )
    }
}

/// Makes the limited caller known; gives back what it shows.
pub(crate) fn write_key(folder: &Path) -> String {
    let mut file = KeysFile::default();
    let new = NewKey { id: LIMITED.into(), tenant: "north".into(), ..NewKey::default() };
    let key = file.create(new, "2026-11-28T12:00:00Z".parse().unwrap()).unwrap().unwrap();
    file.write(&folder.join("keys.yaml")).unwrap();
    format!("Bearer {}", key.expose())
}

/// The policy file. What it tightens stays so: a loosening would have to be accepted by hand.
pub(crate) struct Site {
    ward: String,
    version: u64,
    /// Requests tagged `guarded` are private.
    pub(crate) guards: bool,
    /// Personal data may go to a cloud as placeholders.
    redacts: bool,
    /// The server on the premises may have private text; otherwise it is a cloud that nobody knows.
    pub(crate) vouches: bool,
    /// What happens to replies that give away what is private.
    reply_finding: &'static str,
}

impl Site {
    /// The first one.
    pub(crate) fn write(ward: &Cloud, folder: &Path) -> Site {
        let ward = format!("http://{}", ward.address);
        let site = Site {
            ward,
            version: 0,
            guards: false,
            redacts: true,
            vouches: true,
            reply_finding: "taint",
        };
        std::fs::write(folder.join("site.yaml"), site.text()).unwrap();
        site
    }

    fn text(&self) -> String {
        let tests = SHIPPED.find("# Where requests go").unwrap();
        let mut text = SHIPPED[..tests].replace("version: \"1.0.0\"", &self.version_line());
        let answer = format!("reply_finding: {}", self.reply_finding);
        text = text.replace("reply_finding: taint", &answer);
        if self.vouches {
            let vouch = format!(
                "vouches:\n  - {{upstream: {WARD}, address: \"{}\", zone: on_prem, \
                 does_not_forward: true, contract: C-1, owner: ward, expires: \"2099-01-01\"}}\n",
                self.ward
            );
            text = text.replace("vouches: []\n", &vouch);
        }
        if self.redacts {
            text.push_str("redaction: {labels: [PERSONAL], restore_in_tools: []}\n");
        }
        if self.guards {
            text.push_str(
                "extends:\n  default:\n    rules:\n      - {id: SIM-001, title: A tag of the \
                 simulation, when: {tag: guarded}, then: {class: regulated, because: It says so}}\n",
            );
        }
        text
    }

    /// Replies that give away what is private are shown all the same.
    pub(crate) fn shows(&self) -> bool {
        self.reply_finding == "taint"
    }

    fn version_line(&self) -> String {
        format!("version: \"{}\"", self.version())
    }

    /// As `/readyz` says it once it is in force.
    pub(crate) fn version(&self) -> String {
        format!("1.0.{}", self.version)
    }

    /// Writes a newer one: the longer the run, the stricter.
    pub(crate) fn change(&mut self, folder: &Path, done: f64) {
        self.version += 1;
        self.guards = true;
        self.redacts &= done < 0.5;
        self.vouches &= done < 0.85;
        self.reply_finding = match done {
            ..0.3 => "taint",
            ..0.6 => "mask",
            _ => "cut",
        };
        std::fs::write(folder.join("site.yaml"), self.text()).unwrap();
    }

    /// Writes one that cannot come into force.
    pub(crate) fn spoil(&self, folder: &Path) {
        let broken = self.text().replace("caller_unknown:", "caller_unknwon:");
        std::fs::write(folder.join("site.yaml"), broken).unwrap();
    }
}
