//! Links between documents: each leads to a file, and to a heading of it, that there is; and the table of contents in
//! `docs/README.md` names every document.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// Lists all documents of its directory.
const CONTENTS: &str = "docs/README.md";
/// Where documents stand, from the repository's root; searched to the bottom.
const FOLDERS: [&str; 7] = ["docs", "crates", "publishers", "contract", "deploy", "examples", "xtask"];

/// Reads all documents of the repository.
pub(super) fn check() -> anyhow::Result<()> {
    let mut documents: Vec<PathBuf> = Vec::new();
    collect(Path::new("."), false, &mut documents)?;
    for folder in FOLDERS {
        collect(Path::new(folder), true, &mut documents)?;
    }
    let mut faults = Vec::new();
    for document in &documents {
        let text = std::fs::read_to_string(document).with_context(|| document.display().to_string())?;
        let name = document.strip_prefix(".").unwrap_or(document).display().to_string();
        for target in targets(&text) {
            if let Err(fault) = check_target(&name, target) {
                faults.push(format!("{name}: {fault:#}"));
            }
        }
    }
    faults.extend(unlisted()?);
    ensure!(faults.is_empty(), "links between documents:\n  {}", faults.join("\n  "));
    Ok(())
}

/// Fails when `target`, as a link in `document` writes it, leads nowhere. Links to other hosts are not followed.
pub(crate) fn check_target(document: &str, target: &str) -> anyhow::Result<()> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() { PathBuf::from(document) } else { beside(document, path) };
    ensure!(file.exists(), "the link to {target} leads to no file");
    let Some(anchor) = anchor else { return Ok(()) };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    if !anchors(&text).contains(anchor) {
        bail!("the link to {target} leads to no heading of {}", file.display());
    }
    Ok(())
}

/// `path` as seen from the directory of `document`.
fn beside(document: &str, path: &str) -> PathBuf {
    let mut joined = Path::new(document).parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                joined.pop();
            }
            Component::CurDir => {}
            part => joined.push(part),
        }
    }
    if joined.as_os_str().is_empty() { PathBuf::from(".") } else { joined }
}

/// Documents of `docs/` that its table of contents does not name.
fn unlisted() -> anyhow::Result<Vec<String>> {
    let contents = std::fs::read_to_string(CONTENTS).with_context(|| format!("read {CONTENTS}"))?;
    let listed: BTreeSet<&str> = targets(&contents).collect();
    let mut faults = Vec::new();
    for entry in std::fs::read_dir("docs").context("read docs/")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") && name != "README.md" && !listed.contains(name.as_str()) {
            faults.push(format!("{CONTENTS} does not name {name}"));
        }
    }
    Ok(faults)
}

fn collect(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if deep && !matches!(name.as_str(), "node_modules" | "target") {
                collect(&path, true, found)?;
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Where the links of a text lead, without those in code.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| {
        // What stands between backticks is no link.
        line.split('`').step_by(2).flat_map(|part| {
            part.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target.trim()))
        })
    })
}

/// The anchors of its headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.strip_prefix(' '))?
    });
    headings
        .map(|title| {
            let kept = title.trim().to_lowercase();
            let kept = kept.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
            kept.map(|char| if char == ' ' { '-' } else { char }).collect()
        })
        .collect()
}

/// Its lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "a [b](c.md) and [d](#e)\n```\n[f](g.md)\n```\n`[h](i.md)` [![j](k.png)](l.md#m)\n";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["c.md", "#e", "k.png", "l.md#m"]);
    }

    #[test]
    fn anchors_are_made_as_github_makes_them() {
        let text =
            "# Why did player 42 not get it?\ntext\n## `a.b`, and c-d\n#no heading\n```\n# code\n```\n";
        let wanted = ["why-did-player-42-not-get-it", "ab-and-c-d"].map(str::to_owned);
        assert_eq!(anchors(text), BTreeSet::from(wanted));
    }

    #[test]
    fn a_path_is_seen_from_its_document() {
        assert_eq!(beside("docs/a.md", "../README.md"), Path::new("README.md"));
        assert_eq!(beside("README.md", "docs/a.md"), Path::new("docs/a.md"));
        assert_eq!(beside("docs/a.md", ".."), Path::new("."));
    }
}
