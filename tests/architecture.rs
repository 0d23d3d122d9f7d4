//! Modules import only from below: no cycle among the modules of a folder, from the crate's root down to the last one.
//!
//! The imports are read from the sources: `use` declarations, and paths that begin with `crate`, `super`, `self` or the
//! name of a child. A folder's own file (`mod.rs`) is a module beside its children: where it re-exports them, they may not
//! import from it. Modules named `tests` may import what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path as FilePath;

/// A module by the names on the way to it; the root's is empty.
type Module = Vec<String>;

#[test]
fn no_module_imports_from_one_that_imports_from_it() {
    let root = FilePath::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = cycles_in(root, "crate");
    for entry in fs::read_dir(root.join("crates")).expect("a readable folder") {
        let folder = entry.expect("a readable entry").path();
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        found.extend(cycles_in(&folder, &name));
    }
    let found: Vec<_> = found.into_values().collect();
    assert!(
        found.is_empty(),
        "modules import from each other:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_cycle_is_found_and_told_in_full() {
    let sources = |files: &[(&str, &str)]| -> BTreeMap<Module, String> {
        let module = |path: &str| {
            path.split("::")
                .filter(|name| !name.is_empty())
                .map(String::from)
                .collect()
        };
        files
            .iter()
            .map(|(path, text)| (module(path), (*text).to_owned()))
            .collect()
    };
    let straight = sources(&[
        ("", "mod a; mod b; pub use crate::b::Top;"),
        (
            "a",
            "/// [`crate::b`]\n// use crate::b;\npub(in crate::b) struct Low<'a>(&'a str);\nconst TEXT: &str = r#\"crate::b::\"#;",
        ),
        ("b", "mod c; mod d; pub use c::Top;"),
        (
            "b::c",
            "use super::d; use crate::a::{self, Low};\nfn f() -> impl Sized + use<> {} mod tests { use crate::b::Top; }",
        ),
        ("b::d", "fn quote() -> char { '\"' } // c::Top\nuse std::fmt;"),
    ]);
    assert_eq!(cycles(&straight), BTreeMap::new());

    for (module, text) in [
        ("a", "use crate::{a::x, b::{d, c::Top}};"),
        ("b::d", "fn f() { super::c::g() }"),
        ("b::d", "use super::{Top as Other};"),
        ("b::d", "mod inner { fn f() -> super::super::Top { todo!() } }"),
    ] {
        let mut crooked = straight.clone();
        crooked.insert(module.split("::").map(String::from).collect(), text.to_owned());
        let found: Vec<_> = cycles(&crooked).into_values().collect();
        let [told] = found.as_slice() else {
            panic!("{text}: {found:?}")
        };
        assert!(told.contains(&format!("{module} imports")), "{text}: {told}");
    }
}

/// The cycles in the crate of this folder and name.
fn cycles_in(folder: &FilePath, name: &str) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    read(&folder.join("src"), &[], &mut sources);
    assert!(sources.len() > 3, "{name}: only {} modules found", sources.len());
    let mut found = cycles(&sources);
    if let Some(of_root) = found.remove("crate") {
        found.insert(name.to_owned(), of_root);
    }
    found
}

/// The text of each module below `folder`, but for tests.
fn read(folder: &FilePath, path: &[String], sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let file = entry.expect("a readable entry").path();
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut module = path.to_vec();
        if name == "tests" {
            continue;
        }
        if file.is_dir() {
            module.push(name);
            read(&file, &module, sources);
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            if !["lib", "mod"].contains(&name.as_str()) {
                module.push(name);
            }
            sources.insert(module, fs::read_to_string(&file).expect("a readable file"));
        }
    }
}

/// A cycle for each folder that has one, told as a sentence for each step.
fn cycles(sources: &BTreeMap<Module, String>) -> BTreeMap<String, String> {
    let imports: Vec<(Module, Module)> = sources
        .iter()
        .flat_map(|(module, text)| {
            imports(module, text, sources)
                .into_iter()
                .map(|to| (module.clone(), to))
        })
        .collect();
    let folders: BTreeSet<&[String]> = sources
        .keys()
        .filter_map(|module| Some(module.split_last()?.1))
        .collect();
    let mut found = BTreeMap::new();
    for folder in folders {
        // The folder's own file is `folder`; whatever is below a child counts as the child.
        let unit = |module: &Module| -> Option<Module> {
            let inside = module.starts_with(folder);
            inside.then(|| module[..module.len().min(folder.len() + 1)].to_vec())
        };
        let mut graph: BTreeMap<Module, BTreeMap<Module, String>> = BTreeMap::new();
        for (from, to) in &imports {
            if let (Some(a), Some(b)) = (unit(from), unit(to))
                && a != b
            {
                let step = format!("  {} imports from {}", name(from), name(to));
                graph.entry(a).or_default().entry(b).or_insert(step);
            }
        }
        if let Some(cycle) = shortest_cycle(&graph) {
            found.insert(name(folder), format!("in `{}`:\n{}", name(folder), cycle.join("\n")));
        }
    }
    found
}

