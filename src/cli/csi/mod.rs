//! `holdfast csi`: the driver that Kubernetes asks, as the controller of a cluster, as a node, or as both.

mod mounter;
mod stores;

use super::args::Flags;
use super::context::Context;
use super::exit::Exit;
use crate::controller::Controller;
use crate::csi::{DRIVER, Server, Service, serve};
use crate::keeper;
use crate::node::{Fake, Mounter, Node, Patience};
use crate::policy::parse_duration;
use crate::types::{Fault, FaultKind};
use clap::Args;
use mounter::Mounts;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stores::Directory;
use tokio::signal::unix::{SignalKind, signal};

/// What to answer for, and where.
#[derive(Debug, Args)]
pub struct CsiArgs {
    /// Where requests come: `unix://` and an absolute path that ends in `.sock`
    #[arg(long, value_name = "URL", env = "CSI_ENDPOINT", hide_env_values = true)]
    endpoint: String,
    /// The cluster: the first part of the name of each of its volumes
    #[arg(long, value_name = "NAME", env = "HOLDFAST_CLUSTER", hide_env_values = true)]
    cluster: String,
    /// A directory of named stores: in each one's directory the files `url` and, for its key, `key`
    #[arg(long, value_name = "DIR", env = "HOLDFAST_STORES", hide_env_values = true, default_value = "/etc/holdfast/stores")]
    stores: PathBuf,
    /// Decide whose volume a claim is
    #[arg(long)]
    controller: bool,
    /// Mount volumes on this machine
    #[arg(long, requires = "node_id")]
    node: bool,
    /// What the cluster calls this machine
    #[arg(long, value_name = "NAME", env = "HOLDFAST_NODE_ID", hide_env_values = true)]
    node_id: Option<String>,
    /// What is known of the volumes of this machine, and where they are mounted
    #[arg(long, value_name = "DIR", env = "HOLDFAST_STATE", hide_env_values = true, default_value = "/var/lib/holdfast/csi")]
    state: PathBuf,
    /// How long one request waits for a mount: for the machine that has the volume, for the store
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration)]
    stage_wait: Duration,
    /// How long an unmount waits until everything is in a commit; it goes on after that
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    drain_wait: Duration,
    /// The driver's name in the cluster
    #[arg(long, value_name = "NAME", default_value = DRIVER)]
    driver: String,
    /// Mount nothing: targets are made and removed, for tests without privileges
    #[arg(long, hide = true)]
    pretend: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a whole number and s, min, h or d, such as `90s`".to_owned())
}

pub(super) fn run(context: &Context, flags: &Flags, args: &CsiArgs) -> Result<Exit, Fault> {
    if !args.controller && !args.node {
        return Err(Fault::new(FaultKind::Invalid, "nothing to answer for: say --controller, --node or both"));
    }
    context.run(answer(context, flags, args))
}

async fn answer(context: &Context, flags: &Flags, args: &CsiArgs) -> Result<Exit, Fault> {
    let stores = Arc::new(Directory::new(&args.stores, &context.settings, &context.env)?);
    let controller = Arc::new(Controller::new(&args.cluster, Arc::clone(&stores) as _)?);
    let node = match &args.node_id {
        Some(id) if args.node => {
            let state = std::path::absolute(&args.state)?;
            let mounter: Arc<dyn Mounter> = if args.pretend {
                Arc::new(Fake::default())
            } else {
                keeper::make_run_dir(&context.settings.run_dir)?;
                Arc::new(Mounts::new(context, flags, stores, &state)?)
            };
            let patience = Patience { stage: args.stage_wait, drain: args.drain_wait };
            Some(Arc::new(Node::new(id, Arc::clone(&controller), mounter, &state, patience)?))
        }
        _ => None,
    };
    let service = Service::new(&args.driver, args.controller, controller, node)?;
    let cannot = |error| Fault::with(FaultKind::Local, "signals cannot be received", error);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(cannot)?, signal(SignalKind::interrupt()).map_err(cannot)?);
    let server = Server::listen(&args.endpoint).await?;
    context.say(&format!("{} answers at {}", args.driver, args.endpoint));
    // Mounts live on: they are of processes of their own.
    let end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(server, service, end).await;
    Ok(Exit::Done)
}
