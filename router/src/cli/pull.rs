//! `sluice model pull`: fetches a model from a hub and packs it while it arrives.
//!
//! Headers first, then each file front to back; the engine packs what is complete and deletes what it
//! no longer needs. A transfer that is cut goes on where it ended, at once or at the next call.
//!
//! Not here: the hub's answers (`hub`), what is packed when (`sluice_engine::pack`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use sluice_engine::pack::{Arrival, ArrivingFile, PackReport};

use super::hub::{Failed, Hub, RemoteFile, Repository, parse_reference};
use super::model::{PackFlags, print_pack};
use super::progress::{Progress, Unit};
use super::{OrUsage, Outcome, Status};

/// Attempts at a piece that brings nothing, before the work is given up.
const ATTEMPTS_MAX: u32 = 6;
/// Wait before the second attempt; each further wait is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a file that are fetched before its header is first looked at; doubled while it is longer.
const HEADER_BYTES: u64 = 1 << 20;
/// Small files of a Hugging Face model that a pack carries along.
const SIDE_FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Flags of `sluice model pull`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// OWNER/NAME of a model, and for one of several GGUF models in it a part of its name:
    /// OWNER/NAME:Q4_K_M. A safetensors file may be named where it is the only one
    #[arg(value_name = "REPO[:FILE]")]
    model: String,
    /// The pack's directory; must not exist; default: the model's name
    #[arg(value_name = "DST")]
    destination: Option<PathBuf>,
    /// Address of the hub; its token, if it wants one, comes from HF_TOKEN
    #[arg(long, value_name = "URL", env = "SLUICE_HUB", default_value = "https://huggingface.co")]
    hub: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "REV", default_value = "main")]
    revision: String,
    #[command(flatten)]
    flags: PackFlags,
}

impl Args {
    /// Where the pack goes: a folder of the model's name here, unless one was named.
    fn destination(&self, model: &Model) -> PathBuf {
        self.destination.clone().unwrap_or_else(|| PathBuf::from(&model.name))
    }
}

/// The files of one model in a repository.
#[derive(Debug, PartialEq, Eq)]
struct Model {
    name: String,
    weights: Vec<RemoteFile>,
    /// Empty for GGUF, which needs none.
    side: Vec<RemoteFile>,
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> Outcome {
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    let hub = Hub::new(&args.hub, token.as_deref()).or_usage()?;
    let (repository, wanted) = parse_reference(&args.model).or_usage()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (report, destination) = runtime.block_on(async {
        let repository = hub.repository(repository, &args.revision).await?;
        let model = Model::choose(&repository.files, &repository.name, wanted)?;
        let destination = args.destination(&model);
        let mut puller = Puller { hub: &hub, repository: &repository, pause: PAUSE };
        let report = puller.pull(&model, &args.flags, destination.clone()).await?;
        anyhow::Ok((report, destination))
    })?;
    print_pack(&report, &destination)?;
    Ok(Status::Done)
}

impl Model {
    /// This model, if that file is all of its weights. One of several is no model.
    fn with_only(self, file: &str, repository: &str) -> anyhow::Result<Model> {
        let count = self.weights.len();
        match self.weights.iter().any(|known| known.path == file) {
            true if count == 1 => Ok(self),
            true => bail!(
                "{file} is one of {count} files of a model, which come together: pull {repository}"
            ),
            false => bail!(
                "{repository} holds no model of {file}; expected it at the top, beside config.json"
            ),
        }
    }

