//! The values that options take: sizes, switches, id mappings.

use overcoat::IdRange;

use super::OptionError;

/// A count of bytes (or of anything): a number, alone or with one of k, m, g, t (powers of 1024).
pub fn size(key: &str, value: &str) -> Result<u64, OptionError> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'k' | b'K') => (&value[..value.len() - 1], 10),
        Some(b'm' | b'M') => (&value[..value.len() - 1], 20),
        Some(b'g' | b'G') => (&value[..value.len() - 1], 30),
        Some(b't' | b'T') => (&value[..value.len() - 1], 40),
        _ => (value, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| {
            OptionError::new(format!(
                "{key}={value}: not a size (a number, or one with k, m, g, t)"
            ))
        })
}

/// 1/0, on/off, yes/no, true/false.
pub fn switch(key: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "1" | "on" | "yes" | "true" => Ok(true),
        "0" | "off" | "no" | "false" => Ok(false),
        _ => Err(OptionError::new(format!("{key}={value}: neither on nor off"))),
    }
}

/// A user or group id.
pub fn id(key: &str, value: &str) -> Result<u32, OptionError> {
    number(value).ok_or_else(|| OptionError::new(format!("{key}={value}: not an id")))
}

/// Most threads that a mount is given.
const MOST_THREADS: u32 = 1024;

/// A number of threads.
pub fn threads(key: &str, value: &str) -> Result<u32, OptionError> {
    number(value).filter(|count| (1..=MOST_THREADS).contains(count)).ok_or_else(|| {
        OptionError::new(format!("{key}={value}: not a number from 1 to {MOST_THREADS}"))
    })
}

/// `LAYER:SHOWN:COUNT`, any number of times in a row, with or without a colon in front: `COUNT` ids from
/// `LAYER` in the layers are shown as those from `SHOWN` in the mount.
pub fn id_map(key: &str, value: &str) -> Result<Vec<IdRange>, OptionError> {
    let wrong = |why: &str| OptionError::new(format!("{key}={value}: {why}"));
    let numbers: Option<Vec<u32>> =
        value.strip_prefix(':').unwrap_or(value).split(':').map(number).collect();
    let numbers = numbers.ok_or_else(|| wrong("not a row of LAYER:SHOWN:COUNT"))?;
    if numbers.len() % 3 != 0 {
        return Err(wrong("not a row of LAYER:SHOWN:COUNT"));
    }
    let ranges: Vec<IdRange> = numbers
        .chunks_exact(3)
        .map(|row| IdRange { outside: row[0], inside: row[1], count: row[2] })
        .collect();
    for (nth, range) in ranges.iter().enumerate() {
        if range.count == 0 || !fits(range.inside, range.count) || !fits(range.outside, range.count)
        {
            return Err(wrong("a range is empty or too long"));
        }
        if ranges[..nth].iter().any(|other| overlap(other, range)) {
            return Err(wrong("two ranges overlap"));
        }
    }
    Ok(ranges)
}

fn number(value: &str) -> Option<u32> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

fn fits(first: u32, count: u32) -> bool {
    first.checked_add(count).is_some()
}

fn overlap(a: &IdRange, b: &IdRange) -> bool {
    let meet = |a_first: u32, b_first: u32| {
        let (a_first, b_first) = (u64::from(a_first), u64::from(b_first));
        a_first < b_first + u64::from(b.count) && b_first < a_first + u64::from(a.count)
    };
    meet(a.inside, b.inside) || meet(a.outside, b.outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_suffixes() {
        assert_eq!(size("size", "0").unwrap(), 0);
        assert_eq!(size("size", "12").unwrap(), 12);
        assert_eq!(size("size", "4k").unwrap(), 4096);
        assert_eq!(size("size", "2G").unwrap(), 2 << 30);
        for wrong in ["", "k", "-1", "+1", "1.5g", "50%", "99999999999999t", "1kb", "é"] {
            assert!(size("size", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_number_of_a_mapping_is_the_layers_id_and_the_second_the_shown_one() {
        let expected = vec![IdRange { outside: 0, inside: 100_000, count: 65_536 }];
        assert_eq!(id_map("uidmapping", "0:100000:65536").unwrap(), expected);
        assert_eq!(id_map("uidmapping", ":0:100000:65536").unwrap(), expected);
    }

    #[test]
    fn mappings_that_cannot_be_are_refused() {
        for wrong in [
            "",
            ":",
            "0:1",
            "0:1:0",
            "0:1:x",
            "0:1:2:3",
            "4294967295:0:2",
            "0:0:10:5:100:10",
            "0:0:10:100:5:10",
            "::0:1:2",
            "-1:0:1",
        ] {
            assert!(id_map("uidmapping", wrong).is_err(), "{wrong}");
        }
        assert_eq!(id_map("uidmapping", "0:1000:1:1:100000:65536").unwrap().len(), 2);
    }
}
