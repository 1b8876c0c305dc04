//! Where a file stands, while commits come and go.

use super::lab::Lab;
use crate::cache::Stored;
use crate::types::{Ino, ROOT};

fn stored(lab: &Lab, ino: Ino) -> Stored {
    lab.cache.view(|view| view.stored(ino)).unwrap().unwrap()
}

fn is_dirty(lab: &Lab, ino: Ino) -> bool {
    matches!(stored(lab, ino), Stored::Dirty(_))
}

#[test]
fn a_file_is_stored_when_all_of_it_is() {
    let mut lab = Lab::new();
    let dir = lab.make(ROOT, b"dir", true);
    let below = lab.make(dir, b"below", false);
    assert!(is_dirty(&lab, below) && is_dirty(&lab, dir) && is_dirty(&lab, ROOT));
    lab.commit_all();
    assert_eq!([ROOT, dir, below].map(|ino| stored(&lab, ino)), [Stored::In(Some(1)); 3]);
    lab.write(below, 0, b"content");
    assert!(is_dirty(&lab, below) && !is_dirty(&lab, dir));
    lab.commit_all();
    assert_eq!(stored(&lab, below), Stored::In(Some(2)));
    lab.chmod(below, 0o600);
    assert!(is_dirty(&lab, below));
    lab.commit_all();
    // By its old path alone it is in a commit.
    lab.rename(ROOT, b"dir", ROOT, b"moved");
    assert!(is_dirty(&lab, below) && is_dirty(&lab, dir));
    lab.commit_all();
    assert_eq!(stored(&lab, below), Stored::In(Some(4)));
    lab.update(|update| update.remove_name(dir, b"below")).unwrap();
    assert_eq!(stored(&lab, below), Stored::Unnamed);
    assert!(lab.cache.view(|view| view.stored(1 << 50)).unwrap().is_none());
}

#[test]
fn what_is_on_its_way_is_dirty_until_its_commit_is_known() {
    let mut lab = Lab::new();
    let (still, moving) = (lab.committed(b"still", b"1"), lab.committed(b"moving", b"1"));
    lab.write(moving, 0, b"2");
    let sealing = lab.begin_seal();
    assert!(is_dirty(&lab, moving) && !is_dirty(&lab, still));
    lab.write(moving, 0, b"3");
    lab.commit(sealing);
    assert!(is_dirty(&lab, moving), "the commit has what it was before");
    assert_eq!(stored(&lab, still), Stored::In(Some(3)), "the newest commit shows it too");
    let sealing = lab.begin_seal();
    lab.cache.abandon(sealing.seal).unwrap();
    assert!(is_dirty(&lab, moving));
    lab.commit_all();
    assert_eq!(stored(&lab, moving), Stored::In(Some(4)));
}

#[test]
fn another_process_knows_what_is_stored_but_not_since_when_it_is_not() {
    let mut lab = Lab::new();
    let (still, dirty) = (lab.committed(b"still", b"1"), lab.committed(b"dirty", b"1"));
    lab.write(dirty, 0, b"2");
    lab.crash();
    assert_eq!(stored(&lab, still), Stored::In(None));
    assert!(matches!(stored(&lab, dirty), Stored::Dirty(since) if since.or_before));
    let new = lab.file(b"new");
    assert!(matches!(stored(&lab, new), Stored::Dirty(since) if !since.or_before));
    lab.commit_all();
    lab.write(dirty, 0, b"3");
    assert!(matches!(stored(&lab, dirty), Stored::Dirty(since) if !since.or_before));
}
