//! The log as an auditor and a crash find it.

use futures_util::FutureExt;
use serde_json::{Value, json};
use sluice_policies::{Classification, Decision, Evidence, Facts, Route};
use tempfile::TempDir;

use super::writer::hex_digest;
use super::*;

struct Fixture {
    decision: Decision,
    classification: Classification,
    evidence: Evidence,
    facts: Facts,
}

impl Fixture {
    fn new() -> Fixture {
        let decision = Decision {
            route: Route::Cloud,
            upstream: Some("cloud".into()),
            allowed: vec!["cloud".into()],
            class: "internal".into(),
            labels: vec![],
            latency: "interactive".into(),
            redact: false,
            rules: vec!["R-1".into()],
            raised_by: vec!["R-1".into()],
            never_cloud: false,
            reason: String::new(),
            refusal: None,
            policy_digest: "d".into(),
            queue_ms_max: None,
        };
        let classification = serde_json::from_value(json!({
            "class": "internal", "labels": [], "latency": "interactive", "rules": ["R-1"],
            "raised_by": ["R-1"], "shadow_rules": [],
            "findings": [{"detector": "email", "place": "messages[0].content", "likelihood": "likely"}],
            "refuse": null, "strip": [], "never_cloud": false, "reason": "",
            "base_class": "internal", "base_reason": null, "excepted": [], "redactable": false,
        }))
        .unwrap();
        let facts = Facts::ordinary(jiff::civil::date(2026, 11, 22), Vec::new());
        let evidence = serde_json::from_value(json!({
            "findings": [{"detector": "email", "place": "messages[0].content", "likelihood": "likely",
                "message": 0, "sentence": 0, "start": 8, "end": 27}],
            "unscanned": [], "context": {"path": "/v1/chat/completions"},
        }))
        .unwrap();
        Fixture { decision, classification, evidence, facts }
    }

    fn attempt(&self, number: u32) -> AttemptRecord<'_> {
        AttemptRecord {
            id: "id-1",
            attempt: number,
            upstream: UpstreamId::new("cloud"),
            address: "https://cloud.example",
            decision: &self.decision,
            classification: &self.classification,
            evidence: &self.evidence,
            facts: &self.facts,
            would_be: None,
            caller: Some("app"),
            tenant: "default",
            stripped: &[],
            redacted: None,
            bytes: 10,
        }
    }
}

/// A log that is not off.
fn kept() -> AuditConfig {
    let (path, fsync) = (PathBuf::new(), Fsync::EveryRecord);
    AuditConfig { off: false, path, fsync, fallback: None }
}

fn open(folder: &TempDir) -> Result<AuditLog, AuditError> {
    open_with(folder, Fsync::EveryRecord)
}

fn open_with(folder: &TempDir, fsync: Fsync) -> Result<AuditLog, AuditError> {
    let path = folder.path().join("audit");
    AuditLog::open(&AuditConfig { path, fsync, ..kept() })
}

/// Opens a log whose last writer has just been dropped and is still letting go of the lock.
fn reopen(folder: &TempDir) -> AuditLog {
    loop {
        match open(folder) {
            Err(AuditError::Locked { .. }) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("audit/audit.jsonl")
}

/// Reads the log once no writer holds it.
fn text(folder: &TempDir) -> String {
    drop(reopen(folder));
    std::fs::read_to_string(file(folder)).unwrap()
}

fn check_chain(text: &str) -> Vec<Value> {
    let mut prev = "0".repeat(64);
    let mut lines = Vec::new();
    for (line, seq) in text.lines().zip(1..) {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (json["seq"].as_u64(), json["prev"].as_str()),
            (Some(seq), Some(&*prev)),
            "{line}"
        );
        prev = String::from_utf8(hex_digest(line.as_bytes()).to_vec()).unwrap();
        lines.push(json);
    }
    lines
}

#[tokio::test]
async fn lines_are_chained_and_the_chain_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new();
    for _ in 0..2 {
        let log = reopen(&folder);
        for number in 1..4 {
            let recorded = log.attempt(&fixture.attempt(number)).await.unwrap();
            recorded.close(&Outcome { ending: Ending::Complete, ..Outcome::abandoned() });
        }
    }
    let lines = check_chain(&text(&folder));
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[0]["findings"][0]["detector"], "email");
    assert_eq!(lines[1]["ending"], "complete");
}

