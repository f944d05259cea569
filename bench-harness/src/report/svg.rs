//! Charts as SVG text: lines over an axis that may be logarithmic, and bars beside an aim.
//!
//! ```text
//! values -> Scale -> plane coordinates -> plotters (SVG in memory) -> text for a page
//! ```
//!
//! Invariant: whatever the page may recolour for a dark screen is drawn in [`INK`] or [`GRID`].
//!
//! Not here: which charts there are (`charts`), their titles and legends (`page`).

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Circle, DashedLineSeries, DrawingArea, IntoDrawingArea as _, LineSeries,
    PathElement, RGBColor, Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, IntoFont as _, ShapeStyle, TextStyle};

use crate::merged::number;

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Lines behind the data.
pub(super) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// How values become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// As they are, from 0.
    Linear,
    /// By their logarithm.
    Log,
    /// Quantiles: each nine takes the same room.
    Nines,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(1e-9).log10(),
            Self::Nines => -(1.0 - value).max(1e-9).log10(),
        }
    }
}

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// What it shows, with its unit.
    pub(super) name: String,
    /// See [`Scale`].
    pub(super) scale: Scale,
    /// Where it has labels; chosen by the values if there are none here.
    pub(super) labels: Vec<(f64, String)>,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its colour.
    pub(super) colour: RGBColor,
    /// Whether it is broken.
    pub(super) dashed: bool,
    /// Whether each point is marked.
    pub(super) marked: bool,
    /// Its points, by x.
    pub(super) points: Vec<(f64, f64)>,
    /// From where to where the rounds are: x, smallest, largest.
    pub(super) ranges: Vec<(f64, f64, f64)>,
}

/// Lines over two axes.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    /// The lower axis.
    pub(super) x: Axis,
    /// The left axis.
    pub(super) y: Axis,
    /// The lines.
    pub(super) lines: Vec<Line>,
}

/// From, to, and where the axis has labels, all as places.
struct Ticks {
    from: f64,
    to: f64,
    at: Vec<(f64, String)>,
}

/// A step of 1, 2 or 5 times a power of ten with which there are at most so many in `size`.
fn step(size: f64, most: f64) -> f64 {
    let rough = (size / most).max(1e-12);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999_999);
    factor.unwrap_or(10.0) * power
}

fn ticks(scale: Scale, values: impl Iterator<Item = f64> + Clone, most: f64) -> Ticks {
    let finite = values.filter(|value| value.is_finite());
    let low = finite.clone().fold(f64::INFINITY, f64::min);
    let high = finite.fold(f64::NEG_INFINITY, f64::max);
    match scale {
        Scale::Linear => {
            let high = if high > 0.0 { high } else { 1.0 };
            let step = step(high, most);
            let count = (high / step - 1e-9).ceil() as u32;
            let at = (0..=count).map(|index| f64::from(index) * step);
            let at = at.map(|value| (value, tick(value, step))).collect();
            Ticks { from: 0.0, to: f64::from(count) * step, at }
        }
        Scale::Log => log_ticks(low, high, most),
        Scale::Nines => {
            let shares = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
            let names = ["0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999"];
            let to = scale.place(high).max(2.0);
            let at = shares.into_iter().zip(names).map(|(share, name)| (scale.place(share), name));
            let at = at.take_while(|(place, _)| *place <= to + 1e-6);
            Ticks { from: 0.0, to, at: at.map(|(place, name)| (place, name.to_owned())).collect() }
        }
    }
}

