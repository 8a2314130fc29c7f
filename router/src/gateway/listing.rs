//! What a gateway answers without a decision, because nothing leaves for it: its models, the tokens of a
//! request, the state of this moment.

use sluice_policies::Wish;

use super::{Gateway, network};
use crate::api::{ApiError, Request};
use crate::metrics::Snapshot;
use crate::upstream::Upstream;

/// How many tokens a request has.
pub struct TokenCount {
    /// The tokens of its prompt.
    pub tokens: usize,
    /// Who counted: `edge`, or nobody: `estimate`.
    pub by: &'static str,
}

impl Gateway {
    /// How many tokens a request has: as the embedded model counts them, and where none is ready an estimate
    /// from its bytes. Nothing leaves for that.
    pub async fn count_tokens(&self, request: Request) -> Result<TokenCount, ApiError> {
        let edge = self.parts.upstreams.iter().find_map(|upstream| match upstream {
            Upstream::Edge(edge) if edge.is_healthy() => Some(edge),
            _ => None,
        });
        match edge {
            Some(edge) => {
                let tokens = edge.count_tokens(request.chat).await.map_err(|e| e.to_api())?;
                Ok(TokenCount { tokens, by: "edge" })
            }
            None => {
                let tokens = crate::limit::estimate(&request.prompt);
                let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
                Ok(TokenCount { tokens, by: "estimate" })
            }
        }
    }

    /// Names of models for `GET /v1/models`: the edge's own, those that the config lists, and the virtual
    /// ones.
    pub fn models(&self) -> Vec<(String, String)> {
        let mut models = Vec::<(String, String)>::new();
        for upstream in &self.parts.upstreams {
            let owner = upstream.id().as_str();
            match upstream {
                Upstream::Edge(edge) => {
                    models.push((edge.engine().info().name.clone(), owner.into()))
                }
                Upstream::Server(server) => {
                    let names = server.config().models.iter().map(|(name, _)| name);
                    models.extend(names.map(|name| (name.clone(), owner.to_owned())));
                }
            }
        }
        for wish in Wish::ALL.map(Wish::in_words) {
            if !models.iter().any(|(name, _)| name == wish) {
                models.push((wish.to_owned(), "sluice".to_owned()));
            }
        }
        models
    }

    /// What a scrape shows of this moment.
    pub fn snapshot(&self) -> Snapshot<'_> {
        let upstreams = &self.parts.upstreams;
        let engine = upstreams.iter().find_map(|upstream| match upstream {
            Upstream::Edge(edge) => Some(edge.now()),
            Upstream::Server(_) => None,
        });
        Snapshot {
            upstreams: upstreams.iter().map(|u| (u.id().as_str(), u.is_healthy())).collect(),
            engine,
            offline: self.offline().map(|offline| offline.word()),
            breakers: network::breakers(upstreams),
            audit: self.parts.kept.audit.state(),
            audit_failures: self.parts.kept.audit.failures(),
            texts_known: self.parts.kept.scans.known(),
            taint: self.parts.kept.taint.word(),
        }
    }
}