#[tokio::test]
async fn an_attempt_that_is_dropped_is_recorded_as_left() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).unwrap();
    drop(log.attempt(&Fixture::new().attempt(1)).await.unwrap());
    drop(log);
    let lines = check_chain(&text(&folder));
    assert_eq!((lines.len(), &lines[1]["ending"]), (2, &json!("client_left")));
}

#[tokio::test]
async fn who_leaves_while_the_attempt_is_written_leaves_an_outcome() {
    for fsync in [Fsync::EveryRecord, Fsync::Never] {
        let (folder, fixture) = (TempDir::new().unwrap(), Fixture::new());
        let log = open_with(&folder, fsync).unwrap();
        for number in 1..=50 {
            // One look at the future hands the line in; then the client is gone.
            drop(log.attempt(&fixture.attempt(number)).now_or_never());
        }
        drop(log.attempt(&fixture.attempt(51)).await.unwrap());
        drop(log);
        let lines = check_chain(&text(&folder));
        for number in 1..=50 {
            let of_it = lines.iter().filter(|line| line["attempt"] == number);
            let kinds: Vec<&Value> = of_it.map(|line| &line["kind"]).collect();
            assert_eq!(kinds, ["attempt", "outcome"], "{number}");
        }
    }
}

#[tokio::test]
async fn an_outcome_is_written_before_what_comes_after_it_and_though_nothing_does() {
    let (folder, fixture) = (TempDir::new().unwrap(), Fixture::new());
    let log = open(&folder).unwrap();
    for number in 1..=20 {
        drop(log.attempt(&fixture.attempt(number)).await.unwrap());
    }
    log.settle(Duration::from_secs(60)).await;
    let lines = check_chain(&std::fs::read_to_string(file(&folder)).unwrap());
    let found: Vec<_> = lines.iter().map(|line| (&line["kind"], &line["attempt"])).collect();
    let (attempt, outcome) = (json!("attempt"), json!("outcome"));
    let numbers: Vec<Value> = (1..=20).map(Value::from).collect();
    let expected: Vec<_> = numbers.iter().flat_map(|n| [(&attempt, n), (&outcome, n)]).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn records_that_wait_together_keep_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).unwrap();
    let fixture = Fixture::new();
    let record = fixture.attempt(1);
    let many = (0..300).map(|_| log.attempt(&record));
    let recorded = futures_util::future::join_all(many).await;
    assert!(recorded.iter().all(Result::is_ok));
    drop(recorded);
    drop(log);
    assert_eq!(check_chain(&text(&folder)).len(), 600);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).unwrap();
    let fixture = Fixture::new();
    for _ in 0..2 {
        drop(log.attempt(&fixture.attempt(1)).await.unwrap());
    }
    drop(log);
    let whole = text(&folder);
    let last_start = whole.trim_end().rfind('\n').unwrap() + 1;
    for torn in [last_start + 1, last_start + 40, whole.len() - 1, 5] {
        std::fs::write(file(&folder), &whole.as_bytes()[..torn]).unwrap();
        let lines = check_chain(&text(&folder));
        let last = lines.last().unwrap();
        let kept = whole[..torn].rfind('\n').map_or(0, |end| end + 1);
        assert_eq!(last["kind"], "repaired", "torn at {torn}");
        assert_eq!(last["torn_bytes"], torn - kept, "torn at {torn}");
    }
}

#[tokio::test]
async fn a_second_writer_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).unwrap();
    assert!(matches!(open(&folder), Err(AuditError::Locked { .. })));
    drop(log);
    reopen(&folder);
}

