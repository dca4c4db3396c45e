// SPDX-License-Identifier: GPL-2.0

//! Plots, as SVG files.

use super::{Row, CONTENTION, LICENSE, PATH_LENGTH};
use crate::config::Impl;
use anyhow::{anyhow, Context, Result};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::{collections::BTreeMap, fs, path::Path};

/// A plot: a measure whose values grow with one of its parameters.
struct Plot {
    name: &'static str,
    mode: &'static str,
    measure: &'static str,
    /// The parameter, and the unit of the values.
    x: &'static str,
    unit: &'static str,
    /// Shows only rows with one of these words in the other parameters, or all if there are none.
    only: &'static [&'static str],
    title: &'static str,
}

impl Plot {
    fn shows(&self, params: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| params.contains(word))
    }
}

const fn plot(
    name: &'static str,
    measure: &'static str,
    x: &'static str,
    title: &'static str,
) -> Plot {
    Plot {
        name,
        mode: PATH_LENGTH,
        measure,
        x,
        unit: "instructions",
        only: &[],
        title,
    }
}

const PLOTS: &[Plot] = &[
    plot(
        "unrelated-resolve",
        "unrelated-resolve",
        "sleepers",
        "A copy for which no thread waits, with N threads asleep",
    ),
    Plot {
        only: &["in order", "reverse", "random"],
        ..plot(
            "resolve-sleepers",
            "resolve-sleepers",
            "sleepers",
            "A copy for one of N threads that sleep in faults",
        )
    },
    Plot {
        only: &["wake"],
        ..plot(
            "wake-sleepers",
            "resolve-sleepers",
            "sleepers",
            "Waking N threads that sleep in faults at once, for each",
        )
    },
    plot(
        "latency",
        "latency",
        "sleepers",
        "Quantiles of very many faults, with N threads asleep",
    ),
    plot(
        "waiters",
        "waiters",
        "waiters",
        "One fault, with R threads that wait to hear of it",
    ),
    Plot {
        unit: "context switches",
        ..plot(
            "waiters-switches",
            "waiters",
            "waiters",
            "Switches of R threads that wait, for each fault",
        )
    },
    plot(
        "load",
        "load",
        "faulting",
        "V threads that fault all the time",
    ),
    Plot {
        mode: CONTENTION,
        unit: "faults",
        ..plot(
            "load-contention",
            "load",
            "faulting",
            "V threads that fault all the time (several CPUs)",
        )
    },
    plot(
        "batched-read",
        "batched-read",
        "messages",
        "Reading several messages at once",
    ),
];

const SIZE: (u32, u32) = (900, 540);
/// The heights of the plot in it, and of the name of a line.
const HEIGHT: f64 = 446.0;
const ROW: f64 = 22.0;

/// Shades of orange for Rust and of blue for C.
pub const SHADES: &[(RGBColor, RGBColor)] = &[
    (RGBColor(200, 70, 0), RGBColor(0, 70, 160)),
    (RGBColor(240, 130, 40), RGBColor(60, 130, 220)),
    (RGBColor(150, 40, 40), RGBColor(40, 40, 110)),
    (RGBColor(250, 180, 90), RGBColor(120, 180, 240)),
    (RGBColor(110, 60, 20), RGBColor(20, 110, 130)),
    (RGBColor(230, 90, 90), RGBColor(90, 90, 230)),
];