fn name(module: &[String]) -> String {
    match module.is_empty() {
        true => "crate".to_owned(),
        false => module.join("::"),
    }
}

fn shortest_cycle(graph: &BTreeMap<Module, BTreeMap<Module, String>>) -> Option<Vec<String>> {
    let back_to = |start: &Module| {
        let mut seen = BTreeSet::new();
        let mut ways = vec![(start, Vec::new())];
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for (module, way) in ways {
                for (next, step) in graph.get(module).into_iter().flatten() {
                    let mut way: Vec<String> = way.clone();
                    way.push(step.clone());
                    if next == start {
                        return Some(way);
                    }
                    if seen.insert(next) {
                        longer.push((next, way));
                    }
                }
            }
            ways = longer;
        }
        None
    };
    graph.keys().filter_map(back_to).min_by_key(Vec::len)
}

/// The modules that `text`, which is that of `module`, names.
fn imports(module: &Module, text: &str, sources: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let tokens = tokens(text);
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut found = BTreeSet::new();
    let mut inline = module.clone();
    let mut ends_of_inline = Vec::new();
    let (mut depth, mut at) = (0, 0);
    let resolve = |path: &Module, inline: &Module| match inline.iter().any(|name| name == "tests") {
        true => None,
        false => resolve(path, inline, sources),
    };
    while at < tokens.len() {
        match token(at) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if ends_of_inline.last() == Some(&depth) {
                    ends_of_inline.pop();
                    inline.pop();
                }
            }
            "mod" if token(at + 2) == "{" => {
                ends_of_inline.push(depth);
                inline.push(token(at + 1).to_owned());
            }
            "use" if token(at + 1) != "<" => {
                let mut paths = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut paths);
                found.extend(paths.iter().filter_map(|path| resolve(path, &inline)));
                continue;
            }
            "in" if token(at - 1) == "(" => {
                // Of `pub(in path)`.
                while token(at) != ")" {
                    at += 1;
                }
            }
            _ if token(at + 1) == "::" && (at == 0 || token(at - 1) != "::") => {
                let mut path = vec![tokens[at].clone()];
                while token(at + 1) == "::" && token(at + 2).starts_with(|c: char| c.is_alphabetic() || c == '_') {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                found.extend(resolve(&path, &inline));
            }
            _ => {}
        }
        at += 1;
    }
    found.remove(module);
    found
}

/// Reads the tree of a `use` that begins at `at`; says where it ends.
fn use_tree(tokens: &[String], mut at: usize, before: &[String], paths: &mut Vec<Module>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens[at].as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, paths);
                    if tokens[at] == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            "," | "}" | ";" => {
                paths.push(path);
                return at;
            }
            name => {
                path.push(name.to_owned());
                at += 1;
            }
        }
    }
}

/// The module that a path leads to or into, if it begins in this crate.
fn resolve(path: &[String], from: &Module, sources: &BTreeMap<Module, String>) -> Option<Module> {
    let mut module = from.clone();
    let rest = match path.first()?.as_str() {
        "crate" => {
            module.clear();
            &path[1..]
        }
        "self" => &path[1..],
        "super" => path,
        child => {
            module.push(child.to_owned());
            sources.contains_key(&module).then_some(())?;
            &path[1..]
        }
    };
    for name in rest {
        match name.as_str() {
            "super" => drop(module.pop()),
            name => module.push(name.to_owned()),
        }
    }
    while !sources.contains_key(&module) {
        module.pop()?;
    }
    Some(module)
}

/// The words and signs of a source, without comments, literals and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            end_of_string(rest)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = 2 + hashes;
            rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
        } else if first == '\'' {
            let mut chars = rest[1..].char_indices();
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), Some((at, escaped))) => {
                    let after = 1 + at + escaped.len_utf8();
                    rest[after..].find('\'').map_or(rest.len(), |end| after + end + 1)
                }
                (Some(_), Some((at, '\''))) => at + 2,
                _ => 1 + rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1),
            }
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    tokens
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}
