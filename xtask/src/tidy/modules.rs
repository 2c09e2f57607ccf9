//! Which files a crate consists of: those that a chain of `mod name;` leads to.

use super::Finding;
use super::files::Files;
use crate::Result;
use crate::cargo::Workspace;
use crate::syntax::{Kind, Token, tokens};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rust files of our packages that no target of them compiles.
pub(crate) fn dead_files(workspace: &Workspace, files: &Files) -> Result<Vec<Finding>> {
    let mut alive = BTreeSet::new();
    for package in &workspace.metadata.packages {
        for target in &package.targets {
            alive.extend(reachable(target.src_path.as_std_path())?);
        }
    }
    // A workspace of its own, of which cargo's description of ours says nothing.
    alive.extend(reachable(&workspace.root().join("benches/peers/src/main.rs"))?);
    Ok(files
        .texts()
        .filter(|(path, _)| super::is_source(path) && !alive.contains(&workspace.root().join(path)))
        .map(|(path, _)| Finding::new(path, 1, "no `mod` leads here: this file is never compiled"))
        .collect())
}

/// The file at the root of a target and everything below it.
pub(crate) fn reachable(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::from([root.to_owned()]);
    let mut open = vec![(root.to_owned(), parent(root))];
    while let Some((file, folder)) = open.pop() {
        for candidates in children(&tokens(&fs::read_to_string(&file)?), &folder, &parent(&file)) {
            // A missing one is for the compiler to report.
            let Some(child) = candidates.into_iter().find(|path| path.is_file()) else {
                continue;
            };
            let below = if child.ends_with("mod.rs") {
                parent(&child)
            } else {
                child.with_extension("")
            };
            if found.insert(child.clone()) {
                open.push((child, below));
            }
        }
    }
    Ok(found)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Into::into)
}

/// For each `mod name;`, the files that it may mean. `folder` is where submodules live, `beside` where the
/// file itself does (`#[path]` counts from there).
fn children(tokens: &[Token], folder: &Path, beside: &Path) -> Vec<Vec<PathBuf>> {
    let mut found = Vec::new();
    // Folders of the inline modules around this place, and the depth of braces at which each of them ends.
    let mut inline: Vec<(PathBuf, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut path_attribute = None;
    for (at, token) in tokens.iter().enumerate() {
        let here = || inline.last().map_or(folder, |(folder, _)| folder).to_owned();
        match &token.kind {
            Kind::Sign('{') => depth += 1,
            Kind::Sign('}') => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, outer)| depth > *outer);
            }
            Kind::Text(text) if is_path_attribute(tokens, at) => path_attribute = Some(text.clone()),
            Kind::Word(word) if word == "mod" => {
                let (Some(name), Some(after)) = (tokens.get(at + 1), tokens.get(at + 2)) else {
                    continue;
                };
                let Kind::Word(name) = &name.kind else {
                    continue;
                };
                if after.is_sign('{') {
                    let inner = here().join(name);
                    inline.push((inner, depth));
                } else if after.is_sign(';') {
                    found.push(match path_attribute.take() {
                        Some(path) => vec![beside.join(path)],
                        None => vec![
                            here().join(format!("{name}.rs")),
                            here().join(name).join("mod.rs"),
                        ],
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether the text at `at` is the value in `#[path = "..."]`.
fn is_path_attribute(tokens: &[Token], at: usize) -> bool {
    at >= 3 && tokens[at - 1].is_sign('=') && tokens[at - 2].is_word("path") && tokens[at - 3].is_sign('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(source: &str) -> Vec<String> {
        children(&tokens(source), Path::new("src/a"), Path::new("src"))
            .iter()
            .map(|paths| paths[0].display().to_string())
            .collect()
    }

    #[test]
    fn a_module_is_looked_for_below_its_parent() {
        assert_eq!(
            candidates("mod b; // mod c;\npub(crate) mod d;"),
            ["src/a/b.rs", "src/a/d.rs"]
        );
    }

    #[test]
    fn inline_modules_are_folders() {
        let source = "mod t { fn f() { if x {} } mod u { mod v; } mod w; } mod x;";
        assert_eq!(
            candidates(source),
            ["src/a/t/u/v.rs", "src/a/t/w.rs", "src/a/x.rs"]
        );
    }

    #[test]
    fn a_path_attribute_counts_from_the_file() {
        assert_eq!(
            candidates("#[path = \"other/x.rs\"] mod b; mod c;"),
            ["src/other/x.rs", "src/a/c.rs"]
        );
    }

    #[test]
    fn the_files_of_this_very_crate_are_all_reached() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let found = reachable(&src.join("main.rs")).unwrap();
        assert!(found.contains(&src.join("tidy/modules.rs")));
        assert!(found.contains(&src.join("syntax.rs")));
    }
}
