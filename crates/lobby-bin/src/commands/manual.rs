//! `lobby completions` and `lobby man`: made from the command line's own description.

use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::{Failure, cli::Cli, print};

/// The script that `shell` reads.
pub fn completions(shell: Shell) -> Result<String, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lobby", &mut script);
    Ok(String::from_utf8(script).context("the script is not text")?)
}

/// Prints the page of `lobby`, or writes `lobby.1`, `lobby-publish.1` and so on to a directory.
///
/// # Errors
/// A directory or file that cannot be written.
pub fn man(directory: Option<&Path>) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let Some(directory) = directory else { return print(&page(command)?) };
    let unwritable = |error: std::io::Error, path: &Path| Failure {
        code: Failure::FILE,
        error: anyhow::Error::new(error).context(format!("write {}", path.display())),
    };
    std::fs::create_dir_all(directory).map_err(|error| unwritable(error, directory))?;
    let mut pages = Vec::new();
    collect(command, &mut pages);
    for command in pages {
        let path = directory.join(format!("{}.1", command.get_display_name().unwrap_or("lobby")));
        std::fs::write(&path, page(command)?).map_err(|error| unwritable(error, &path))?;
    }
    Ok(())
}

fn collect(command: Command, pages: &mut Vec<Command>) {
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for below in command.get_subcommands().filter(shown) {
        collect(below.clone(), pages);
    }
    pages.push(command);
}

fn page(command: Command) -> anyhow::Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    String::from_utf8(text).context("the page is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_every_command_and_a_setting_of_its_own() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(shell).map_err(|failure| failure.error).expect("a script");
            for word in ["lobby", "dead-letters", "topology", "--envelopes", "drain", "check-config"] {
                let word = if shell == Shell::Fish { word.trim_start_matches("--") } else { word };
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_page_and_the_first_tells_the_exit_codes() {
        let directory = tempfile::tempdir().expect("a directory");
        let pages = directory.path().join("man1");
        man(Some(&pages)).map_err(|failure| failure.error).expect("written");
        for name in
            ["lobby", "lobby-publish", "lobby-topology-check", "lobby-dead-letters-replay", "lobby-drain"]
        {
            let text = std::fs::read_to_string(pages.join(format!("{name}.1"))).expect(name);
            assert!(text.contains(".TH") && text.contains("SYNOPSIS"), "{name}: {text}");
        }
        let first = std::fs::read_to_string(pages.join("lobby.1")).expect("the first page");
        assert!(first.contains("Exit codes"), "{first}");
        assert!(!pages.join("lobby-config-table.1").exists(), "a hidden command has a page");
        let file = directory.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert_eq!(man(Some(&file)).map_err(|failure| failure.code), Err(Failure::FILE));
    }
}
