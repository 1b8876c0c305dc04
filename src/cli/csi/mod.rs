//! `holdfast csi`: the driver that Kubernetes asks, as the controller of a cluster, as a node, or as both.

mod init;
mod mounter;
mod stores;

use super::args::Flags;
use super::context::Context;
use super::control::ask_all;
use super::exit::Exit;
use super::status::Phase;
use crate::controller::Controller;
use crate::csi::{DRIVER, Server, Service, probe, serve};
use crate::env::Env;
use crate::keeper;
use crate::node::{Fake, Mounter, Node, Patience};
use crate::policy::parse_duration;
use crate::types::{Fault, FaultKind};
use clap::Args;
use clap::builder::FalseyValueParser;
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
    #[arg(long, value_name = "NAME", env = "HOLDFAST_CLUSTER", hide_env_values = true, required_unless_present = "probe")]
    cluster: Option<String>,
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
    /// The keeper is run by others (a pod of its own): mounts outlive this container, and the next one takes them up
    #[arg(long, env = "HOLDFAST_KEEPER_APART", hide_env_values = true, value_parser = FalseyValueParser::new())]
    keeper_apart: bool,
    /// Ask whether a driver answers at the endpoint, and end
    #[arg(long, conflicts_with_all = ["controller", "node"])]
    probe: bool,
    /// The driver's name in the cluster
    #[arg(long, value_name = "NAME", default_value = DRIVER)]
    driver: String,
    /// Mount nothing: targets are made and removed, for tests without privileges
    #[arg(long, hide = true)]
    pretend: bool,
}

/// A probe is answered at once, or not.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// Between two looks at what nobody attends, and at what drains.
const LOOK: Duration = Duration::from_secs(1);

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a whole number and s, min, h or d, such as `90s`".to_owned())
}

pub(super) fn run(context: &Context, flags: &Flags, args: &CsiArgs) -> Result<Exit, Fault> {
    if args.probe {
        return context.run(async {
            let late =
                || Fault::new(FaultKind::Unknown, format!("no driver answers at {} within {} s", args.endpoint, PROBE_MAX.as_secs()));
            tokio::time::timeout(PROBE_MAX, probe(&args.endpoint)).await.map_err(|_| late())??;
            Ok(Exit::Done)
        });
    }
    if !args.controller && !args.node {
        return Err(Fault::new(FaultKind::Invalid, "nothing to answer for: say --controller, --node or both"));
    }
    if let Some(ended) = init::split()? {
        return Ok(ended);
    }
    context.run(answer(context, flags, args))
}

async fn answer(context: &Context, flags: &Flags, args: &CsiArgs) -> Result<Exit, Fault> {
    let stores = Arc::new(Directory::new(&args.stores, &context.settings, &context.env)?);
    let controller = Arc::new(Controller::new(args.cluster.as_deref().unwrap_or_default(), Arc::clone(&stores) as _)?);
    let node = match &args.node_id {
        Some(id) if args.node => {
            let state = std::path::absolute(&args.state)?;
            let mounter: Arc<dyn Mounter> = if args.pretend {
                Arc::new(Fake::default())
            } else {
                keeper::make_run_dir(&context.settings.run_dir)?;
                Arc::new(Mounts::new(context, flags, stores, &state, args.keeper_apart)?)
            };
            let patience = Patience { stage: args.stage_wait, drain: args.drain_wait };
            Some(Arc::new(Node::new(id, Arc::clone(&controller), mounter, &state, patience)?))
        }
        _ => None,
    };
    let apart = node.clone().filter(|_| args.keeper_apart && !args.pretend);
    let service = Service::new(&args.driver, args.controller, controller, node)?;
    let cannot = |error| Fault::with(FaultKind::Local, "signals cannot be received", error);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(cannot)?, signal(SignalKind::interrupt()).map_err(cannot)?);
    if let Some(node) = &apart {
        // Before anything is asked: an unstage of a mount that nobody serves would wait for it.
        node.take_up().await;
        tokio::spawn(attend(context.env.clone(), Arc::clone(node)));
    }
    let server = Server::listen(&args.endpoint).await?;
    context.say(&format!("{} answers at {}", args.driver, args.endpoint));
    // Mounts live on: they are of processes of their own, or the keeper holds them until the next container.
    let end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(server, service, end).await;
    if apart.is_some() {
        drained(context).await;
    }
    Ok(Exit::Done)
}

/// With a keeper apart this process alone brings back what serves a mount: in its container, where the old one was.
async fn attend(env: Env, node: Arc<Node>) {
    loop {
        env.sleep(LOOK).await;
        node.take_up().await;
    }
}

/// Mounts are taken up by the next container; what is unmounted and still drains would end with this one, its log open. So it is waited
/// for, as long as whoever ends the container lets it.
async fn drained(context: &Context) {
    loop {
        let draining = ask_all(&context.settings.run_dir)
            .await
            .map_or(0, |all| all.answered.iter().filter(|(_, status)| status.phase == Phase::Draining).count());
        if draining == 0 {
            return;
        }
        tracing::warn!(draining, "what was unmounted drains still: waiting for it");
        context.env.sleep(LOOK).await;
    }
}
