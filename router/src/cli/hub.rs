//! A Hugging Face-compatible hub: what a repository holds, and its files from any byte on.
//!
//! Nothing but names of repositories and files leaves by this client; texts never come near it, so it
//! needs no permit. Hubs answer a request for a file with a redirect to a storage host and a signed
//! address. The token goes to the hub only, never to another host, and no redirect leads from https to
//! http. Downloads name the commit that was listed, so that a model cannot change half way.
//! Source: huggingface.co/docs/hub/api; huggingface_hub `file_download.py` (headers, redirects).

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

/// Longest answer that lists a repository.
const LISTING_BYTES_MAX: u64 = 32 << 20;
/// Longest small file: larger than any tokenizer.
const SMALL_BYTES_MAX: u64 = 64 << 20;
/// Redirects from a file's address to its bytes; hubs use one or two.
const REDIRECTS_MAX: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A transfer that brings nothing for so long is taken for cut.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A hub and how to reach it.
pub(super) struct Hub {
    client: Client,
    base: Url,
    token: Option<HeaderValue>,
}

/// A repository at a commit.
pub(super) struct Repository {
    /// `owner/name`.
    pub(super) name: String,
    commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path within the repository.
    pub(super) path: String,
    pub(super) bytes: u64,
    /// Where the hub says it: for all large files.
    pub(super) sha256: Option<String>,
}

impl RemoteFile {
    /// The path without its folders.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Why a file did not come.
#[derive(Debug)]
pub(super) enum Failed {
    /// Another attempt may work.
    Passing(anyhow::Error),
    /// Another attempt would fail as well.
    Lasting(anyhow::Error),
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Passing(error) | Failed::Lasting(error) => error,
        }
    }
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// A hub at an address; the token, if any, is shown to it and to nobody else.
    pub(super) fn new(base: &str, token: Option<&str>) -> anyhow::Result<Hub> {
        // An error means that the provider was chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = Url::parse(base).with_context(|| format!("the hub's address {base:?}"))?;
        ensure!(
            matches!(base.scheme(), "https" | "http") && base.has_host(),
            "the hub's address {base} is not http or https"
        );
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX);
        if matches!(base.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")) {
            client = client.no_proxy();
        }
        let token = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .context("the hub's token holds characters that a header cannot")?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        Ok(Hub { client: client.build()?, base, token: token.transpose()? })
    }

    /// Lists a repository at a branch, tag or commit.
    pub(super) async fn repository(
        &self,
        name: &str,
        revision: &str,
    ) -> anyhow::Result<Repository> {
        let parts: Vec<&str> = name.split('/').collect();
        ensure!(
            parts.len() <= 2 && parts.iter().all(|part| is_plain(part)),
            "{name:?} is no repository; expected OWNER/NAME"
        );
        let mut url = self.address(&["api", "models"]);
        extend(&mut url, parts.iter().copied().chain(["revision", revision]));
        url.set_query(Some("blobs=true"));
        let response = self.get(url, None).await?;
        let body = limited(response, LISTING_BYTES_MAX).await?;
        let listing: Listing = serde_json::from_slice(&body)
            .with_context(|| format!("the hub's answer about {name} is not a listing"))?;
        ensure!(is_plain(&listing.sha), "the hub names no commit of {name}");
        let files = listing.siblings.into_iter().filter_map(Sibling::file).collect();
        Ok(Repository { name: name.to_owned(), commit: listing.sha, files })
    }

    /// A small file as a whole.
    pub(super) async fn small(
        &self,
        repository: &Repository,
        file: &RemoteFile,
    ) -> Result<Vec<u8>, Failed> {
        let url = self.file_address(repository, file);
        let bytes = limited(self.get(url, None).await?, SMALL_BYTES_MAX).await?;
        if bytes.len() as u64 != file.bytes {
            let (path, came) = (&file.path, bytes.len());
            return Err(passing(format!("{path}: {came} of {} bytes came", file.bytes)));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let found: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        if file.sha256.as_ref().is_some_and(|sum| !sum.eq_ignore_ascii_case(&found)) {
            return Err(passing(format!("{}: its SHA-256 is not the announced one", file.path)));
        }
        Ok(bytes)
    }

    /// The bytes `from..to` of a file, as they come. The answer may be cut short and never holds more.
    pub(super) async fn range(
        &self,
        repository: &Repository,
        file: &RemoteFile,
        from: u64,
        to: u64,
    ) -> Result<Transfer, Failed> {
        let response = self.get(self.file_address(repository, file), Some((from, to))).await?;
        // A server without ranges sends the whole file.
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
                let expected = format!("bytes {from}-");
                if !range.is_some_and(|range| range.starts_with(&expected)) {
                    let path = &file.path;
                    return Err(lasting(format!("{path}: the hub sent another part than asked")));
                }
                0
            }
            _ => from,
        };
        Ok(Transfer { response, skip, left: to - from })
    }

    fn file_address(&self, repository: &Repository, file: &RemoteFile) -> Url {
        let parts: Vec<&str> = repository.name.split('/').collect();
        let mut url = self.address(&parts);
        extend(&mut url, ["resolve", &repository.commit].into_iter().chain(file.path.split('/')));
        url
    }

    fn address(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        extend(&mut url, parts.iter().copied());
        url
    }

    /// Asks for an address and follows redirects.
    async fn get(&self, url: Url, range: Option<(u64, u64)>) -> Result<Response, Failed> {
        let mut url = url;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client.get(url.clone());
            if let Some((from, to)) = range {
                request = request.header(RANGE, format!("bytes={from}-{}", to - 1));
            }
            if let Some(token) = &self.token
                && url.origin() == self.base.origin()
            {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let response = request.send().await.map_err(|e| Failed::Passing(plain(e).into()))?;
            if !response.status().is_redirection() {
                return checked(response, &url);
            }
            url = next(&response, &url)?;
        }
        Err(lasting(format!("{}: more than {REDIRECTS_MAX} redirects", shown(&url))))
    }
}

