//! Reading what a program exposes in Prometheus's text format.

/// The sum of the samples of `name` that carry all of `labels`.
pub fn sum(exposed: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    exposed.lines().filter_map(|line| sample(line, name, labels)).sum()
}

fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (carried, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.starts_with(' ').then_some(rest)?),
    };
    let all = labels.iter().all(|(label, value)| {
        let wanted = format!("{label}=\"{value}\"");
        carried.match_indices(&wanted).any(|(at, _)| at == 0 || carried.as_bytes()[at - 1] == b',')
    });
    if all { value.split_ascii_whitespace().next()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn sums_the_samples_that_carry_the_labels() {
        let exposed = "# TYPE a counter\na_total{x=\"1\",reason=\"denied\"} 2\na_total{x=\"2\",reason=\"denied\"} 3\n\
                       a_total{x=\"2\",reason=\"ok\"} 5\na_total_more 7\nb 11\n";
        assert_eq!(sum(exposed, "a_total", &[]), 10.0);
        assert_eq!(sum(exposed, "a_total", &[("reason", "denied")]), 5.0);
        assert_eq!(sum(exposed, "a_total", &[("reason", "denied"), ("x", "2")]), 3.0);
        assert_eq!(sum(exposed, "b", &[]), 11.0);
        assert_eq!(sum(exposed, "c", &[]), 0.0);
    }
}
