//! The results as a picture: for each piece of work, one bar per contender of its first metric, ours in another colour.

use std::fmt::Write;

use super::value;
use crate::contender::Contender;
use crate::figures::{Figure, Figures};
use crate::machine::Machine;

const WIDTH: u32 = 900;
const LABEL: u32 = 170;
const BAR: u32 = 18;
const LONGEST: u32 = WIDTH - LABEL - 140;

/// The whole picture.
pub(super) fn plot(figures: &Figures, machine: &Machine) -> String {
    let mut body = String::new();
    let mut top = 60;
    // Writing to a string does not fail.
    for (work, title) in figures.work() {
        let Some(metric) = figures.of(work).next().map(|figure| figure.metric) else { continue };
        let bars: Vec<&Figure> = figures.of(work).filter(|figure| figure.metric == metric).collect();
        let greatest = bars.iter().map(|figure| figure.median).fold(f64::MIN_POSITIVE, f64::max);
        let direction = if metric.less_is_better { "less is better" } else { "more is better" };
        let head = format!("{title}: {}, {} ({direction})", metric.name, metric.unit);
        let _ = writeln!(body, r#"<text x="10" y="{top}" font-weight="bold">{}</text>"#, escaped(&head));
        top += 8;
        for figure in bars {
            let length = (figure.median.max(0.0) / greatest * f64::from(LONGEST)).round();
            let colour = if figure.contender == Contender::Malla { "#c2410c" } else { "#94a3b8" };
            let middle = top + BAR - 5;
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{middle}" text-anchor="end">{}</text><rect x="{LABEL}" y="{}" width="{length}" height="{}" fill="{colour}"/><text x="{}" y="{middle}">{}</text>"#,
                LABEL - 8,
                escaped(figure.contender.title()),
                top + 2,
                BAR - 4,
                f64::from(LABEL) + length + 6.0,
                escaped(&value(figure)),
            );
            top += BAR;
        }
        top += 30;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"24\" font-size=\"11\">{}</text>\n{body}</svg>\n",
        escaped(&machine.line())
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
