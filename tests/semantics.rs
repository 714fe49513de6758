//! Checks that every test named in the documents exists: `mount/rename::whiteout` is `fn whiteout` in
//! `tests/mount/rename.rs`.

use std::path::Path;

/// The names in `text`: words in backquotes of the form `FAMILY/FILE::FUNCTION`.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let words = text.split('`').skip(1).step_by(2);
    let named = words.filter_map(|word| word.split_once("::"));
    named.filter(|(file, _)| file.contains('/')).map(|(a, b)| (a.into(), b.into())).collect()
}

fn exists(file: &str, function: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{file}.rs"));
    let source = std::fs::read_to_string(path).unwrap_or_default();
    source.contains(&format!("fn {function}("))
}

#[test]
fn every_test_that_the_semantics_name_exists() {
    let named = named_tests(include_str!("../doc/SEMANTICS.md"));
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|(file, name)| !exists(file, name)).collect();
    assert!(missing.is_empty(), "named in doc/SEMANTICS.md, but not there: {missing:?}");
}

#[test]
fn a_name_without_a_test_is_found() {
    let named = named_tests("a `mount/rename::whiteout` and `mount/rename::none`, not `a::b`");
    assert_eq!(named.len(), 2);
    let found: Vec<bool> = named.iter().map(|(file, name)| exists(file, name)).collect();
    assert_eq!(found, [true, false]);
}
