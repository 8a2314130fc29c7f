//! `identity`: the files and the issuer that say who calls.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::scalar::{BaseUrl, Plain};

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Path of the keys file, which `sluice key` writes. Default: none.
    pub keys: Option<PathBuf>,
    /// `oidc`: tokens of an issuer. Default: none. With neither, callers are not told apart in a trial,
    /// and nobody is known in production.
    pub oidc: Option<OidcConfig>,
    /// `session_from_user_id`: Anthropic's `metadata.user_id` names the conversation where no header does.
    /// Default `false`: many applications put a person there, and all conversations of one who said
    /// something private would be private from then on. Claude Code puts a session there.
    pub session_from_user_id: bool,
}

/// Tokens (JWT) of an OpenID Connect issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// What `iss` must say, word for word.
    pub issuer: String,
    /// What `aud` must hold: a token for another service is not for this one.
    pub audience: String,
    /// `jwks`: where the issuer's public keys are.
    pub jwks: JwksSource,
    /// The claim that names the caller. Default `sub`; records show it as `oidc:` and its value.
    pub caller_claim: String,
    /// The claim that names the tenant; a token without it is nobody's. Default: none, and then every
    /// token's tenant is `default`.
    pub tenant_claim: Option<String>,
    /// The claim that holds the tags: a list, or words with spaces. Default: none.
    pub tags_claim: Option<String>,
}

/// Where an issuer's public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// A file, read again when it changes.
    File(PathBuf),
    /// An `https` address (`http` on this machine alone), asked by the gateway itself.
    Url(BaseUrl),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentitySection {
    keys: Option<Plain>,
    oidc: Option<OidcSection>,
    #[serde(default)]
    session_from_user_id: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OidcSection {
    issuer: Plain,
    audience: Plain,
    jwks: Plain,
    caller_claim: Option<Plain>,
    tenant_claim: Option<Plain>,
    tags_claim: Option<Plain>,
}

impl IdentitySection {
    /// The checked section; an error says what is wrong with `identity.oidc.jwks`.
    pub(super) fn lower(self, folder: &Path) -> Result<Identity, String> {
        let oidc = self.oidc.map(|section| section.lower(folder)).transpose()?;
        let keys = self.keys.map(|keys| folder.join(keys.0));
        Ok(Identity { keys, oidc, session_from_user_id: self.session_from_user_id })
    }
}

impl OidcSection {
    fn lower(self, folder: &Path) -> Result<OidcConfig, String> {
        let text = |plain: Option<Plain>| plain.map(|plain| plain.0);
        Ok(OidcConfig {
            issuer: self.issuer.0,
            audience: self.audience.0,
            jwks: jwks(&self.jwks.0, folder)?,
            caller_claim: text(self.caller_claim).unwrap_or_else(|| "sub".to_owned()),
            tenant_claim: text(self.tenant_claim),
            tags_claim: text(self.tags_claim),
        })
    }
}

fn jwks(source: &str, folder: &Path) -> Result<JwksSource, String> {
    if !source.contains("://") {
        return Ok(JwksSource::File(folder.join(source)));
    }
    let url = BaseUrl::parse(source)?;
    if url.scheme == "http" && !is_this_machine(&url.host) {
        return Err(
            "expected https: whoever can change these keys on the way can be anybody".into()
        );
    }
    Ok(JwksSource::Url(url))
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
