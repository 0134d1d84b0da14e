//! What is different between the configuration in force and one that was read again. Pure.

use super::{
    load::Loaded,
    print::shown,
    settings::{SETTINGS, Setting},
};

/// Keys that count as soon as they are read again, beside those of `auth` and of the certificate.
const RELOADED: [&str; 11] = [
    "listen.max_connections",
    "listen.max_connections_per_address",
    "listen.max_accepts_per_second",
    "listen.accept_burst",
    "listen.max_accepts_per_second_per_address",
    "listen.accept_burst_per_address",
    "admin.token",
    "admin.token_file",
    "shutdown.drain_timeout",
    "shutdown.drain_window",
    "log.level",
];

/// A key whose value is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// Values as people may see them.
    pub old: String,
    pub new: String,
    /// Whether it counts from now on; else from the next start.
    pub counts: bool,
}

/// What `new` changes.
pub fn changes(old: &Loaded, new: &Loaded) -> Vec<Change> {
    let changed = SETTINGS.iter().filter_map(|setting| {
        let key = setting.name();
        let (before, after) = (&old.values.get(&key)?.0, &new.values.get(&key)?.0);
        (before != after).then(|| Change {
            old: shown(old, setting, before),
            new: shown(new, setting, after),
            counts: counts(setting, (before, after), new),
            key,
        })
    });
    changed.collect()
}

fn counts(setting: &Setting, (before, after): (&str, &str), new: &Loaded) -> bool {
    let key = setting.name();
    match setting.section {
        // Without a login there is nothing to replace the old one with.
        "auth" => new.config.has_login(),
        // Listeners do not begin to speak TLS, nor cease to.
        "listen" if key.starts_with("listen.tls_") => !before.is_empty() && !after.is_empty(),
        _ => RELOADED.contains(&&*key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn loaded(flags: &[&str]) -> Loaded {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        load(&Sources { flags, ..Sources::default() }).expect("accepted")
    }

    #[test]
    fn each_change_is_told_with_both_values_and_whether_it_counts_now() {
        for (old, new, want) in [
            ("listen.max_connections=5", "listen.max_connections=6", Some(("5", "6", true))),
            ("log.level=info", "log.level=debug", Some(("info", "debug", true))),
            ("auth.secret=a", "auth.secret=b", Some(("***", "***", true))),
            ("auth.secret=a", "auth.secret=", Some(("***", "(none)", false))),
            ("admin.token=", "admin.token=b", Some(("(none)", "***", true))),
            ("broker.prefetch=5", "broker.prefetch=6", Some(("5", "6", false))),
            (
                "broker.url=amqp://u:hunter2@a",
                "broker.url=amqp://u:hunter3@a",
                Some(("amqp://u:***@a:5672/%2f", "amqp://u:***@a:5672/%2f", false)),
            ),
            ("log.level=info", "log.level=info", None),
        ] {
            let changes = changes(&loaded(&[old]), &loaded(&[new]));
            let got: Vec<_> = changes.iter().map(|c| (&*c.old, &*c.new, c.counts)).collect();
            assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{old} → {new}");
        }
    }

    #[test]
    fn every_key_that_counts_at_once_is_a_setting() {
        for key in RELOADED {
            assert!(SETTINGS.iter().any(|setting| setting.name() == key), "{key}");
        }
    }

    #[test]
    fn another_certificate_counts_at_once_and_a_first_one_at_the_next_start() {
        let with = |cert: &str, key: &str| {
            loaded(&[&format!("listen.tls_cert_file={cert}"), &format!("listen.tls_key_file={key}")])
        };
        let counts = |old: &Loaded, new: &Loaded| changes(old, new).iter().all(|change| change.counts);
        assert!(counts(&with("a", "b"), &with("c", "d")));
        assert!(!counts(&with("", ""), &with("c", "d")));
        assert!(!counts(&with("a", "b"), &with("", "")));
    }
}
