//! Rules and policies, good and bad.

use super::*;
use crate::error::ErrorKind;

#[test]
fn rules_round_trip_through_their_text() {
    for text in ["a *:* rwm", "b 8:0 r", "c 136:* rw", "c *:5 m", "b 4095:1048575 wm", "c 0:0 rwm"] {
        let rule: DeviceRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), text);
    }
    assert_eq!("a".parse::<DeviceRule>().unwrap(), DeviceRule::ALL);
    assert_eq!(" c  1:3\tmwr ".parse::<DeviceRule>().unwrap().to_string(), "c 1:3 rwm");
}

#[test]
fn bad_rules_are_refused_with_their_text() {
    let cases = [
        ("", "is empty"),
        ("b", "of the form"),
        ("c 1:3", "of the form"),
        ("c 1:3 rwm x", "of the form"),
        ("c 1:3 rwm allow", "of the form"),
        ("d 1:3 rwm", "its type"),
        ("C 1:3 rwm", "its type"),
        ("c 13 rwm", "of the form `MAJOR:MINOR`"),
        ("c 1:3:4 rwm", "its minor number is neither"),
        ("c :3 rwm", "its major number is neither"),
        ("c 1: rwm", "its minor number is neither"),
        ("c +1:3 rwm", "its major number is neither"),
        ("c -1:3 rwm", "its major number is neither"),
        ("c 0x1:3 rwm", "its major number is neither"),
        ("c **:3 rwm", "its major number is neither"),
        ("c 4096:3 rwm", "its major number is above 4095"),
        ("c 1:1048576 rwm", "its minor number is above 1048575"),
        ("c 99999999999999999999:3 rwm", "its major number is above 4095"),
        ("c 1:3 x", "its access"),
        ("c 1:3 rr", "its access"),
        ("c 1:3 RW", "its access"),
    ];
    for (text, why) in cases {
        let e = text.parse::<DeviceRule>().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{text}");
        assert!(e.to_string().contains(why) && e.to_string().contains(text), "{text}: {e}");
    }
    let long = format!("c 1:3 rwm\n{}", "x".repeat(500));
    let e = long.parse::<DeviceRule>().unwrap_err().to_string();
    assert!(e.len() < 300 && !e.contains('\n'), "{e}");
    assert_eq!("".parse::<DeviceAccess>().unwrap_err().kind(), ErrorKind::InvalidConfig);
    let new = |major, minor| DeviceRule::new(DeviceKind::Char, major, minor, DeviceAccess::ALL);
    assert!(new(4095, 1_048_575).is_ok());
    assert!(new(4096, 0).unwrap_err().to_string().contains("c 4096:0 rwm"));
    assert!(new(0, 1 << 20).unwrap_err().to_string().contains("1048575"));
}

#[test]
fn the_last_rule_counts_for_each_access_by_itself() {
    let rule = |text: &str| text.parse::<DeviceRule>().unwrap();
    let may = |p: &DevicePolicy, access: &str| p.allows(DeviceKind::Char, 1, 5, access.parse().unwrap());
    let policy = DevicePolicy::deny_all().allow(rule("c 1:5 rwm")).deny(rule("c 1:5 w"));
    assert!(may(&policy, "r") && may(&policy, "rm") && !may(&policy, "w") && !may(&policy, "rw"));
    let policy = policy.deny(rule("a")).allow(rule("c *:5 w"));
    assert!(may(&policy, "w") && !may(&policy, "r"));
    // Twice, and contradicting: no error, and the last one it is.
    let twice = DevicePolicy::allow_all().deny(rule("c 1:5 r")).deny(rule("c 1:5 r")).allow(rule("c 1:5 r"));
    twice.validate().unwrap();
    assert!(may(&twice, "rwm"));
    assert!(!DevicePolicy::deny_all().allow(rule("c 1:5 r")).allows(
        DeviceKind::All,
        1,
        5,
        DeviceAccess::READ
    ));
}

#[test]
fn policies_are_text_in_json_and_bad_ones_are_refused() {
    let policy = DevicePolicy::deny_all().allow("c 1:3 rwm".parse().unwrap()).deny(DeviceRule::ALL);
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(json, r#"{"default":"deny","rules":["allow c 1:3 rwm","deny a *:* rwm"]}"#);
    assert_eq!(serde_json::from_str::<DevicePolicy>(&json).unwrap(), policy);
    let bad = [
        r#"{"rules":[]}"#,
        r#"{"default":"maybe"}"#,
        r#"{"default":"deny","rules":["c 1:3 rwm"]}"#,
        r#"{"default":"deny","rules":["allow"]}"#,
        r#"{"default":"deny","rules":["allow c 4096:3 rwm"]}"#,
        r#"{"default":"deny","rule":[]}"#,
    ];
    for bad in bad {
        serde_json::from_str::<DevicePolicy>(bad).unwrap_err();
    }
}

#[test]
fn the_standard_policy_is_that_of_lxc() {
    let policy = DevicePolicy::standard();
    let texts: Vec<String> = policy.lines().iter().map(ToString::to_string).collect();
    assert_eq!(texts[0], "allow a *:* m");
    assert_eq!(texts[11], "allow c 136:* rwm");
    let may = |kind, major, minor, access| policy.allows(kind, major, minor, access);
    for (major, minor) in [(1, 3), (1, 9), (5, 2), (10, 200), (10, 229), (136, 7)] {
        assert!(may(DeviceKind::Char, major, minor, DeviceAccess::ALL), "{major}:{minor}");
    }
    for (major, minor) in [(1, 1), (1, 2), (1, 11), (10, 232), (4, 0)] {
        assert!(!may(DeviceKind::Char, major, minor, DeviceAccess::READ), "{major}:{minor}");
        assert!(may(DeviceKind::Char, major, minor, DeviceAccess::MKNOD), "{major}:{minor}");
    }
    assert!(may(DeviceKind::Block, 8, 0, DeviceAccess::MKNOD));
    assert!(!may(DeviceKind::Block, 8, 0, DeviceAccess::READ));
}

#[test]
fn too_long_policies_are_refused() {
    let rule = |major, minor| DeviceRule::new(DeviceKind::Char, major, minor, DeviceAccess::ALL).unwrap();
    let many = (0..1025).fold(DevicePolicy::deny_all(), |p, n| p.allow(rule(Some(n), Some(1))));
    assert!(many.validate().unwrap_err().to_string().contains("1025 rules"));
    // Every pair has a verdict of its own.
    let cross = (0..512).fold(DevicePolicy::deny_all(), |p, n| {
        let access = |text: &str| text.parse::<DeviceAccess>().unwrap();
        let one = |major, minor, a| DeviceRule::new(DeviceKind::Char, major, minor, access(a)).unwrap();
        p.allow(one(Some(n), None, "r")).allow(one(None, Some(n), "w"))
    });
    assert!(cross.validate().unwrap_err().to_string().contains("instructions"));
}
