//! What a restart, a crash, a damaged file and a disk that fails leave of what was noted.

use std::fs;
use std::path::PathBuf;

use super::*;

const ROOM: usize = 64;
const KEEP_S: u64 = 1000;

fn open(folder: &Path) -> (Keeper, [u8; 32]) {
    let known = Known::new(ROOM, KEEP_S);
    Keeper::open(folder, true, known, super::super::fresh_key().unwrap(), super::super::now())
        .unwrap()
}

fn note(keeper: &Keeper, number: u8) -> Saved {
    keeper.note(&[[number; 16]], super::super::now())
}

/// Which of the first eight are known, and whether the others are unknown.
fn knows(keeper: &Keeper) -> (Vec<u8>, bool) {
    let now = super::super::now();
    let known = (1..=8).filter(|number| keeper.look_up(&[[*number; 16]], now).0);
    (known.collect(), keeper.look_up(&[], now).1)
}

fn word(keeper: &Keeper) -> &'static str {
    keeper.word(super::super::now())
}

fn log(folder: &Path) -> PathBuf {
    folder.join("taint.log")
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_noted() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, key) = open(folder.path());
    assert_eq!((knows(&keeper), word(&keeper)), ((vec![], false), "kept"));
    note(&keeper, 1).wait().await;
    note(&keeper, 2).wait().await;
    note(&keeper, 2).wait().await;
    // What a process that dies here leaves behind: no sync, no farewell.
    let crashed = tempfile::tempdir().unwrap();
    drop(note(&keeper, 3));
    for name in ["taint.log", "key"] {
        fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
    }
    drop(keeper);
    for folder in [folder.path(), crashed.path()] {
        let (keeper, same_key) = open(folder);
        assert_eq!((knows(&keeper), word(&keeper)), ((vec![1, 2, 3], false), "kept"));
        assert_eq!(same_key, key);
    }
}

#[tokio::test]
async fn what_is_damaged_makes_the_rest_unknown_and_stays_so_after_a_restart() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &[u8]); 6] = [
        ("a record", |folder| flip(&log(folder), 40), &[2]),
        ("the header", |folder| flip(&log(folder), 3), &[]),
        ("no file", |folder| fs::remove_file(log(folder)).unwrap(), &[]),
        ("no key", |folder| fs::remove_file(folder.join("key")).unwrap(), &[]),
        ("another key", |folder| fs::write(folder.join("key"), "0".repeat(64)).unwrap(), &[]),
        (
            "a folder as the key",
            |folder| {
                fs::remove_file(folder.join("key")).unwrap();
                fs::create_dir(folder.join("key")).unwrap();
            },
            &[],
        ),
    ];
    for (what, damage, expected) in damages {
        let folder = tempfile::tempdir().unwrap();
        let (keeper, _) = open(folder.path());
        note(&keeper, 1).wait().await;
        note(&keeper, 2).wait().await;
        drop(keeper);
        damage(folder.path());
        for round in ["first", "second"] {
            let (keeper, _) = open(folder.path());
            let got = (knows(&keeper), word(&keeper));
            assert_eq!(got, ((expected.to_vec(), true), "incomplete"), "{what}, {round} start");
        }
        let (keeper, _) = open(folder.path());
        note(&keeper, 5).wait().await;
        drop(keeper);
        assert!(knows(&open(folder.path()).0).0.contains(&5), "{what}: it is kept on");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_disk_that_fails_makes_the_rest_unknown_until_it_is_back() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("taint");
    let (keeper, _) = open(&folder);
    note(&keeper, 1).wait().await;
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    note(&keeper, 2).wait().await;
    assert_eq!((knows(&keeper), word(&keeper)), ((vec![1, 2], true), "down"));
    note(&keeper, 3).wait().await;
    fs::remove_file(&folder).unwrap();
    until("a ledger that is written again", || word(&keeper) == "kept").await;
    assert_eq!(knows(&keeper), (vec![1, 2, 3], false));
    note(&keeper, 4).wait().await;
    drop(keeper);
    // The key, which went with the folder, is back, too.
    let (keeper, _) = open(&folder);
    assert_eq!((knows(&keeper), word(&keeper)), ((vec![1, 2, 3, 4], false), "kept"));
}

#[tokio::test]
async fn a_file_that_was_deleted_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, _) = open(folder.path());
    note(&keeper, 1).wait().await;
    fs::remove_file(log(folder.path())).unwrap();
    note(&keeper, 2).wait().await;
    until("a new file", || word(&keeper) == "kept").await;
    drop(keeper);
    assert_eq!(knows(&open(folder.path()).0), (vec![1, 2], false));
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_at_the_start_is_tried_again() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("taint");
    fs::write(&folder, "in the way").unwrap();
    let (keeper, _) = open(&folder);
    note(&keeper, 1).wait().await;
    assert_eq!((knows(&keeper), word(&keeper)), ((vec![1], true), "down"));
    fs::remove_file(&folder).unwrap();
    until("a ledger", || word(&keeper) == "incomplete").await;
    drop(keeper);
    assert_eq!(knows(&open(&folder).0), (vec![1], true));
}

#[tokio::test]
async fn the_file_has_a_bound_and_what_made_room_is_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, _) = open(folder.path());
    let print = |number: u64| {
        let mut print = [0; 16];
        print[..8].copy_from_slice(&number.to_le_bytes());
        print
    };
    let records = 3 * COMPACT_BYTES_MIN / SLOT_BYTES;
    for number in 0..records {
        drop(keeper.note(&[print(number)], super::super::now()));
    }
    let bytes = || fs::metadata(log(folder.path())).unwrap().len();
    until("a file that is written anew", || bytes() <= COMPACT_BYTES_MIN).await;
    assert_eq!((keeper.len(), word(&keeper)), (ROOM, "incomplete"));
    drop(keeper);
    let (keeper, _) = open(folder.path());
    assert_eq!((keeper.len(), word(&keeper)), (ROOM, "incomplete"));
    assert!(keeper.look_up(&[print(records - 1)], super::super::now()).0);
}

#[test]
fn two_processes_do_not_write_over_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (_first, key) = open(folder.path());
    let second = Keeper::open(folder.path(), false, Known::new(ROOM, KEEP_S), key, 1);
    assert!(matches!(second, Err(TaintError::Locked(_))));
}
