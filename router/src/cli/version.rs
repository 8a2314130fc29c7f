//! `sluice version`: what is running, exactly: the program, its policies and its default model.

use serde::Serialize;

use super::{Outcome, Status, locate, out, policy};

/// Flags of `sluice version`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Version {
    sluice: &'static str,
    /// `x86_64-linux`.
    platform: String,
    /// Digest of the policies in the binary.
    policy_digest: String,
    /// Folder of the model that a run without flags would load.
    model: Option<String>,
}

/// Prints versions; finding no model is no error here.
pub(super) fn run(args: &Args) -> Outcome {
    let version = Version {
        sluice: env!("CARGO_PKG_VERSION"),
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        policy_digest: policy::load_site(None)?.digest().to_owned(),
        model: locate::model(None, None).ok().map(|path| path.display().to_string()),
    };
    if args.json {
        out::json(&version)?;
    } else {
        out::line(format_args!("sluice   {} ({})", version.sluice, version.platform))?;
        out::line(format_args!("policies {}", version.policy_digest))?;
        out::line(format_args!("model    {}", version.model.as_deref().unwrap_or("none found")))?;
    }
    Ok(Status::Done)
}