#[test]
fn a_file_of_another_kind_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("audit")).unwrap();
    for foreign in ["a line of text\n", "{\"v\":99,\"seq\":1}\n"] {
        std::fs::write(file(&folder), foreign).unwrap();
        assert!(matches!(open(&folder), Err(AuditError::Foreign { .. })), "{foreign}");
        assert_eq!(std::fs::read_to_string(file(&folder)).unwrap(), foreign);
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_says_so_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).unwrap();
    let fixture = Fixture::new();
    drop(log.attempt(&fixture.attempt(1)).await.unwrap());

    let path = folder.path().join("audit");
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "in the way").unwrap();
    assert_eq!(log.attempt(&fixture.attempt(1)).await.err(), Some(AuditDown));
    assert!(!log.is_writable());
    assert!(log.failures() > 0);

    std::fs::remove_file(&path).unwrap();
    drop(log.attempt(&fixture.attempt(1)).await.unwrap());
    assert!(log.is_writable());
    drop(log);
    // The chain goes on from the lines that are gone: their absence shows.
    let text = text(&folder);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(first["seq"].as_u64().unwrap() > 1);
    assert_ne!(first["prev"], "0".repeat(64));
}

#[tokio::test]
async fn an_outcome_that_cannot_be_written_is_written_later() {
    for fsync in [Fsync::EveryRecord, Fsync::Never] {
        let folder = tempfile::tempdir().unwrap();
        let log = open_with(&folder, fsync).unwrap();
        let fixture = Fixture::new();
        let recorded = log.attempt(&fixture.attempt(1)).await.unwrap();
        let (path, aside) = (folder.path().join("audit"), folder.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        std::fs::write(&path, "in the way").unwrap();
        assert_eq!(log.attempt(&fixture.attempt(2)).await.err(), Some(AuditDown));
        let failures = log.failures();
        recorded.close(&Outcome { ending: Ending::Complete, ..Outcome::abandoned() });
        log.settle(Duration::from_millis(50)).await;
        assert!(!log.is_writable());
        assert_eq!(log.failures(), failures, "it is not lost");

        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        log.settle(Duration::from_secs(60)).await;
        assert!(log.is_writable());
        drop(log);
        let lines = check_chain(&text(&folder));
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[1]["attempt"], &lines[1]["ending"]), (&json!(1), &json!("complete")));
    }
}

#[tokio::test]
async fn a_log_that_is_moved_away_goes_on_in_a_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_with(&folder, Fsync::Never).unwrap();
    let fixture = Fixture::new();
    let moved = folder.path().join("audit/audit.jsonl.1");
    log.policy(&PolicySet::shipped().unwrap()).await.unwrap();
    let before = log.attempt(&fixture.attempt(1)).await.unwrap();
    std::fs::rename(file(&folder), &moved).unwrap();
    drop(before);
    drop(log.attempt(&fixture.attempt(2)).await.unwrap());
    drop(log);
    let (first, second) = (std::fs::read_to_string(moved).unwrap(), text(&folder));
    assert_eq!(first.lines().count(), 2);
    let lines = check_chain(&(first + &second));
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    // The new file says itself what its records rest on.
    assert_eq!(kinds, ["policy", "attempt", "policy", "outcome", "attempt", "outcome"]);
}

/// A log without syncs that holds an attempt and its outcome.
async fn with_one_attempt(folder: &TempDir, fixture: &Fixture) -> AuditLog {
    let log = open_with(folder, Fsync::Never).unwrap();
    drop(log.attempt(&fixture.attempt(1)).await.unwrap());
    log.settle(Duration::from_secs(60)).await;
    log
}

#[tokio::test]
async fn a_shorter_file_in_the_place_of_the_log_shows() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
    let log = with_one_attempt(&folder, &fixture).await;
    let whole = std::fs::read_to_string(file(&folder)).unwrap();
    let shorter = folder.path().join("shorter");
    std::fs::write(&shorter, whole.lines().next().unwrap().to_owned() + "\n").unwrap();
    std::fs::rename(shorter, file(&folder)).unwrap();
    drop(log.attempt(&fixture.attempt(2)).await.unwrap());
    drop(log);
    let numbers = text(&folder);
    let numbers = numbers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let numbers: Vec<u64> = numbers.map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 3, 4], "the second is missing");
}

