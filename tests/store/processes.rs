//! Put if absent in a directory is atomic across processes.

use crate::directory;
use bytes::Bytes;
use holdfast::env::Env;
use holdfast::store::{FileStore, Put, Store};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const PROCESSES: usize = 4;
const NAMES: usize = 60;
const DIRECTORY: &str = "HOLDFAST_TEST_CREATOR_DIRECTORY";

/// Not a test when run with the others: the body of the processes below.
#[tokio::test]
async fn creator() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    let store = FileStore::new(Path::new(&path), false, Env::real());
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent's go");
    for n in 0..NAMES {
        // New directories are part of the race.
        let name = format!("race/{}/{n}", n / 8);
        let put = store.put_if_absent(&name, Bytes::from(std::process::id().to_string())).await.expect("put");
        if put == Put::Stored {
            println!("won {name}");
        }
    }
    println!("done");
}

#[tokio::test]
async fn many_processes_have_one_winner_for_each_name() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = directory(scratch.path()).await;
    let mut children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(["--exact", "processes::creator", "--nocapture"]).env(DIRECTORY, scratch.path());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn")
        })
        .collect();
    let mut outputs: Vec<_> = children.iter_mut().map(|child| BufReader::new(child.stdout.take().expect("piped")).lines()).collect();
    // Nobody begins before everybody is there.
    for output in &mut outputs {
        assert!(output.any(|line| line.expect("line").ends_with("ready")));
    }
    for child in &mut children {
        child.stdin.take().expect("piped").write_all(b"go\n").expect("go");
    }
    let mut winners: HashMap<String, u32> = HashMap::new();
    let mut won_by = vec![0; PROCESSES];
    for (k, output) in outputs.iter_mut().enumerate() {
        for line in output.map(|line| line.expect("line")) {
            if let Some(name) = line.strip_prefix("won ") {
                won_by[k] += 1;
                assert_eq!(winners.insert(name.to_owned(), children[k].id()), None, "{name} was won twice");
            }
        }
    }
    for child in &mut children {
        assert!(child.wait().expect("wait").success());
    }
    println!("names won by each process: {won_by:?}");
    assert_eq!(winners.len(), NAMES);
    for (name, winner) in winners {
        assert_eq!(store.get(&name).await.expect("get").as_deref(), Some(winner.to_string().as_bytes()), "{name}");
    }
}
