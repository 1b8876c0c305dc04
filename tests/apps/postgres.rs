//! PostgreSQL: initdb, pgbench, death at a random moment, recovery; its own checks of every page and index, and pgbench's invariant.

use crate::harness::command::succeed;
use crate::harness::{Chance, scale};
use crate::mounted;
use crate::server::{Server, clear_lock, init, pgbench, wait_for};

pub(crate) fn scenario() {
    let mut chance = Chance::new("postgresql");
    let mut mounted = mounted("postgresql");
    let place = |mounted: &dyn crate::Mounted| mounted.root().join("data");
    init(&place(mounted.as_ref()));
    // In commits before this one initdb is at work, and there is no server to start.
    let made = mounted.flush();
    let server = Server::start(&place(mounted.as_ref()));
    succeed(&mut server.client("pgbench", &["-i", "-q", "-s", "1", "postgres"]));

    let mut load = pgbench(&server);
    wait_for(&server, chance.between(50, 200));
    mounted.bounce();
    let acknowledged = wait_for(&server, 500 * scale());
    mounted.kill();
    let _ = load.kill();
    let _ = load.wait();
    server.kill();
    mounted.revive();

    clear_lock(&place(mounted.as_ref()));
    let server = Server::start(&place(mounted.as_ref()));
    let recovered = server.check("after the crash");
    assert!(recovered >= acknowledged, "{acknowledged} transactions were acknowledged, {recovered} are there");

    let mut load = pgbench(&server);
    wait_for(&server, recovered + 200);
    mounted.flush_busy();
    let mut more = recovered + 300 + chance.between(0, 300);
    wait_for(&server, more);
    while crate::too_few(mounted.as_ref()) {
        more += 20;
        wait_for(&server, more);
    }
    mounted.kill();
    let _ = load.kill();
    let _ = load.wait();
    server.kill();
    mounted.elsewhere();

    clear_lock(&place(mounted.as_ref()));
    let server = Server::start(&place(mounted.as_ref()));
    let found = server.check("on the next machine");
    println!("postgresql: {acknowledged} acknowledged before the crash, {recovered} recovered, {found} on the next machine");
    server.stop();
    mounted.flush();
    each_commit(mounted.as_ref(), &mut chance, made, found);
}

/// Opens the state of commits by the server itself: recovery succeeds, and history never goes back.
fn each_commit(mounted: &dyn crate::Mounted, chance: &mut Chance, made: u64, newest: u64) {
    let mut before = 0;
    crate::each_commit("postgresql", mounted, chance, |commit, tree| {
        let data = tree.join("data");
        if commit < made {
            return;
        }
        clear_lock(&data);
        let server = Server::start(&data);
        if server.query("SELECT count(*) FROM pg_tables WHERE tablename = 'pgbench_history'") == "1" {
            let found = server.check(&format!("commit {commit}"));
            assert!(found >= before, "commit {commit} has {found} transactions, an older one had {before}");
            before = found;
        }
        server.stop();
    });
    assert!(before <= newest + 10_000, "commits show more than was ever done: {before}");
}
