//! Numbers for people.

/// `bytes` to about three digits.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = if unit == "B" || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let shown = [0, 999, 1024, 10 << 10, 123 << 20, 5 << 40].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.0 KiB", "10.0 KiB", "123 MiB", "5.0 TiB"]);
    }
}
