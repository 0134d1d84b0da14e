//! Every target over its committed corpus, over each finding of the past, and over mutations of both: what CI runs of
//! fuzzing without libFuzzer.

use std::{fs, path::Path};

use lobby_fuzz::TARGETS;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// All files of the corpus together must stay smaller than this many bytes: they are cloned with the repository.
const CORPUS_LIMIT: u64 = 200 * 1024;

fn directory(target: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory(target)).expect("a directory for each target");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

#[test]
fn every_target_has_a_corpus_and_stands_it() {
    let mut bytes = 0;
    for (name, run) in TARGETS {
        let files = corpus(name);
        assert!(files.len() >= 3, "{name} has {} files", files.len());
        bytes += files.iter().map(|file| file.len() as u64).sum::<u64>();
        files.iter().for_each(|file| run(file));
        run(b"");
    }
    assert!(bytes < CORPUS_LIMIT, "the corpus has {bytes} bytes");
}

#[test]
fn every_directory_of_the_corpus_and_every_program_is_a_target() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (place, suffix) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(place)).expect("readable");
        let mut found: Vec<_> = entries
            .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
            .map(|name| name.trim_end_matches(suffix).to_owned())
            .collect();
        found.sort();
        assert_eq!(found, names, "{place}");
    }
}

/// One change of the bytes, as libFuzzer makes them.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Double(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        (place(), any::<u8>()).prop_map(|(at, length)| Change::Cut(at, length)),
        (place(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (place(), any::<u8>()).prop_map(|(at, length)| Change::Double(at, length)),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    let range = |at: &prop::sample::Index, length: u8, bytes: &[u8]| {
        let start = at.index(bytes.len() + 1);
        start..(start + usize::from(length)).min(bytes.len())
    };
    match change {
        Change::Flip(at, bits) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        Change::Flip(..) => {}
        Change::Cut(at, length) => drop(bytes.drain(range(at, *length, bytes))),
        Change::Insert(at, more) => drop(bytes.splice(range(at, 0, bytes), more.iter().copied())),
        Change::Double(at, length) => {
            let part = bytes[range(at, *length, bytes)].to_vec();
            let end = at.index(bytes.len() + 1);
            drop(bytes.splice(end..end, part));
        }
    }
}

#[test]
fn every_target_stands_mutations_of_its_corpus() {
    for (name, run) in TARGETS {
        let files = corpus(name);
        let cases = Config { cases: 2000, failure_persistence: None, ..Config::default() };
        let mutated = (prop::sample::select(files), prop::collection::vec(change(), 1..5));
        let outcome = TestRunner::new(cases).run(&mutated, |(mut bytes, changes)| {
            changes.iter().for_each(|change| apply(change, &mut bytes));
            run(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
