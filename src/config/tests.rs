//! Precedence, messages with their place, defaults.

use super::*;
use crate::types::FaultKind;
use std::path::Path;

fn dirs() -> Dirs {
    Dirs::new(&|name| (name == "HOME").then(|| "/home/ann b".to_owned()), true)
}

fn resolve(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: Option<&str>) -> Result<Settings, Fault> {
    let environment = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
    let flags = flags.iter().map(|(name, text)| (*name, (*text).to_owned()));
    let given = Given::new(flags, &environment, file.map(|text| (Path::new("/etc/h.toml"), text)))?;
    Settings::resolve(&given, &dirs())
}

fn error(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: Option<&str>) -> String {
    let fault = resolve(flags, variables, file).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Invalid);
    fault.to_string()
}

#[test]
fn defaults_lie_in_the_users_directories() {
    let settings = resolve(&[], &[], None).unwrap();
    assert_eq!(settings.store, "file:///home/ann%20b/.local/share/holdfast/store");
    assert!(settings.store_is_default);
    assert_eq!(settings.cache_of(&Identity::parse("group/name").unwrap()), Path::new("/home/ann b/.cache/holdfast/group~name"));
    let long = |last: char| {
        settings.cache_of(&Identity::parse(&format!("{}/{}/{}{last}", "c".repeat(63), "n".repeat(63), "v".repeat(252))).unwrap())
    };
    assert!(long('a').file_name().is_some_and(|name| name.len() <= 200) && long('a') != long('b'), "a claim's name has 253 bytes");
    assert_eq!(settings.keys, Path::new("/home/ann b/.config/holdfast/keys"));
    assert_eq!(settings.run_dir, Path::new("/run/holdfast"));
    assert_eq!(settings.read_policy().unwrap(), Policy::built_in());
    assert_eq!((settings.hydrate, settings.log_format, settings.metrics), (Hydrate::Lazy, LogFormat::Text, None));
}