/// Draws the plots for which there are results. Returns their names.
pub fn all(rows: &[Row], out: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for plot in PLOTS {
        let mut curves: BTreeMap<String, Vec<(f64, &Row)>> = BTreeMap::new();
        for row in rows {
            let key = &row.key;
            if key.mode == plot.mode
                && key.measure == plot.measure
                && key.unit.starts_with(plot.unit)
                && plot.shows(&key.params(plot.x))
            {
                if let Some(x) = key.number(plot.x) {
                    curves.entry(key.params(plot.x)).or_default().push((x, row));
                }
            }
        }
        curves.retain(|_, points| points.len() > 1);
        if !curves.is_empty() {
            draw(
                &Chart {
                    title: plot.title,
                    x: plot.x,
                    y: &format!("{} ({})", plot.unit, plot.mode),
                },
                &lines(&curves),
                &out.join(format!("{}.svg", plot.name)),
            )?;
            names.push(plot.name.into());
        }
    }
    let bars = bars(rows);
    if !bars.is_empty() {
        let svg = bars_svg(&bars).map_err(|err| anyhow!("{BULK}: {err}"))?;
        let path = out.join(format!("{BULK}.svg"));
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        names.push(BULK.into());
    }
    Ok(names)
}

/// The measure that is drawn as bars, because its parameters are names.
const BULK: &str = "bulk";

/// A name, and a value for each implementation.
type Bar = (String, [f64; 2]);

/// Returns the bars of the rows that both kernels have, from the lowest up.
fn bars(rows: &[Row]) -> Vec<Bar> {
    let rows = rows.iter().filter(|row| row.key.measure == BULK);
    let bar = |row: &Row| {
        let names = ["request", "backing", "folios"].map(|name| row.key.param(name));
        let names: Vec<String> = names.into_iter().flatten().collect();
        let values = [row.median(Impl::Rust)?, row.median(Impl::C)?];
        Some((names.join(", "), values))
    };
    rows.rev().filter_map(bar).collect()
}

type Drawn<T> = Result<T, Box<dyn std::error::Error + 'static>>;

/// The font of everything but titles.
const SMALL: (&str, i32) = ("sans-serif", 16);

/// Draws the names of what a chart has.
fn legend<'a, T: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, T>,
    position: SeriesLabelPosition,
) -> Drawn<()> {
    chart
        .configure_series_labels()
        .label_font(SMALL)
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// Draws two bars for each name, one for each implementation.
fn bars_svg(bars: &[Bar]) -> Drawn<String> {
    // In pixels: half of what a name has, and what is empty of that.
    const HALF: u32 = 20;
    const SPACE: u32 = 4;
    let most = bars.iter().flat_map(|(_, values)| *values);
    let most = most.fold(1.0, f64::max);
    let height = 140 + 2 * HALF * bars.len() as u32;
    let mut svg = format!("{LICENSE}\n");
    let root = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("A request for 2 MiB", ("sans-serif", 24))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(230)
        .build_cartesian_2d(
            (1.0..most * 3.0).log_scale(),
            (0..bars.len()).into_segmented(),
        )?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("instructions for a page of 4 KiB (path-length)")
        .y_labels(bars.len())
        .x_label_formatter(&|value| super::number(*value))
        .y_label_formatter(&|at| match at {
            SegmentValue::CenterOf(index) => bars.get(*index).map_or("", |bar| &bar.0).into(),
            _ => String::new(),
        })
        .label_style(SMALL)
        .axis_desc_style(SMALL)
        .light_line_style(WHITE)
        .draw()?;
    let shades = SHADES[0];
    let kinds = [
        ("Rust", shades.0, [SPACE, HALF]),
        ("C", shades.1, [HALF, SPACE]),
    ];
    for (which, (title, color, [above, below])) in kinds.into_iter().enumerate() {
        let of = |(index, (_, values)): (usize, &Bar)| {
            let ends = [SegmentValue::Exact(index), SegmentValue::Exact(index + 1)];
            let [low, high] = ends;
            let bar = [(1.0, low), (values[which].max(1.0), high)];
            let mut bar = Rectangle::new(bar, color.filled());
            bar.set_margin(above, below, 0, 0);
            bar
        };
        chart
            .draw_series(bars.iter().enumerate().map(of))?
            .label(title)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], color.filled()));
        let value = |(index, (_, values)): (usize, &Bar)| {
            let style = TextStyle::from(SMALL.into_font());
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            let at = (values[which].max(1.0), SegmentValue::CenterOf(index));
            let shift = HALF as i32 / 2 * if which == 0 { -1 } else { 1 };
            EmptyElement::at(at) + Text::new(super::number(values[which]), (6, shift), style)
        };
        chart.draw_series(bars.iter().enumerate().map(value))?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    root.present()?;
    drop((chart, root));
    Ok(svg)
}

