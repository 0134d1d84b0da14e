//! Secrets that stand in files: `admin.token_file` and the like set the key without `_file`.
//!
//! As everywhere, the stronger layer counts: a file that the environment names replaces a secret of the configuration
//! file. Both in one layer are refused.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    load::{ConfigError, Loaded, Origin},
    settings::{SETTINGS, Setting},
};

/// A file that is larger holds something else.
const MAX_BYTES: u64 = 64 << 10;
/// More files that nobody else should read; what is in them is read elsewhere, again and again.
const PRIVATE_FILES: [&str; 3] = ["broker.password_file", "broker.tls_key_file", "listen.tls_key_file"];

/// The setting that a file's content is for; the broker's password and user are read at each attempt to connect.
fn meant(setting: &Setting) -> Option<&'static Setting> {
    let key = setting.key.strip_suffix("_file")?;
    Setting::find(setting.section, key).filter(|meant| meant.secret && meant.name() != "broker.password")
}

/// Reads the files that are named, and notes what is wrong with them without stopping the lobby.
///
/// # Errors
/// A secret that is given twice, or a file that cannot be read or holds none.
pub fn settle(loaded: &mut Loaded) -> Result<(), ConfigError> {
    for setting in SETTINGS {
        let Some(meant) = meant(setting) else { continue };
        let (file_key, key) = (setting.name(), meant.name());
        let (Some((path, by)), Some((direct, origin))) =
            (loaded.values.get(&file_key).cloned(), loaded.values.get(&key))
        else {
            continue;
        };
        if path.is_empty() {
            continue;
        }
        let given = if direct.is_empty() { 0 } else { origin.rank() };
        if given == by.rank() {
            return Err(ConfigError::Conflict(format!(
                "`{key}` and `{file_key}` say the same thing twice ({by}): keep one of them"
            )));
        }
        if given > by.rank() {
            // Whoever looks at the values must not take it for the one that counts.
            let origin = origin.clone();
            loaded.values.insert(file_key, (String::new(), origin));
            continue;
        }
        let wrong = |problem: String| ConfigError::BadValue {
            key: file_key.clone(),
            value: format!("{path:?}"),
            origin: by.to_string(),
            problem,
        };
        let secret = read(Path::new(&path)).map_err(wrong)?;
        meant.apply(&mut loaded.config, &secret).map_err(|problem| ConfigError::BadValue {
            key,
            value: "***".to_owned(),
            origin: format!("file {path}"),
            problem,
        })?;
        let origin = Origin::SecretFile { path: PathBuf::from(&path), by: Box::new(by) };
        loaded.values.insert(meant.name(), (secret, origin));
    }
    let readers = SETTINGS.iter().filter(|s| meant(s).is_some() || PRIVATE_FILES.contains(&&*s.name()));
    let named = readers.filter_map(|setting| Some((setting.name(), &loaded.values.get(&setting.name())?.0)));
    let open: Vec<_> = named.filter_map(|(key, path)| warning(&key, Path::new(path))).collect();
    loaded.warnings.extend(open);
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!("the file has {length} bytes, limit {MAX_BYTES}: is it the right one?"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text".to_owned())?;
    let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() { Err("the file is empty".to_owned()) } else { Ok(secret.to_owned()) }
}

fn warning(key: &str, path: &Path) -> Option<String> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        format!(
            "`{key}`: everybody on this machine may read {} (mode {:o}); chmod o-r it",
            path.display(),
            mode & 0o777
        )
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::{Sources, effective, load};

    fn file(directory: &Path, content: &[u8], mode: u32) -> String {
        let path = directory.join(format!("secret-{}-{mode:o}", content.len()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).open(&path).expect("a file");
        file.write_all(content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
        path.display().to_string()
    }

    fn loaded(environment: &[(&str, &str)], flags: &[String]) -> Result<Loaded, ConfigError> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&Sources { environment, flags: flags.to_vec(), ..Sources::default() })
    }

    #[test]
    fn every_secret_can_stand_in_a_file_and_what_is_shown_is_where_it_came_from() {
        for setting in
            SETTINGS.iter().filter(|setting| setting.secret && setting.name() != "broker.password_command")
        {
            assert!(
                Setting::find(setting.section, &format!("{}_file", setting.key)).is_some(),
                "{} has no file",
                setting.name()
            );
        }
        let directory = tempfile::tempdir().expect("a directory");
        for ending in ["", "\n", "\r\n"] {
            let path = file(directory.path(), format!("hunter2{ending}").as_bytes(), 0o600);
            let loaded =
                loaded(&[("LOBBY_ADMIN__TOKEN_FILE", &path), ("LOBBY_AUTH__SECRET_FILE", &path)], &[])
                    .expect("accepted");
            assert_eq!(loaded.config.admin_token.expose(), "hunter2");
            assert_eq!(loaded.config.secret.expose(), "hunter2");
            assert_eq!(loaded.warnings, Vec::<String>::new());
            let shown = effective(&loaded);
            assert!(!shown.contains("hunter2"), "{shown}");
            let line = shown.lines().find(|line| line.starts_with("admin.token ")).expect("a line");
            assert!(
                line.contains("***") && line.contains(&path) && line.contains("LOBBY_ADMIN__TOKEN_FILE"),
                "{line}"
            );
        }
        let path = file(directory.path(), b"amqp://u:hunter2@mq:1/v\n", 0o600);
        let loaded = loaded(&[("LOBBY_BROKER__URL_FILE", &path)], &[]).expect("accepted");
        assert_eq!(loaded.config.broker_url.password(), "hunter2");
        assert!(!effective(&loaded).contains("hunter2"));
    }

    #[test]
    fn the_stronger_layer_counts_and_twice_in_one_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = file(directory.path(), b"of-the-file", 0o600);
        let token = |loaded: Loaded| loaded.config.admin_token.expose().to_owned();
        let direct = ["admin.token=direct".to_owned()];
        let by_flag = [format!("admin.token_file={path}")];
        assert_eq!(
            loaded(&[("LOBBY_ADMIN__TOKEN_FILE", &path)], &direct).map(token),
            Ok("direct".to_owned())
        );
        assert_eq!(
            loaded(&[("LOBBY_ADMIN__TOKEN", "direct")], &by_flag).map(token),
            Ok("of-the-file".to_owned())
        );
        let twice = [("LOBBY_ADMIN__TOKEN_FILE", &*path), ("LOBBY_ADMIN__TOKEN", "direct")];
        let error = loaded(&twice, &[]).expect_err("twice").to_string();
        assert!(error.contains("`admin.token`") && error.contains("`admin.token_file`"), "{error}");
        assert!(!error.contains("direct"), "{error}");
    }

    #[test]
    fn a_file_without_a_secret_is_refused_with_its_key_and_where_it_was_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("missing").display().to_string();
        for (path, says) in [
            (missing, "No such file"),
            (file(directory.path(), b"", 0o600), "empty"),
            (file(directory.path(), b"\n", 0o600), "empty"),
            (file(directory.path(), b"\xff\xfe\xfd", 0o600), "UTF-8"),
            (file(directory.path(), &[b'x'; 70_000], 0o600), "limit 65536"),
        ] {
            let error = loaded(&[("LOBBY_AUTH__SECRET_FILE", &path)], &[]).expect_err(says).to_string();
            let names = ["auth.secret_file", "LOBBY_AUTH__SECRET_FILE", &path, says];
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_read_is_warned_about() {
        let directory = tempfile::tempdir().expect("a directory");
        for (key, mode, warned) in [
            ("LOBBY_ADMIN__TOKEN_FILE", 0o644, true),
            ("LOBBY_ADMIN__TOKEN_FILE", 0o640, false),
            ("LOBBY_BROKER__PASSWORD_FILE", 0o604, true),
        ] {
            let path = file(directory.path(), b"hunter2", mode);
            let warnings = loaded(&[(key, &path)], &[]).expect("accepted").warnings;
            assert_eq!(warnings.len(), usize::from(warned), "{key} {mode:o}: {warnings:?}");
            assert!(
                warnings.iter().all(|text| text.contains(&path) && !text.contains("hunter2")),
                "{warnings:?}"
            );
        }
    }
}
