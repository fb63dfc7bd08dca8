//! The near names behind "did you mean …?".

/// Names longer than this are compared with nothing: comparing costs the product of both lengths.
const LONGEST: usize = 64;

/// The candidate that was probably meant, if one is near enough.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.is_empty() || written.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let written = plain(written);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .filter_map(|candidate| {
            let other = plain(candidate);
            let distance = strsim::damerau_levenshtein(&written, &other);
            let length = written.chars().count().max(other.chars().count());
            // Short words are near each other by chance.
            let allowed = if length <= 3 { 1 } else { (length / 3).max(1) };
            (distance <= allowed).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// What somebody wrote, on one line and not longer than a message can bear.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown.replace("\\'", "'").replace("\\\"", "\"").replace("\\\\", "\\")
}

/// `a, b, c`, shortened when there are many.
pub(crate) fn listing<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near_and_nothing_else() {
        let fields = ["backendRefs", "matches", "filters", "name", "timeouts"];
        assert_eq!(nearest("backendRef", fields), Some("backendRefs"));
        assert_eq!(nearest("backend_refs", fields), Some("backendRefs"));
        assert_eq!(nearest("match", fields), Some("matches"));
        assert_eq!(nearest("Name", fields), Some("name"));
        assert_eq!(nearest("destination", fields), None);
        assert_eq!(nearest("", fields), None);
        assert_eq!(nearest(&"x".repeat(100_000), fields), None);
    }

    #[test]
    fn shortens_long_listings() {
        assert_eq!(listing([80, 443]), "80, 443");
        assert!(listing(0..20).ends_with(" and 8 more"));
    }
}
