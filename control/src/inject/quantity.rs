//! Quantities of Kubernetes, as far as resources of a sidecar need them: a number and a unit.

/// What a CPU quantity looks like.
pub(super) const CPU: &str = "is no amount of CPU: write 250m, 0.5 or 2";
/// What a memory quantity looks like.
pub(super) const MEMORY: &str = "is no amount of memory: write 64Mi or 1Gi";

/// Cores or thousandths of them.
pub(super) fn is_cpu(text: &str) -> bool {
    is_number(text.strip_suffix('m').unwrap_or(text))
}

/// Bytes, with a decimal or binary unit.
pub(super) fn is_memory(text: &str) -> bool {
    let units = ["Ki", "Mi", "Gi", "Ti", "k", "M", "G", "T"];
    is_number(units.iter().find_map(|unit| text.strip_suffix(unit)).unwrap_or(text))
}

fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.len() <= 15 && part.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part),
        None => digits(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        assert!(["1", "0.5", "250m", "2"].into_iter().all(is_cpu));
        assert!(["1", "64Mi", "1.5Gi", "100M"].into_iter().all(is_memory));
        assert!(!["", "m", "1Mi", "-1", "1e3", "one", ".5", "5."].into_iter().any(is_cpu));
        assert!(!["", "Mi", "64m", "64 Mi", "64MB"].into_iter().any(is_memory));
    }
}
