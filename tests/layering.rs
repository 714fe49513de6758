//! Checks the edges that `src/lib.rs` declares: imports point down only, `unsafe` stays in `src/sys`,
//! the filestore knows no inode.
//!
//! It reads the sources as text, with comments and literals taken out; that is enough for code that
//! rustfmt has formatted.

#[path = "layering/circles.rs"]
mod circles;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each module may import from, besides itself; lower modules first. A new module must be
/// entered here.
const EDGES: &[(&str, &[&str])] = &[
    ("errno", &[]),
    ("attr", &["errno"]),
    ("block", &[]),
    ("name", &["errno"]),
    ("posix_acl", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("sys", &["errno"]),
    ("presence", &["sys"]),
    ("filestore", &["errno", "block", "config", "sys", "presence"]),
    ("journal", &["errno", "attr", "block", "config", "sys", "filestore"]),
    ("layer", &["errno", "attr", "name", "posix_acl", "config", "sys"]),
    ("upper", &["errno", "attr", "block", "name", "config", "sys", "filestore", "journal"]),
    (
        "overlay",
        &[
            "errno",
            "attr",
            "block",
            "name",
            "posix_acl",
            "config",
            "sys",
            "filestore",
            "journal",
            "layer",
            "upper",
        ],
    ),
    (
        "control",
        &[
            "errno",
            "attr",
            "block",
            "config",
            "sys",
            "filestore",
            "journal",
            "layer",
            "upper",
            "overlay",
        ],
    ),
    ("fuse", &["errno", "attr", "name", "config", "metrics", "sys", "presence", "overlay"]),
    ("mount", &["errno", "config", "metrics", "layer", "overlay", "fuse"]),
    ("daemon", &["errno", "config", "sys", "presence", "fuse", "mount"]),
];

/// Words that may stand only below one path.
const KEPT_IN: &[(&str, &str)] = &[("unsafe", "src/sys/")];

/// Words that may not stand below a path.
const BANNED_IN: &[(&str, &str)] = &[("InodeNo", "src/filestore")];

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust sources of the library and the command, relative to the workspace, with their code.
fn sources() -> Vec<(String, String)> {
    sources_in(&["src", "cli/src", "bench/src"])
}

/// All Rust sources of the workspace, tests and benches included.
fn all_sources() -> Vec<(String, String)> {
    sources_in(&["src", "cli", "tests", "bench"])
}

fn sources_in(dirs: &[&str]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for dir in dirs {
        collect(&manifest().join(dir), &mut files);
    }
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let relative = path.strip_prefix(manifest()).expect("inside");
        (relative.to_str().expect("a plain name").to_owned(), code_of(&text))
    };
    files.into_iter().map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The module that a file below `src` belongs to; `None` for `lib.rs` and for other crates.
fn module_of(path: &str) -> Option<&str> {
    let first = path.strip_prefix("src/")?.split('/').next()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (module != "lib").then_some(module)
}

/// Rust source without comments, strings and character literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let in_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = if in_word { None } else { raw_string(rest) };
        let skipped = comment(rest).or(raw).or_else(|| quoted(rest));
        code.push(if skipped.is_some() { ' ' } else { c });
        rest = &rest[skipped.unwrap_or(c.len_utf8())..];
    }
    code
}

fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    let inner = rest.strip_prefix("/*")?;
    Some(inner.find("*/").map_or(rest.len(), |i| i + 4))
}

fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inner = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = rest.len() - inner.len();
    Some(inner.find(&end).map_or(rest.len(), |i| opening + i + end.len()))
}

