//! The bytes of an option string: items, lists, escapes and quotes.
//!
//! Commas separate items and colons the members of a list. A backslash before one of `, : \ "` stands for
//! that character; before any other it is itself. Between double quotes commas and colons separate nothing.

use super::OptionError;

/// The characters that a backslash takes the meaning from.
const SPECIAL: &[u8] = b",:\\\"";

/// The items of an option string, still with their escapes; empty ones are left out.
pub fn items(raw: &[u8]) -> Result<Vec<&[u8]>, OptionError> {
    Ok(split(raw, b',')?.into_iter().filter(|item| !item.is_empty()).collect())
}

/// The members of a list, decoded; an empty string is an empty list.
pub fn list(raw: &[u8], separator: u8) -> Result<Vec<Vec<u8>>, OptionError> {
    if raw.is_empty() {
        return Ok(Vec::new());
    }
    Ok(split(raw, separator)?.into_iter().map(decode).collect())
}

/// One value without its escapes and quotes.
pub fn decode(raw: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail.first()) {
            (b'\\', Some(next)) if SPECIAL.contains(next) => {
                plain.push(*next);
                rest = tail.get(1..).unwrap_or_default();
            }
            (b'"', _) => {}
            _ => plain.push(*first),
        }
    }
    plain
}

/// `plain` as a value which [`decode`] gives back.
#[cfg(test)]
pub fn encode(plain: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| {
        let backslash = SPECIAL.contains(&byte).then_some(b'\\');
        backslash.into_iter().chain([byte])
    };
    plain.iter().flat_map(escape).collect()
}

fn split(raw: &[u8], separator: u8) -> Result<Vec<&[u8]>, OptionError> {
    let mut parts = Vec::new();
    let (mut start, mut at, mut quoted) = (0, 0, false);
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'\\' if raw.get(at + 1).is_some_and(|next| SPECIAL.contains(next)) => at += 1,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&raw[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if quoted {
        return Err(OptionError::new(format!(
            "unbalanced quote in '{}'",
            String::from_utf8_lossy(raw)
        )));
    }
    parts.push(&raw[start..]);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commas_in_quotes_and_after_a_backslash_separate_nothing() {
        let raw = br#"context="a,b",,x=1\,2,"#;
        let expected: Vec<&[u8]> = vec![br#"context="a,b""#, br"x=1\,2"];
        assert_eq!(items(raw).unwrap(), expected);
        assert_eq!(decode(br#""a,b""#), b"a,b");
        assert_eq!(decode(br"1\,2"), b"1,2");
    }

    #[test]
    fn a_backslash_before_an_ordinary_character_is_itself() {
        assert_eq!(decode(br"a\x2db\"), br"a\x2db\");
        assert_eq!(list(br"a\x:b\:c", b':').unwrap(), [br"a\x".to_vec(), b"b:c".to_vec()]);
    }

    #[test]
    fn an_open_quote_is_an_error() {
        assert!(items(br#"context="a,b"#).is_err());
    }

    proptest! {
        #[test]
        fn any_list_survives_encoding(
            members in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 1..6)
        ) {
            let encoded: Vec<_> = members.iter().map(|member| encode(member)).collect();
            let value = encoded.join(&b':');
            prop_assert_eq!(list(&value, b':').unwrap(), members);
            let string = [b"rw,".as_slice(), &value, b",,ro"].concat();
            prop_assert_eq!(items(&string).unwrap(), vec![b"rw".as_slice(), &value, b"ro"]);
        }

        #[test]
        fn no_bytes_make_it_panic(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(found) = items(&raw) {
                for item in found {
                    prop_assert!(decode(item).len() <= item.len());
                }
            }
        }
    }
}