#[tokio::test]
async fn a_log_that_is_shortened_in_its_place_goes_on() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
    let log = with_one_attempt(&folder, &fixture).await;
    let copied = std::fs::read_to_string(file(&folder)).unwrap();
    std::fs::File::options().write(true).open(file(&folder)).unwrap().set_len(0).unwrap();
    drop(log.attempt(&fixture.attempt(2)).await.unwrap());
    drop(log);
    assert_eq!(check_chain(&(copied + &text(&folder))).len(), 4);
}

#[tokio::test]
async fn a_record_that_is_longer_than_a_line_may_be_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).unwrap();
    let fixture = Fixture::new();
    let caller = String::from_utf8(vec![b'x'; writer::LINE_BYTES_MAX]).unwrap();
    let long = AttemptRecord { caller: Some(&caller), ..fixture.attempt(1) };
    assert_eq!(log.attempt(&long).await.err(), Some(AuditDown));
    assert!(log.is_writable() && log.failures() == 1);
    let stripped = vec!["messages[0].mood".to_owned(); 1500];
    let many = AttemptRecord { stripped: &stripped, ..fixture.attempt(2) };
    drop(log.attempt(&many).await.unwrap());
    drop(log);
    let lines = check_chain(&text(&folder));
    assert_eq!(lines.len(), 2);
    let named = lines[0]["stripped"].as_array().unwrap().len();
    assert_eq!((named, &lines[0]["stripped_left_out"]), (1000, &json!(500)));
}

#[tokio::test]
async fn a_trial_writes_elsewhere_if_its_folder_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "a file, not a folder").unwrap();
    let config =
        |fallback| AuditConfig { path: taken.clone(), fsync: Fsync::Never, fallback, ..kept() };
    assert!(AuditLog::open(&config(None)).is_err());
    let log = AuditLog::open(&config(Some(folder.path().join("other")))).unwrap();
    assert_eq!(log.path(), Some(&*folder.path().join("other/audit.jsonl")));
    drop(log.attempt(&Fixture::new().attempt(1)).await.unwrap());
}

#[test]
fn threads_that_write_themselves_keep_one_chain_beside_the_writers() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_with(&folder, Fsync::Never).unwrap();
    let each = |thread: u32| {
        let (log, fixture) = (&log, Fixture::new());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                for number in 0..50 {
                    let record = fixture.attempt(100 * thread + number);
                    drop(log.attempt(&record).await.unwrap());
                }
            });
        }
    };
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            scope.spawn(each(thread));
        }
    });
    drop(log);
    let lines = check_chain(&text(&folder));
    assert_eq!(lines.len(), 400);
    for number in (1..=4).flat_map(|thread| 100 * thread..100 * thread + 50) {
        let of_it = lines.iter().filter(|line| line["attempt"] == number);
        let kinds: Vec<&Value> = of_it.map(|line| &line["kind"]).collect();
        assert_eq!(kinds, ["attempt", "outcome"], "{number}");
    }
}

#[tokio::test]
async fn what_one_thread_hands_in_together_is_written_with_one_call() {
    let (folder, fixture) = (TempDir::new().unwrap(), Fixture::new());
    let log = open_with(&folder, Fsync::Never).unwrap();
    let record = fixture.attempt(1);
    let size = || std::fs::metadata(file(&folder)).unwrap().len();
    let before = size();
    let mut first = Box::pin(log.attempt(&record));
    let mut second = Box::pin(log.attempt(&record));
    assert!(first.as_mut().now_or_never().is_none(), "the others' turn comes first");
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(size(), before);
    let (first, line) = (first.await.unwrap(), size() - before);
    // Written with the first, so that it need not wait now.
    let second = second.now_or_never().expect("its line is in the file").unwrap();
    assert!(line > 2 * 500 && size() == before + line, "{line}");
    drop((first, second));
    drop(log);
    assert_eq!(check_chain(&text(&folder)).len(), 4);
}