/// A string or a character; a lifetime is neither.
fn quoted(rest: &str) -> Option<usize> {
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = &rest[1..];
    if quote == '\'' && !inner.starts_with('\\') {
        let close = inner.chars().next()?.len_utf8();
        return inner[close..].starts_with('\'').then_some(close + 2);
    }
    let mut escaped = false;
    for (i, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(i + 2),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The names that follow `crate::` in a file, groups in braces included.
fn imports(code: &str) -> BTreeSet<String> {
    after(code, "crate::").into_iter().flat_map(heads_of).collect()
}

/// What follows each occurrence of `prefix`.
fn after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    code.match_indices(prefix).map(|(at, prefix)| &code[at + prefix.len()..]).collect()
}

/// The first name of a path, or of each path in a braced group.
fn heads_of(rest: &str) -> Vec<String> {
    match rest.strip_prefix('{') {
        Some(group) => heads_of_group(group),
        None => Some(word(rest)).filter(|w| !w.is_empty()).into_iter().collect(),
    }
}

/// All words of an import statement.
fn names_of(rest: &str) -> impl Iterator<Item = &str> {
    let statement = rest.split(';').next().unwrap_or(rest);
    statement.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The first name of every path in a braced group.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut at_head = true;
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && !c.is_whitespace() => {
                heads.push(word(&group[i..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(rest: &str) -> String {
    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn has_word(code: &str, wanted: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == wanted)
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let Some(module) = module_of(&path) else { continue };
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{path}: module {module} is not in the table"));
            continue;
        };
        for name in imports(&code) {
            let is_module = EDGES.iter().any(|(module, _)| *module == name);
            if is_module && name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{path}: {module} may not import from {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The public modules of the library; everything else that is public is named at its root.
const PUBLIC_MODULES: &[&str] = &["daemon", "metrics"];

#[test]
fn other_crates_come_in_by_the_front_door() {
    let code = code_of(&std::fs::read_to_string(manifest().join("src/lib.rs")).expect("lib.rs"));
    // What the benches measure is public where a feature says so, which only they turn on.
    let (code, benches) = code.split_once("pub mod internals").expect("a module for benches");
    assert!(code.trim_end().ends_with("#[cfg(feature =  )]\n#[doc(hidden)]"), "{code}");
    assert!(!benches.contains("pub mod "), "{benches}");
    let is_public = |name: &str| code.contains(&format!("pub mod {name};"));
    for (module, _) in EDGES {
        assert_eq!(is_public(module), PUBLIC_MODULES.contains(module), "{module} in src/lib.rs");
    }
    assert_eq!(
        code.matches("pub mod ").count(),
        PUBLIC_MODULES.len(),
        "a public module in src/lib.rs"
    );
    let exported = after(code, "pub use ");
    let exported: BTreeSet<&str> = exported.iter().flat_map(|tail| names_of(tail)).collect();
    let mut wrong = Vec::new();
    for (path, code) in sources_in(&["cli/src", "cli/tests", "bench/src", "tests/common"]) {
        for tail in after(&code, "overcoat::") {
            for name in heads_of(tail) {
                if !exported.contains(name.as_str()) && !PUBLIC_MODULES.contains(&name.as_str()) {
                    wrong.push(format!("{path}: overcoat::{name} is not the front door"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_itself_points_down() {
    for (i, (module, allowed)) in EDGES.iter().enumerate() {
        for name in *allowed {
            let above = EDGES[..i].iter().any(|(earlier, _)| earlier == name);
            assert!(above, "{module} → {name} does not point down");
        }
    }
}

#[test]
fn words_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        for (wanted, home) in KEPT_IN {
            if !path.starts_with(home) && has_word(&code, wanted) {
                wrong.push(format!("{path}: `{wanted}` belongs below {home}"));
            }
        }
        for (banned, place) in BANNED_IN {
            if path.starts_with(place) && has_word(&code, banned) {
                wrong.push(format!("{path}: `{banned}` does not belong below {place}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The conditions of `if let` and `while let` that go on with `&&`, or begin with another condition.
fn let_chains(code: &str) -> usize {
    let conditions = ["if ", "while "].into_iter().flat_map(|word| code.match_indices(word));
    let is_word = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    conditions.filter(|(at, word)| is_word(*at) && is_let_chain(&code[at + word.len()..])).count()
}

/// Whether a condition, up to its `{`, has both `let` and `&&` outside of brackets.
fn is_let_chain(condition: &str) -> bool {
    let mut depth = 0;
    let mut flat = String::new();
    for c in condition.chars() {
        match c {
            '{' | ';' if depth == 0 => break,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            c if depth == 0 => flat.push(c),
            _ => {}
        }
        if depth < 0 {
            break;
        }
    }
    has_word(&flat, "let") && flat.contains("&&")
}

#[test]
fn no_let_chains_which_need_a_newer_rust_than_the_oldest_promised() {
    let manifest = include_str!("../Cargo.toml");
    assert!(
        manifest.contains("\nrust-version = \"1.85\"\n"),
        "1.88 has let chains: drop this test"
    );
    let chains = |(path, code): (String, String)| (let_chains(&code) > 0).then_some(path);
    let wrong: Vec<_> = all_sources().into_iter().filter_map(chains).collect();
    assert!(wrong.is_empty(), "let chains need Rust 1.88: {}", wrong.join(", "));

    assert_eq!(let_chains("if let Some(a) = b && c { }"), 1);
    assert_eq!(let_chains("while a && let Some(b) = c(|x| { y }) { }"), 1);
    assert_eq!(let_chains("if let Some(a) = b(|c| c && d) { e && f }"), 0);
    assert_eq!(let_chains("match a { b if c && d => { let e = f; } }"), 0);
}

#[test]
fn the_reader_of_sources_reads_rust() {
    let code = code_of(
        r###"use crate::a::{B, C};
        // crate::comment
        /* crate::block */ let s = "crate::s \" crate::t";
        let r = r#"crate::raw " "#; let c = '"'; let q = '\''; let e = b'\\';
        fn f<'a>(x: &'a str, y: &'static str) { crate::call() }
        use crate::{d, e::{F, G}, h as i};"###,
    );
    let names: Vec<String> = imports(&code).into_iter().collect();
    assert_eq!(names, ["a", "call", "d", "e", "h"]);
    assert!(has_word(&code, "str") && !has_word(&code, "raw"));
    assert!(has_word("unsafe { }", "unsafe") && !has_word("unsafe_op", "unsafe"));
}
