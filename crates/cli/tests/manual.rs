//! Completions and man pages: made from the same words as `--help`, for everything that a person may type.

mod common;

use common::walmend;
use std::collections::BTreeSet;
use std::fs;

/// The commands that `--help` lists.
fn commands() -> BTreeSet<String> {
    let help = walmend(["--help"]).ends_with(0).stdout;
    let listed = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let starts = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut names: BTreeSet<String> = starts
        .filter_map(|line| line.split_whitespace().next().map(Into::into))
        .collect();
    assert!(names.remove("help") && names.len() > 8, "{names:?}");
    names
}

#[test]
fn every_command_has_a_man_page_with_its_example() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    walmend(["man", pages.to_str().unwrap()]).ends_with(0);
    let mut expected: BTreeSet<String> = commands()
        .iter()
        .map(|name| format!("walmend-{name}.1"))
        .collect();
    expected.insert("walmend.1".into());
    let found = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    for name in commands() {
        let page = fs::read_to_string(pages.join(format!("walmend-{name}.1"))).unwrap();
        assert!(page.contains("xample"), "{name}");
        assert!(
            page.replace("\\-", "-").contains(&format!("walmend {name}")),
            "{name}"
        );
    }
    assert!(
        fs::read_to_string(pages.join("walmend.1"))
            .unwrap()
            .contains("Exit status")
    );
}

#[test]
fn every_shell_completes_every_command_and_nothing_hidden() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = walmend(["completions", shell]).ends_with(0).stdout;
        for name in commands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
        assert!(!script.contains("drill-child"), "{shell}");
    }
}

#[test]
fn a_file_where_a_folder_is_wanted_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for args in [
        &["man", file][..],
        &["drill", "--dir", file],
        &["bench", "--dir", file],
    ] {
        let run = walmend(args).ends_with(2);
        assert!(run.stderr.contains("is a file; give a folder"), "{run:?}");
    }
}
