//! Every public item of this crate shows how it is used.

use std::path::Path;

const KINDS: [&str; 6] = ["fn", "struct", "enum", "trait", "type", "const"];

#[test]
fn every_public_item_has_an_example() {
    let (mut items, mut without) = (0, Vec::new());
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for (name, documentation) in public_items(&source) {
            items += 1;
            if !documentation.lines().any(|line| line.trim_start().starts_with("/// ```")) {
                without.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(items > 50, "only {items} public items found: does the scan still fit the sources?");
    assert!(without.is_empty(), "{} of {items} without an example:\n{}", without.len(), without.join("\n"));
}

#[test]
fn the_scan_sees_documentation_attributes_and_visibility() {
    let source =
        "/// ```\n/// ```\n#[must_use]\npub const fn a() {}\n\n/// b\npub struct B;\npub(crate) fn c() {}\n";
    let items: Vec<_> =
        public_items(source).into_iter().map(|(name, text)| (name, text.contains("```"))).collect();
    assert_eq!(items, [("a", true), ("B", false)]);
}

/// Name and documentation of each `pub` item before the unit tests. A `pub mod` documents itself, in its file.
fn public_items(source: &str) -> Vec<(&str, String)> {
    let (mut items, mut documentation) = (Vec::new(), String::new());
    for line in source.lines().take_while(|line| !line.starts_with("#[cfg(test)]")) {
        let trimmed = line.trim_start();
        if trimmed.starts_with("///") {
            documentation.push_str(line);
            documentation.push('\n');
        } else if let Some(name) = trimmed.strip_prefix("pub ").and_then(item_name) {
            items.push((name, std::mem::take(&mut documentation)));
        } else if !trimmed.starts_with("#[") {
            documentation.clear();
        }
    }
    items
}

/// The name that follows the last of the leading keywords; none for fields, re-exports and modules.
fn item_name(declaration: &str) -> Option<&str> {
    let mut words = declaration.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let kind = words.next().filter(|kind| KINDS.contains(kind))?;
    let name = words.next()?;
    if kind == "const" && name == "fn" { words.next() } else { Some(name) }
}
