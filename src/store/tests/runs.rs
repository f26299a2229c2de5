//! Records of runs, and records of older versions.

use super::*;

#[test]
fn older_records_are_upgraded_step_by_step() {
    use crate::store::file::{UPGRADES, Upgrade, decode_with};
    assert_eq!(UPGRADES.len() + 1, SCHEMA as usize);
    // Version 1 had `txt`, version 2 `text` in capitals.
    let renamed: Upgrade = |record| {
        let old = record["txt"].take();
        record["text"] = old.as_str().map(str::to_uppercase).into();
        Ok(())
    };
    let lower: Upgrade = |record| {
        record["text"] = record["text"].as_str().map(str::to_lowercase).into();
        Ok(())
    };
    let steps = [renamed, lower];
    for (version, json) in [(1, "{\"txt\":\"Old\"}"), (2, "{\"text\":\"OLD\"}"), (3, "{\"text\":\"old\"}")] {
        let text = format!("{{\"schema\":{version},\"record\":{json}}}");
        assert_eq!(decode_with::<Rec>(text.as_bytes(), &steps).unwrap(), rec("old"), "{version}");
    }
    let fails: Upgrade = |_| Err(Error::new(ErrorKind::Corrupt, "upgrade a record"));
    let text = b"{\"schema\":1,\"record\":{\"txt\":\"x\"}}";
    assert_eq!(decode_with::<Rec>(text, &[renamed, fails]).unwrap_err().step(), "upgrade a record");
    assert_eq!(decode_with::<Rec>(text, &[]).unwrap_err().kind(), ErrorKind::Corrupt);
    let newer = b"{\"schema\":4,\"record\":{\"text\":\"x\"}}";
    assert_eq!(decode_with::<Rec>(newer, &steps).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_run_is_noted_once_and_then_replaced() {
    let dirs = Dirs::new();
    let store = dirs.store();
    for kind in [Durable, Ephemeral] {
        let mut run = run_record();
        // One that fits into a link, and one that does not.
        for skipped in [Vec::new(), vec!["x".repeat(5000)]] {
            store.create_instance(&id("a"), kind, &rec("x")).unwrap();
            run.skipped = skipped;
            assert!(store.note_run(&id("a"), kind, &run).unwrap());
            assert!(!store.note_run(&id("a"), kind, &run_record()).unwrap());
            assert_eq!(store.load_run(&id("a")).unwrap(), Some(run.clone()));
            store.save_run(&id("a"), kind, &run_record()).unwrap();
            assert_eq!(store.load_run(&id("a")).unwrap(), Some(run_record()));
            store.clear_run(&id("a")).unwrap();
            assert_eq!(store.load_run(&id("a")).unwrap(), None);
            store.clear_run(&id("a")).unwrap();
            store.remove(&id("a"), kind).unwrap();
        }
    }
    assert!(dirs.tree().iter().all(|p| !p.contains("/a")), "{:?}", dirs.tree());
}

#[test]
fn runs_without_an_instance_are_found_and_removed() {
    let dirs = Dirs::new();
    let store = dirs.store();
    for (name, kind) in [("a", Durable), ("b", Durable), ("c", Ephemeral)] {
        store.create_instance(&id(name), kind, &rec("x")).unwrap();
        store.save_run(&id(name), kind, &run_record()).unwrap();
    }
    assert_eq!(store.list_dead_runs().unwrap(), []);
    std::fs::remove_dir_all(dirs.state().join("instances/default/a")).unwrap();
    assert_eq!(store.list_dead_runs().unwrap(), [id("a")]);
    for name in ["a", "b", "c"] {
        store.remove_dead_run(&id(name)).unwrap();
    }
    assert_eq!(store.list_dead_runs().unwrap(), []);
    assert_eq!(store.load_run(&id("a")).unwrap(), None);
    assert_eq!(store.list().unwrap(), [id("b"), id("c")]);
    assert!(store.load_run(&id("b")).unwrap().is_some() && store.load_run(&id("c")).unwrap().is_some());
}
