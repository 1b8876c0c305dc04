//! Janitors beside a database that is being written: killed at random, as its driver is, two at a time.

use super::{Lab, STRICT};
use crate::rig::VOLUME;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// A writer that commits rows until it is told to end; `python3` because its SQLite is nobody's here.
const WRITER: &str = "import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=60)
db.execute('create table if not exists t(n integer primary key, text text)')
n = 0
while True:
    with db:
        db.execute('insert into t(text) values(?)', ('x' * 3000,))
        db.execute('delete from t where n < (select max(n) - 200 from t)')
    print(n, flush=True)
    n += 1
    time.sleep(0.02)";

#[test]
fn janitors_beside_a_database_and_kills_at_random() {
    let lab = Lab::new(false);
    // A test kills drivers more often than a driver that is in order dies: no quarantine.
    let mount = lab.rig.mount_with("first", |command| {
        command.env("HOLDFAST_CALM", "0s");
    });
    let mut writer = Command::new("/usr/bin/python3")
        .args(["-c", WRITER])
        .arg(mount.root.join("db"))
        .stdout(Stdio::null())
        .spawn()
        .expect("python3 starts");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // So many commits of its own, flushed besides the driver's own ones; the driver dies now and then.
            for n in 0..150u64 {
                fs::write(mount.root.join("beside"), format!("{n}")).expect("write");
                lab.rig.flush("first");
                if n % 50 == 49 {
                    mount.kill_driver();
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        for machine in 0..2u32 {
            let (lab, ended) = (&lab, &ended);
            scope.spawn(move || {
                let mut n = u64::from(machine);
                while !ended.load(Ordering::Relaxed) {
                    let mut command = lab.rig.prepare("first", &["janitor", "run", VOLUME, "--retention", STRICT]);
                    command.stdout(Stdio::null()).stderr(Stdio::piped());
                    if n % 3 == 0 {
                        let step = ["history.after_retire", "history.in_deletion:2", "log.before_control"]
                            [usize::try_from(n / 3 % 3).unwrap_or(0)];
                        command.env("HOLDFAST_FAILPOINTS", step);
                    }
                    let output = command.output().expect("holdfast starts");
                    // Done, killed, or another janitor was faster five times in a row.
                    let code = output.status.code();
                    assert!(matches!(code, Some(0 | 12) | None), "{code:?} {}", String::from_utf8_lossy(&output.stderr));
                    n += 1;
                }
            });
        }
    });
    assert!(writer.try_wait().expect("its status").is_none(), "the database met an error");
    writer.kill().expect("kill");
    writer.wait().expect("its end");
    let integrity = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('pragma integrity_check').fetchone()[0])";
    let checked = Command::new("/usr/bin/python3").args(["-c", integrity]).arg(mount.root.join("db")).output().expect("python3 starts");
    assert_eq!(String::from_utf8_lossy(&checked.stdout).trim(), "ok");
    lab.check();
    lab.rig.unmount("first", mount);
    lab.succeed(&["janitor", "run", VOLUME, "--retention", STRICT]);
    let checked = lab.check();
    assert_eq!(checked["unneeded"], serde_json::json!([]));
    assert!(checked["retired"].as_u64().expect("a number") > 50, "{checked}");
}
