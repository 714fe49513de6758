//! No circles of files: what a file uses does not use that file in turn.
//!
//! A file that declares modules may name what is in them (`mod.rs` puts together what its submodules are, and they
//! use what it defines). All other uses count: a submodule's of its parent, and one file's of another.

use std::collections::{BTreeMap, BTreeSet};

use super::{manifest, sources_in, word};

/// A module by its path within the crate; the crate's root is empty.
type Module = Vec<String>;
type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// The module that a file is, by its path below the crate's sources.
fn module(path: &str) -> Module {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut parts: Vec<_> = path.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// What each module of a crate uses. `files`: their paths below its sources, and their code.
fn uses(files: &[(String, String)]) -> Uses {
    let all: BTreeSet<Module> = files.iter().map(|(path, _)| module(path)).collect();
    let mut uses = Uses::new();
    for (path, code) in files {
        let from = module(path);
        let used = paths(code).into_iter().filter_map(|path| resolve(&all, &from, &path));
        let used = used.filter(|to| !to.starts_with(&from)).collect();
        uses.insert(from, used);
    }
    uses
}

/// The paths in a file that begin with `crate`, `super` or `self`, those in braces written out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            let is_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if !is_word && !before.ends_with("::") {
                written_out(&code[at..], Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Adds the paths of one use tree to `found`; gives what is left behind it.
fn written_out<'a>(rest: &'a str, prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    if let Some(mut group) = rest.strip_prefix('{') {
        loop {
            group = group.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(behind) = group.strip_prefix('}') {
                return behind;
            }
            let behind = written_out(group, prefix.clone(), found);
            if behind.len() == group.len() {
                return behind;
            }
            // A new name (`a as b`) is no part of the path.
            let end = behind.find([',', '}']).unwrap_or(behind.len());
            group = &behind[end..];
        }
    }
    let name = word(rest);
    let behind = &rest[name.len()..];
    let mut path = prefix;
    path.push(name);
    match behind.strip_prefix("::") {
        Some(more) => written_out(more, path, found),
        None => {
            found.push(path);
            behind
        }
    }
}

/// The module of the crate that a path written in `from` leads to, or into.
fn resolve(all: &BTreeSet<Module>, from: &Module, path: &[String]) -> Option<Module> {
    let mut at = from.clone();
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        match first.as_str() {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            _ => break,
        }
        rest = more;
    }
    for name in rest {
        at.push(name.clone());
        if !all.contains(&at) {
            at.pop();
            break;
        }
    }
    Some(at).filter(|to| to != from)
}

/// The modules that can be reached from `start` and lead back to it.
fn circle(uses: &Uses, start: &Module) -> BTreeSet<Module> {
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(module) = next.pop() {
            for used in uses.get(&module).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        seen
    };
    reach(start).into_iter().filter(|other| reach(other).contains(start)).collect()
}

/// Every circle once, as the names of its modules.
fn circles(files: &[(String, String)]) -> BTreeSet<Vec<String>> {
    let uses = uses(files);
    let found = uses.keys().map(|start| circle(&uses, start)).filter(|circle| !circle.is_empty());
    found.map(|circle| circle.iter().map(|module| module.join("::")).collect()).collect()
}

#[test]
fn no_circles_of_files() {
    for root in ["src", "cli/src", "bench/src"] {
        let files = sources_in(&[root]);
        let below = |(path, code): (String, String)| {
            (path.strip_prefix(&format!("{root}/")).expect("below").to_owned(), code)
        };
        let files: Vec<_> = files.into_iter().map(below).collect();
        assert!(files.len() > 5, "{}/{root}", manifest().display());
        let found = circles(&files);
        assert!(found.is_empty(), "{root} has circles of files: {found:#?}");
    }
}

#[test]
fn a_circle_is_found_and_a_parent_with_its_parts_is_none() {
    let file = |path: &str, code: &str| (path.to_owned(), code.to_owned());
    let files = [
        file("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
        file("a/mod.rs", "mod part; use self::part::P; use crate::b::{B, inner::{I as J, K}};"),
        file("a/part.rs", "use super::A; fn f() { crate::c::g() }"),
        file("b.rs", "struct B(super::c::C);"),
        file("c.rs", "use crate::{Root, a::part::P};"),
    ];
    let found = circles(&files);
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(found, BTreeSet::from([names(&["a", "a::part", "b", "c"])]));
    let (without, _): (Vec<_>, Vec<_>) = files.into_iter().partition(|(path, _)| path != "b.rs");
    assert_eq!(circles(&without), BTreeSet::from([names(&["a::part", "c"])]));
    let (without, _): (Vec<_>, Vec<_>) = without.into_iter().partition(|(path, _)| path != "c.rs");
    assert_eq!(circles(&without), BTreeSet::new());
}