    /// The model that a repository holds, or the one of several that `wanted` names.
    fn choose(
        files: &[RemoteFile],
        repository: &str,
        wanted: Option<&str>,
    ) -> anyhow::Result<Model> {
        let published = published(files, repository);
        if let Some(file) = wanted.filter(|wanted| wanted.ends_with(".safetensors")) {
            return published.with_only(file, repository);
        }
        if wanted.is_none() && !published.weights.is_empty() {
            return Ok(published);
        }
        let mut models = gguf_models(files);
        if let Some(wanted) = wanted {
            let lower = wanted.to_lowercase();
            models.retain(|name, files| {
                let exact = files.iter().any(|file| file.path == wanted || file.name() == wanted);
                exact || name.to_lowercase().contains(&lower)
            });
        }
        let names: Vec<String> = models.keys().cloned().collect();
        match (models.pop_first(), models.is_empty()) {
            (Some((name, weights)), true) => complete(name, weights),
            (Some(_), false) => bail!(
                "{repository} holds several models; name one: {repository}:{}",
                names.join(&format!(", {repository}:"))
            ),
            (None, _) => bail!(
                "{repository} holds no such model; expected config.json with *.safetensors, or *.gguf"
            ),
        }
    }
}

/// The Hugging Face model at the top of a repository; without weights if there is none.
fn published(files: &[RemoteFile], repository: &str) -> Model {
    let top = || files.iter().filter(|file| file.path == file.name());
    let is_model = top().any(|file| file.path == "config.json");
    let weights = top().filter(|file| is_model && file.path.ends_with(".safetensors"));
    let side = top().filter(|file| SIDE_FILES.contains(&file.path.as_str()));
    Model {
        name: repository.rsplit('/').next().unwrap_or(repository).to_owned(),
        weights: weights.cloned().collect(),
        side: side.cloned().collect(),
    }
}

/// The GGUF models of a repository by name, the splits of each in order. Vision towers are none.
fn gguf_models(files: &[RemoteFile]) -> BTreeMap<String, Vec<RemoteFile>> {
    let mut models: BTreeMap<String, Vec<RemoteFile>> = BTreeMap::new();
    for file in files {
        let name = file.name();
        if let Some(stem) = name.strip_suffix(".gguf").filter(|_| !name.contains("mmproj")) {
            let whole = split(stem).map_or(stem, |(whole, ..)| whole);
            models.entry(whole.to_owned()).or_default().push(file.clone());
        }
    }
    models.values_mut().for_each(|files| files.sort_by(|a, b| a.path.cmp(&b.path)));
    models
}

/// `NAME-00002-of-00005` is part 2 of 5 of `NAME`.
fn split(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (whole, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((whole, digits(number)?, digits(count)?))
}

/// Checks that all splits of a model are there.
fn complete(name: String, weights: Vec<RemoteFile>) -> anyhow::Result<Model> {
    for (index, file) in weights.iter().enumerate() {
        let part = file.name().strip_suffix(".gguf").and_then(split);
        let (number, count) = part.map_or((1, 1), |(_, number, count)| (number, count));
        if number != index + 1 || count != weights.len() {
            bail!("{}: the repository does not hold all {count} files of {name}", file.path);
        }
    }
    Ok(Model { name, weights, side: Vec::new() })
}

/// Brings a model.
struct Puller<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    pause: Duration,
}

impl Puller<'_> {
    async fn pull(
        &mut self,
        model: &Model,
        flags: &PackFlags,
        destination: PathBuf,
    ) -> anyhow::Result<PackReport> {
        let options = flags.options(destination.clone(), destination);
        let files = model.weights.iter().map(|file| ArrivingFile {
            name: file.name().to_owned(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
        });
        let mut arrival = Arrival::open(options, &self.repository.name, files.collect())?;
        let side = self.side_files(&model.side).await?;
        let side = (!model.side.is_empty()).then_some(&side);
        let mut progress = Progress::new("pulling", Unit::Bytes);
        self.bring_headers(&mut arrival, model, &mut progress).await?;
        // What an earlier attempt left may be of no use: then everything begins anew, once.
        if !arrival.plan(side)? {
            self.bring_headers(&mut arrival, model, &mut progress).await?;
            if !arrival.plan(side)? {
                bail!("{}: the headers of its files are cut", self.repository.name);
            }
        }
        for (index, file) in model.weights.iter().enumerate() {
            while arrival.wants(index) {
                self.bring(&mut arrival, index, file, u64::MAX, &mut progress).await?;
            }
        }
        Ok(tokio::task::block_in_place(|| arrival.finish())?)
    }

    async fn bring_headers(
        &self,
        arrival: &mut Arrival,
        model: &Model,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        for (index, file) in model.weights.iter().enumerate() {
            let mut target = HEADER_BYTES;
            while arrival.wants_header_of(index)? {
                self.bring(arrival, index, file, target, progress).await?;
                target = target.saturating_mul(2);
            }
        }
        Ok(())
    }

    async fn side_files(&self, files: &[RemoteFile]) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut contents = BTreeMap::new();
        for file in files {
            let mut failures = 0;
            let bytes = loop {
                match self.hub.small(self.repository, file).await {
                    Ok(bytes) => break bytes,
                    Err(failed) => self.wait(failed, &mut failures, &file.path).await?,
                }
            };
            contents.insert(file.path.clone(), bytes);
        }
        Ok(contents)
    }

    /// Brings a file up to a byte, in as many attempts as it takes.
    async fn bring(
        &self,
        arrival: &mut Arrival,
        index: usize,
        file: &RemoteFile,
        target: u64,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let target = target.min(file.bytes);
        let mut failures = 0;
        while arrival.position(index) < target {
            let before = arrival.position(index);
            let attempt = self.attempt(arrival, index, file, target, progress).await;
            if arrival.position(index) > before {
                failures = 0;
            }
            if let Err(failed) = attempt {
                self.wait(failed, &mut failures, &file.path).await?;
            }
        }
        Ok(())
    }

    async fn attempt(
        &self,
        arrival: &mut Arrival,
        index: usize,
        file: &RemoteFile,
        target: u64,
        progress: &mut Progress,
    ) -> Result<(), Failed> {
        let from = arrival.position(index);
        let mut transfer = self.hub.range(self.repository, file, from, target).await?;
        while let Some(bytes) = transfer.next().await? {
            // Packing takes a while; other tasks of the runtime go on meanwhile.
            tokio::task::block_in_place(|| arrival.push(index, &bytes))
                .map_err(|error| Failed::Lasting(error.into()))?;
            let at = arrival.progress();
            progress.update(at.done, at.total);
        }
        Ok(())
    }

    /// Waits before the next attempt; gives up after too many.
    async fn wait(&self, failed: Failed, failures: &mut u32, path: &str) -> anyhow::Result<()> {
        *failures += 1;
        match failed {
            Failed::Passing(_) if *failures < ATTEMPTS_MAX => {
                tokio::time::sleep(self.pause * 2_u32.pow(*failures - 1)).await;
                Ok(())
            }
            failed => Err(anyhow::Error::from(failed)).with_context(|| {
                format!("failed to bring {path}; what has come is kept for the next attempt")
            }),
        }
    }
}

#[cfg(test)]
mod tests;