fn log_ticks(low: f64, high: f64, most: f64) -> Ticks {
    let (low, high) = if low > 0.0 && low.is_finite() { (low, high) } else { (1.0, 10.0) };
    let (from, to) = ((low * 0.9).log10(), (high * 1.1).log10());
    // The finest of these that leaves room between labels.
    let choices: [&[f64]; 4] =
        [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
    let within = |factors: &[f64]| -> Vec<f64> {
        let powers = (from.floor() as i32)..=(to.ceil() as i32);
        let all =
            powers.flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
        all.filter(|value| (from..=to).contains(&value.log10())).collect()
    };
    let mut fits: Vec<Vec<f64>> = choices.iter().map(|factors| within(factors)).collect();
    let finest = fits.iter().position(|all| all.len() as f64 <= most);
    let fit = fits.swap_remove(finest.unwrap_or(fits.len() - 1));
    let at = fit.into_iter().map(|value| (value.log10(), tick(value, value)));
    Ticks { from, to, at: at.collect() }
}

/// A label of an axis, as exact as the step to the next one: `20k`, `1.5M`, `0.40`.
fn tick(value: f64, step: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e4, "k"), (0.0, "")];
    let unit = units.into_iter().find(|(from, _)| value >= *from * 0.999);
    let (size, name) = match unit {
        Some((_, "k")) => (1e3, "k"),
        Some((size, name)) if size > 0.0 => (size, name),
        _ => (1.0, ""),
    };
    if value == 0.0 || (name.is_empty() && value >= 1000.0) {
        return number(value);
    }
    let decimals = (-(step / size).log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
    format!("{:.decimals$}{name}", value / size)
}

fn text(size: f64, colour: &RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'_> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(colour);
    style.pos(Pos::new(horizontal, vertical))
}

/// Draws into memory.
fn drawn(
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|error| anyhow!("drawing: {error}"))?;
    }
    // A box says the size, the page how wide it is shown.
    let given = format!("<svg width=\"{}\" height=\"{}\" ", size.0, size.1);
    Ok(svg.replacen(&given, "<svg role=\"img\" ", 1))
}

/// A chart of lines.
///
/// # Errors
/// None that is known: drawing goes to memory.
pub(super) fn lines(chart: &Lines, size: (u32, u32)) -> anyhow::Result<String> {
    drawn(size, |area| draw_lines(chart, area))
}

