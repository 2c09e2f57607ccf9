//! Relative links in documents lead somewhere.

use super::Finding;
use std::path::Path;

/// Every relative link of a Markdown file that leads to no file or folder.
pub(crate) fn check(root: &Path, path: &Path, text: &str) -> Vec<Finding> {
    let folder = path.parent().unwrap_or(Path::new(""));
    links(text)
        .into_iter()
        .filter(|(_, target)| !root.join(folder).join(target).exists())
        .map(|(line, target)| Finding::new(path, line, format!("the link to `{target}` leads nowhere")))
        .collect()
}

/// The relative targets of `[text](target)` and `[name]: target`, without fragments, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            in_code = !in_code;
        } else if !in_code {
            found.extend(targets(line).into_iter().map(|target| (number + 1, target)));
        }
    }
    found
}

fn targets(line: &str) -> Vec<String> {
    // Every other piece between backticks is code.
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let mut found: Vec<&str> = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .collect();
    if let Some((name, target)) = prose.split_once("]: ")
        && name.starts_with('[')
        && !name.starts_with("[^")
    {
        found.push(target);
    }
    found.into_iter().filter_map(relative).collect()
}

/// The file part of a link, or nothing if it leads out of the tree or into the same file.
fn relative(target: &str) -> Option<String> {
    let target = target.split_whitespace().next()?;
    let target = target.trim_start_matches('<').trim_end_matches('>');
    let file = target.split('#').next()?;
    let leaves = target.contains("://") || target.starts_with("mailto:");
    (!leaves && !file.is_empty()).then(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_are_found_and_others_left_alone() {
        let text = "[a](docs/a.md#part) and [b](https://example.org/b) [c](#here)\n\
                    `[d](not/a/link)` [e](<e.md> \"title\")\n```\n[f](f.md)\n```\n[g]: g.md\n[^1]: note\n";
        let expected = [(1, "docs/a.md"), (2, "e.md"), (6, "g.md")];
        assert_eq!(
            links(text),
            expected.map(|(line, target)| (line, target.to_owned()))
        );
    }

    #[test]
    fn a_link_is_followed_from_the_folder_of_its_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = Path::new("src/x.md");
        assert_eq!(check(root, path, "[m](main.rs) [c](../Cargo.toml)"), []);
        assert_eq!(check(root, path, "\n[c](Cargo.toml)")[0].line, 2);
    }
}