#[test]
fn a_runtime_that_ends_before_a_line_is_written_holds_up_nobody_after_it() {
    let (folder, fixture) = (TempDir::new().unwrap(), Fixture::new());
    let log = open_with(&folder, Fsync::Never).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (record, first) = (fixture.attempt(1), runtime());
    let mut attempt = Box::pin(log.attempt(&record));
    first.block_on(async { assert!(attempt.as_mut().now_or_never().is_none()) });
    drop(first);
    assert_eq!(attempt.now_or_never().expect("it is told").err(), Some(AuditDown));
    let second = fixture.attempt(2);
    let written =
        async { tokio::time::timeout(Duration::from_secs(60), log.attempt(&second)).await };
    drop(runtime().block_on(written).expect("its line is written").unwrap());
    drop(log);
    let lines = check_chain(&text(&folder));
    assert!(lines.len() == 2 && lines.iter().all(|line| line["attempt"] == 2), "{lines:?}");
}

#[tokio::test]
async fn a_log_without_syncs_that_cannot_be_written_says_so_and_recovers() {
    let (folder, fixture) = (TempDir::new().unwrap(), Fixture::new());
    let log = open_with(&folder, Fsync::Never).unwrap();
    drop(log.attempt(&fixture.attempt(1)).await.unwrap());
    let path = folder.path().join("audit");
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "in the way").unwrap();
    for _ in 0..2 {
        assert_eq!(log.attempt(&fixture.attempt(1)).await.err(), Some(AuditDown));
        assert!(!log.is_writable());
    }
    assert!(log.failures() > 1);
    std::fs::remove_file(&path).unwrap();
    drop(log.attempt(&fixture.attempt(1)).await.unwrap());
    assert!(log.is_writable());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_behind_is_left_to_the_thread_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_with(&folder, Fsync::Never).unwrap();
    let book = log.book.as_ref().unwrap();
    let line = || {
        let waiter = Waiter::Caller(oneshot::channel().0);
        Line { json: b"{\"kind\":\"test\"}".to_vec(), waiter }
    };
    let gives_back =
        || book.desk.write(vec![line()], &book.outcomes).is_err_and(|it| it.len() == 1);
    assert!(!gives_back());
    book.desk.rest();
    assert!(gives_back());
    drop(log.attempt(&Fixture::new().attempt(1)).await.unwrap());
    tokio::time::advance(writer::REST).await;
    assert!(!gives_back());
}

#[tokio::test]
async fn an_outcome_wakes_the_thread_only_if_it_sleeps() {
    let outcomes = Outcomes::default();
    let (lines, _waiting) = mpsc::channel(2);
    let closed = |place| Closed { json: Vec::new(), _place: place };
    outcomes.add(closed(lines.clone().reserve_owned().await.unwrap()));
    assert!(!outcomes.wake_me(std::thread::current()), "there is something to write");
    assert_eq!(outcomes.take().len(), 1);
    assert!(outcomes.wake_me(std::thread::current()));
    outcomes.add(closed(lines.reserve_owned().await.unwrap()));
    // Without the word of the outcome this would wait for ever.
    std::thread::park();
}

#[tokio::test]
async fn a_log_that_is_off_lets_attempts_through_and_leaves_no_file() {
    let (folder, fixture) = (TempDir::new().unwrap(), Fixture::new());
    let path = folder.path().join("audit");
    let log = AuditLog::open(&AuditConfig { off: true, path, ..kept() }).unwrap();
    let recorded = log.attempt(&fixture.attempt(1)).await.unwrap();
    assert_eq!(recorded.upstream(), Some(&UpstreamId::new("cloud")));
    recorded.close(&Outcome::abandoned());
    log.settle(Duration::from_secs(60)).await;
    assert_eq!((log.state(), log.is_writable()), (AuditState::Off, true));
    assert_eq!((log.path(), log.failures()), (None, 0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