fn draw_lines(chart: &Lines, area: &Area<'_>) -> anyhow::Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing: {error}");
    let Lines { x, y, lines } = chart;
    let xs = lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let ranges = lines.iter().flat_map(|line| line.ranges.iter().flat_map(|one| [one.1, one.2]));
    let ys = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let mut x_ticks = ticks(x.scale, xs, 8.0);
    let y_ticks = ticks(y.scale, ys.chain(ranges), 6.0);
    if !x.labels.is_empty() {
        x_ticks.at = x.labels.iter().map(|(at, name)| (x.scale.place(*at), name.clone())).collect();
    }
    let caption = text(15.0, &INK, HPos::Left, VPos::Top);
    area.draw(&Text::new(y.name.clone(), (6, 2), caption)).map_err(|error| failed(&error))?;
    let mut plot = ChartBuilder::on(area)
        .margin_top(26)
        .margin_right(24)
        .x_label_area_size(46)
        .y_label_area_size(58)
        .build_cartesian_2d(x_ticks.from..x_ticks.to, y_ticks.from..y_ticks.to)
        .map_err(|error| failed(&error))?;
    let (left, right, top, bottom) = (x_ticks.from, x_ticks.to, y_ticks.to, y_ticks.from);
    let grid_x = x_ticks.at.iter().map(|(at, _)| vec![(*at, bottom), (*at, top)]);
    let grid_y = y_ticks.at.iter().map(|(at, _)| vec![(left, *at), (right, *at)]);
    let grid = grid_x.chain(grid_y).map(|ends| PathElement::new(ends, GRID));
    plot.draw_series(grid).map_err(|error| failed(&error))?;
    for (at, name) in x_ticks.at {
        let (column, row) = plot.backend_coord(&(at, bottom));
        let style = text(14.5, &INK, HPos::Center, VPos::Top);
        let label = Text::new(name, (column, row + 6), style);
        area.draw(&label).map_err(|error| failed(&error))?;
    }
    for (at, name) in y_ticks.at {
        let (column, row) = plot.backend_coord(&(left, at));
        let style = text(14.5, &INK, HPos::Right, VPos::Center);
        let label = Text::new(name, (column - 7, row), style);
        area.draw(&label).map_err(|error| failed(&error))?;
    }
    let (end, row) = plot.backend_coord(&(right, bottom));
    let style = text(15.0, &INK, HPos::Right, VPos::Top);
    let label = Text::new(x.name.clone(), (end, row + 25), style);
    area.draw(&label).map_err(|error| failed(&error))?;
    let place = |point: (f64, f64)| (x.scale.place(point.0), y.scale.place(point.1));
    for line in lines {
        let style = line.colour.stroke_width(2);
        let points = line.points.iter().filter(|point| point.0.is_finite() && point.1.is_finite());
        let points: Vec<(f64, f64)> = points.map(|point| place(*point)).collect();
        for (at, low, high) in &line.ranges {
            let range =
                PathElement::new(vec![place((*at, *low)), place((*at, *high))], line.colour);
            plot.draw_series([range]).map_err(|error| failed(&error))?;
        }
        if line.marked {
            let marks = points.iter().map(|point| Circle::new(*point, 3, line.colour.filled()));
            plot.draw_series(marks).map_err(|error| failed(&error))?;
        }
        let result = if line.dashed {
            plot.draw_series(DashedLineSeries::new(points, 6, 4, style)).map(|_| ())
        } else {
            plot.draw_series(LineSeries::new(points, style)).map(|_| ())
        };
        result.map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// A bar from the aim to how good a ratio is: to the right it is reached, to the left missed.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// What it is of.
    pub(super) name: String,
    /// The ratio in words.
    pub(super) value: String,
    /// The aim in words.
    pub(super) aim: String,
    /// The aim is 1; more is better.
    pub(super) score: f64,
    /// Of the worst and of the best round.
    pub(super) range: (f64, f64),
    /// Its colour.
    pub(super) colour: RGBColor,
}

const ROW: i32 = 27;
const SCORE_MIN: f64 = 0.25;
const SCORE_MAX: f64 = 4.0;

/// Bars below each other with one line for all aims.
///
/// # Errors
/// None that is known: drawing goes to memory.
pub(super) fn bars(bars: &[Bar], width: u32) -> anyhow::Result<String> {
    let rows = i32::try_from(bars.len()).unwrap_or(i32::MAX / ROW - 2);
    let height = rows * ROW + 30;
    drawn((width, u32::try_from(height)?), |area| {
        draw_bars(bars, (i32::try_from(width)?, height), area)
    })
}

fn draw_bars(bars: &[Bar], (width, height): (i32, i32), area: &Area<'_>) -> anyhow::Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing: {error}");
    let put = |text: Text<'_, (i32, i32), String>| area.draw(&text).map_err(|error| failed(&error));
    let stroke = |points: Vec<(i32, i32)>, style: ShapeStyle| {
        area.draw(&PathElement::new(points, style)).map_err(|error| failed(&error))
    };
    let (left, right) = (width * 45 / 100, width * 76 / 100);
    let at = |score: f64| {
        let share =
            (score.clamp(SCORE_MIN, SCORE_MAX) / SCORE_MIN).ln() / (SCORE_MAX / SCORE_MIN).ln();
        left + (share * f64::from(right - left)) as i32
    };
    let style = |horizontal| text(14.5, &INK, horizontal, VPos::Center);
    for (mark, name) in [(0.25, "¼"), (0.5, "½"), (1.0, "aim"), (2.0, "2×"), (4.0, "4×")] {
        let place = at(mark);
        let weight = if mark == 1.0 { INK.stroke_width(2) } else { GRID.stroke_width(1) };
        stroke(vec![(place, 22), (place, height - 4)], weight)?;
        put(Text::new(name.to_owned(), (place, 11), style(HPos::Center)))?;
    }
    for (bar, row) in bars.iter().zip(0..) {
        let middle = 26 + row * ROW + ROW / 2;
        put(Text::new(bar.name.clone(), (left - 12, middle), style(HPos::Right)))?;
        put(Text::new(bar.value.clone(), (right + 14, middle), style(HPos::Left)))?;
        put(Text::new(bar.aim.clone(), (width - 4, middle), style(HPos::Right)))?;
        let end = at(bar.score);
        let corners = [(end.min(at(1.0)), middle - 7), (end.max(at(1.0)), middle + 7)];
        let fill = Rectangle::new(corners, bar.colour.filled());
        area.draw(&fill).map_err(|error| failed(&error))?;
        let range = vec![(at(bar.range.0), middle), (at(bar.range.1), middle)];
        stroke(range, INK.stroke_width(2))?;
    }
    // The aim is seen over the bars.
    stroke(vec![(at(1.0), 22), (at(1.0), height - 4)], INK.stroke_width(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_an_axis_are_few_round_and_reach_the_largest_value() {
        let found = ticks(Scale::Linear, [0.0, 205_000.0].into_iter(), 6.0);
        let names: Vec<&str> = found.at.iter().map(|(_, name)| &name[..]).collect();
        assert_eq!(names, ["0", "50k", "100k", "150k", "200k", "250k"]);
        assert_eq!(found.to, 250_000.0);
        for (low, high) in [(1.0, 1.1), (90.0, 300.0), (5.0, 1e6), (1e-3, 1e9)] {
            let found = ticks(Scale::Log, [low, high].into_iter(), 8.0);
            assert!((1..=13).contains(&found.at.len()), "{low}..{high}: {:?}", found.at);
            assert!(found.at.iter().all(|(at, _)| (found.from..=found.to).contains(at)));
        }
        let none = ticks(Scale::Linear, [f64::NAN].into_iter(), 6.0);
        assert!(none.to > none.from);
    }

    #[test]
    fn a_label_is_as_exact_as_the_step_to_the_next() {
        let shown =
            [(0.4, 0.1), (1.5e6, 5e5), (2e6, 1e6), (1500.0, 500.0), (0.25, 0.05), (2.5, 0.5)];
        let shown = shown.map(|(value, step)| tick(value, step));
        assert_eq!(shown, ["0.4", "1.5M", "2M", "1,500", "0.25", "2.5"]);
        assert_eq!([tick(20_000.0, 2e4), tick(0.0, 0.1), tick(1.5, 1.5)], ["20k", "0", "2"]);
    }

    #[test]
    fn quantiles_have_as_much_room_for_each_nine() {
        let places = [0.9, 0.99, 0.999].map(|share| Scale::Nines.place(share));
        assert!((places[2] - places[1] - 1.0).abs() < 1e-6, "{places:?}");
        assert!((places[1] - places[0] - 1.0).abs() < 1e-6, "{places:?}");
    }

    #[test]
    fn a_chart_is_one_svg_element_with_its_axes_named() {
        let axis =
            |name: &str| Axis { name: name.to_owned(), scale: Scale::Linear, labels: Vec::new() };
        let points = vec![(0.0, 1.0), (1.0, 3.0)];
        let line = Line {
            colour: INK,
            dashed: false,
            marked: true,
            points,
            ranges: vec![(1.0, 2.0, 4.0)],
        };
        let chart = Lines { x: axis("seconds"), y: axis("MB/s"), lines: vec![line] };
        let svg = lines(&chart, (500, 300)).unwrap();
        assert!(svg.starts_with("<svg role=\"img\" viewBox=\"0 0 500 300\""), "{}", &svg[..90]);
        assert!(svg.contains("seconds") && svg.contains("MB/s") && svg.contains("<polyline"));
        assert_eq!(svg.matches("</svg>").count(), 1);
    }
}