impl Sibling {
    /// The file, if its size is known and its path stays within the repository.
    fn file(self) -> Option<RemoteFile> {
        let lfs_size = self.lfs.as_ref().and_then(|lfs| lfs.size);
        let sound = self.rfilename.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let is_sum = |s: &String| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit());
        Some(RemoteFile {
            path: Some(self.rfilename).filter(|_| sound)?,
            bytes: lfs_size.or(self.size)?,
            sha256: self.lfs.and_then(|lfs| lfs.sha256).filter(is_sum),
        })
    }
}

/// A file's bytes on their way.
pub(super) struct Transfer {
    response: Response,
    /// Bytes that come before those that were asked for.
    skip: u64,
    /// Bytes that were asked for and have not come.
    left: u64,
}

impl Transfer {
    /// The next bytes; `None` when all have come. A transfer that is cut is an error.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failed> {
        while self.left > 0 {
            let chunk =
                self.response.chunk().await.map_err(|e| Failed::Passing(plain(e).into()))?;
            let Some(chunk) = chunk else {
                return Err(passing(format!("the transfer ended {} bytes early", self.left)));
            };
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            let chunk = &chunk[skipped as usize..];
            let chunk = &chunk[..chunk.len().min(self.left.try_into().unwrap_or(usize::MAX))];
            self.left -= chunk.len() as u64;
            if !chunk.is_empty() {
                return Ok(Some(chunk.to_vec()));
            }
        }
        Ok(None)
    }
}

fn next(response: &Response, url: &Url) -> Result<Url, Failed> {
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    let next = next.ok_or_else(|| lasting(format!("{}: a redirect to nowhere", shown(url))))?;
    if next.scheme() != url.scheme() && next.scheme() != "https" {
        return Err(lasting(format!("{}: a redirect away from https", shown(url))));
    }
    Ok(next)
}

/// Turns refusals into errors that say what to do.
fn checked(response: Response, url: &Url) -> Result<Response, Failed> {
    let (status, at) = (response.status(), shown(url));
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(lasting(format!(
            "{at}: {status}; if the model is private or gated, set HF_TOKEN to a token that may read it"
        ))),
        StatusCode::NOT_FOUND => {
            Err(lasting(format!("{at}: not found; check the names of repository and revision")))
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(passing(format!("{at}: {status}")))
        }
        status => Err(lasting(format!("{at}: {status}"))),
    }
}

/// A body of at most so many bytes.
async fn limited(mut response: Response, bytes_max: u64) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Failed::Passing(plain(e).into()))? {
        if body.len() as u64 + chunk.len() as u64 > bytes_max {
            return Err(lasting(format!("an answer is longer than {bytes_max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An address without its query, which may be a signature.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// The client's error without the address, whose query may be a signature.
fn plain(error: reqwest::Error) -> reqwest::Error {
    error.without_url()
}

fn extend<'a>(url: &mut Url, parts: impl Iterator<Item = &'a str>) {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
}

/// A part of a repository's name, or a commit: letters, digits, and a few signs between.
fn is_plain(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !part.is_empty() && part.bytes().all(allowed) && part.bytes().any(|b| b.is_ascii_alphanumeric())
}

fn passing(what: impl fmt::Display) -> Failed {
    Failed::Passing(anyhow::anyhow!("{what}"))
}

fn lasting(what: impl fmt::Display) -> Failed {
    Failed::Lasting(anyhow::anyhow!("{what}"))
}

/// `REPO[:FILE]`: the repository, and the file or the part of its name that was asked for.
pub(super) fn parse_reference(text: &str) -> anyhow::Result<(&str, Option<&str>)> {
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((repository, file)) if !file.is_empty() => Ok((repository, Some(file))),
        Some(_) => bail!("{text:?}: expected a file after the colon"),
    }
}