#[test]
fn directories_follow_xdg_ignore_relative_ones_and_need_a_home() {
    let xdg = |name: &str| (name != "HOME").then(|| format!("/x/{name}"));
    let dirs = Dirs::new(&xdg, false);
    assert_eq!(dirs.store().unwrap(), Path::new("/x/XDG_DATA_HOME/holdfast/store"));
    assert_eq!(dirs.run().unwrap(), Path::new("/x/XDG_RUNTIME_DIR/holdfast"));
    assert_eq!(dirs.config_files(), [Path::new("/x/XDG_CONFIG_HOME/holdfast/config.toml"), Path::new("/etc/holdfast/config.toml")]);
    let none = Dirs::new(&|_| Some("relative".to_owned()), false);
    assert!(none.cache().unwrap_err().to_string().contains("--cache"));
    assert!(none.run().unwrap_err().to_string().contains("--run-dir"));
    let system = Dirs::new(&|_| None, true);
    assert_eq!(system.store().unwrap(), Path::new("/var/lib/holdfast/store"));
    assert_eq!(system.cache().unwrap(), Path::new("/var/cache/holdfast"));
    assert_eq!(system.keys().unwrap(), Path::new("/etc/holdfast/keys"));
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let file = Some("capacity = \"1GiB\"\nlog-format = \"json\"\n");
    let capacity = |flags: &[(&'static str, &str)], variables: &[(&str, &str)]| resolve(flags, variables, file).unwrap().capacity;
    assert_eq!(capacity(&[], &[]), Some(1 << 30));
    assert_eq!(capacity(&[], &[("HOLDFAST_CAPACITY", "")]), Some(1 << 30));
    assert_eq!(capacity(&[], &[("HOLDFAST_CAPACITY", "2GiB")]), Some(2 << 30));
    assert_eq!(capacity(&[("capacity", "3GiB")], &[("HOLDFAST_CAPACITY", "2GiB")]), Some(3 << 30));
    assert_eq!(resolve(&[], &[], file).unwrap().log_format, LogFormat::Json);
    let budget = |flags: &[(&'static str, &str)]| resolve(flags, &[], Some("request-budget = 360")).unwrap().request_budget;
    assert_eq!(budget(&[]), std::num::NonZeroU64::new(360).map(RequestBudget::PerHour));
    assert_eq!(budget(&[("request-budget", "none")]), Some(RequestBudget::Unbounded));
}

#[test]
fn wrong_value_is_said_with_its_place_and_what_is_allowed() {
    let flag = error(&[("hydrate", "fast")], &[], None);
    assert_eq!(flag, "--hydrate: `fast` is not right; allowed: lazy, eager or metadata");
    let variable = error(&[], &[("HOLDFAST_CACHE_SIZE", "lots")], None);
    assert!(variable.starts_with("HOLDFAST_CACHE_SIZE: `lots` is not right; allowed: a size such as `10GiB`"), "{variable}");
    let file = error(&[], &[], Some("metrics = \"9464\""));
    assert!(file.starts_with("`metrics` in /etc/h.toml: `9464` is not right; allowed: an address and a port"), "{file}");
    assert!(error(&[("request-budget", "0")], &[], None).contains("allowed: a number of requests an hour"));
    assert!(error(&[("store", "")], &[], None).starts_with("--store: `` is not right"));
    for bad in ["0%", "101%", "0GiB", "10", "10 gib", "-1GiB", "99999999999TiB"] {
        assert!(error(&[("cache-size", bad)], &[], None).contains(bad), "{bad}");
    }
}

#[test]
fn path_of_the_file_lies_beside_it_and_a_tilde_is_refused() {
    let policy = |flags: &[(&'static str, &str)], file: &str| resolve(flags, &[], Some(file)).unwrap().policy;
    assert_eq!(policy(&[], "policy = \"p\""), Some("/etc/p".into()));
    assert_eq!(policy(&[], "policy = \"/x/p\""), Some("/x/p".into()));
    assert_eq!(policy(&[("policy", "p")], "policy = \"q\""), Some("p".into()), "a flag's lies where the command runs");
    let tilde = error(&[], &[("HOLDFAST_CACHE", "~/c")], None);
    assert_eq!(tilde, "HOLDFAST_CACHE: `~/c` is not right; allowed: a path written out (only a shell knows `~`)");
}

#[test]
fn unknown_key_names_the_nearest_one() {
    let slip = error(&[], &[], Some("cache_size = \"1GiB\""));
    assert!(slip.starts_with("/etc/h.toml: there is no setting `cache_size`; did you mean `cache-size`? (settings: store,"), "{slip}");
    assert!(error(&[], &[], Some("metrcs = 1")).contains("did you mean `metrics`?"));
    assert!(!error(&[], &[], Some("colour = 1")).contains("did you mean"));
    assert!(error(&[], &[], Some("[store]\nurl = 1")).contains("`store` must be a text, store = \"..\", and is of type table"));
    assert!(error(&[], &[], Some("store = ")).starts_with("/etc/h.toml: TOML parse error"));
}

#[test]
fn sizes_read_and_show() {
    assert_eq!(SizeLimit::parse("20%"), Some(SizeLimit::Percent(20)));
    assert_eq!(SizeLimit::parse("500 MB"), Some(SizeLimit::Bytes(500_000_000)));
    assert_eq!(SizeLimit::default_cache(1 << 40), 10 << 30);
    assert_eq!(SizeLimit::default_cache(1000 << 20), 200 << 20, "a small disk: its share");
    for (bytes, shown) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (10 << 20, "10.0 MiB"), (150 << 30, "150 GiB"), (3 << 40, "3.00 TiB")]
    {
        assert_eq!(show_size(bytes), shown);
    }
}

#[test]
fn policy_file_errors_name_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    let settings = Settings { policy: Some(path.clone()), ..resolve(&[], &[], None).unwrap() };
    assert!(settings.read_policy().unwrap_err().to_string().contains("policy cannot be read: No such file"));
    std::fs::write(&path, "*.db scheduled 4h\n* continuous 1s\n").unwrap();
    let text = settings.read_policy().unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}: policy line 1: `4h` is no schedule", path.display())), "{text}");
}