/// A line of a chart.
pub struct Line {
    pub label: String,
    pub points: Vec<(f64, f64)>,
    pub color: RGBColor,
}

/// What is written on a chart.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

/// Returns a line for each curve and implementation.
fn lines(curves: &BTreeMap<String, Vec<(f64, &Row)>>) -> Vec<Line> {
    let mut lines = Vec::new();
    for ((name, points), shades) in curves.iter().zip(SHADES.iter().cycle()) {
        for (imp, title, color) in [(Impl::Rust, "Rust", shades.0), (Impl::C, "C", shades.1)] {
            let points = points
                .iter()
                .filter_map(|(x, row)| Some((*x, row.median(imp)?)))
                .collect();
            let label = if name.is_empty() {
                title.into()
            } else {
                format!("{title}: {name}")
            };
            lines.push(Line {
                label,
                points,
                color,
            });
        }
    }
    lines
}

/// Writes a chart to a file.
pub fn draw(chart: &Chart, lines: &[Line], path: &Path) -> Result<()> {
    let svg = svg(chart, lines).map_err(|err| anyhow!("{}: {err}", chart.title))?;
    fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

fn svg(about: &Chart, lines: &[Line]) -> Drawn<String> {
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let fold = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), v| {
            (low.min(v), high.max(v))
        })
    };
    let (left, right) = fold(&mut all().map(|(x, _)| x));
    let (bottom, top) = fold(&mut all().map(|(_, y)| y));

    // The names of the lines are in the upper left corner, and should not hide the lines.
    let bottom = bottom * 0.8;
    let hidden = (ROW * lines.len() as f64 / HEIGHT).min(0.5);
    let room = (top / bottom).powf(hidden / (1.0 - hidden)).max(2.0);

    // Powers of ten are too far apart if the values differ little.
    let base = if top / bottom < 100.0 { 2.0 } else { 10.0 };
    let mut svg = format!("{LICENSE}\n");
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(about.title, ("sans-serif", 24))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(
            (left..right * 1.05).log_scale().base(2.0),
            (bottom..top * room).log_scale().base(base),
        )?;
    let round = |value: &f64| format!("{:.0}", value);
    let precise = |value: &f64| super::number(*value);
    chart
        .configure_mesh()
        .x_desc(about.x)
        .y_desc(about.y)
        .x_label_formatter(&round)
        .y_label_formatter(&precise)
        .label_style(SMALL)
        .axis_desc_style(SMALL)
        .light_line_style(WHITE)
        .draw()?;
    for line in lines {
        let color = line.color;
        let points = line.points.iter().copied();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(&line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    drop((chart, root));
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Key;

    #[test]
    fn requests_are_bars() {
        let row = |request: &str, rust: &[f64], c: &[f64]| Row {
            key: Key {
                mode: PATH_LENGTH.into(),
                measure: BULK.into(),
                params: [("request", request), ("backing", "anon")]
                    .map(|(name, value)| (name.into(), value.into()))
                    .into(),
                unit: "instructions".into(),
            },
            rust: rust.into(),
            c: c.into(),
        };
        let rows = [
            row("copy", &[1830.4], &[2080.2]),
            row("poison", &[0.5], &[207.8]),
            row("move", &[1.0], &[]),
        ];
        let bars = bars(&rows);
        assert_eq!(bars.len(), 2);
        let svg = bars_svg(&bars).unwrap();
        for text in ["copy, anon", "poison, anon", "1830", "0.50"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
