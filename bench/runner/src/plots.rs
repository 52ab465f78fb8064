//! The plots. Numbers of clients and pool sizes grow by factors, so they are spaced evenly on the x axis.

use std::path::Path;

use anyhow::Result;
use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    engines::Engine,
    loads::Load,
    number_format::grouped,
    peers::Peer,
    report_extra::{offered, overload_median, overload_peers, sweep_median, sweep_sizes},
    results::{Figure, OverloadFigure, Results},
    spread::median,
};

const GET: &str = "bench-get.svg";
const SWEEP: &str = "bench-sweep.svg";
const OVERLOAD: &str = "bench-overload.svg";

const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;
const LEGEND: u32 = 250;
/// Distinguishable with red-green colour blindness (most are from the Okabe-Ito palette).
const COLOURS: [RGBColor; 9] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x88, 0x88, 0x88),
    RGBColor(0x8c, 0x56, 0x4b),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws into a file, unless there is nothing to draw.
type Plot = fn(&Results, &Path) -> Result<bool>;

struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Line {
    /// A peer has the same colour in every plot.
    fn of(peer: Peer, points: Vec<(f64, f64)>) -> Self {
        Self { name: peer.name().to_owned(), colour: COLOURS[peer as usize % COLOURS.len()], points }
    }
}

/// The title and the axes of a plot.
struct Frame<'a> {
    title: &'a str,
    x_title: &'a str,
    /// Labels of the x values 0, 1, 2 and so on; if there are none, the x axis is numeric.
    x_labels: Vec<String>,
    is_logarithmic: bool,
}

/// Writes all plots that have figures and returns their names.
pub fn write(results: &Results, folder: &Path) -> Result<Vec<&'static str>> {
    let plots: [(&'static str, Plot); 3] = [(GET, get), (SWEEP, sweep), (OVERLOAD, overload)];
    let mut names = Vec::new();
    for (name, plot) in plots {
        if plot(results, &folder.join(name))? {
            names.push(name);
        }
    }
    Ok(names)
}

pub fn description(name: &str) -> &'static str {
    match name {
        GET => "GET by id on PostgreSQL: requests per second by number of clients, one line per peer",
        SWEEP => "GET by id on PostgreSQL: requests per second by pool.max, with and without batching",
        _ => "Goodput and p99 latency by offered load",
    }
}

fn get(results: &Results, path: &Path) -> Result<bool> {
    let of = |figure: &&Figure| (figure.engine, figure.load) == (Engine::Postgres, Load::Get);
    let figures: Vec<&Figure> =
        results.figures.iter().filter(of).filter(|figure| figure.peer != Peer::Pgbench).collect();
    let distinct = |value: fn(&Figure) -> usize| {
        let mut values: Vec<usize> = figures.iter().map(|figure| value(figure)).collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    let (clients, peers) = (distinct(|figure| figure.clients), distinct(|figure| figure.peer as usize));
    let lines = peers.iter().filter_map(|peer| {
        let of_peer = || figures.iter().filter(|figure| figure.peer as usize == *peer);
        let points = clients.iter().enumerate().filter_map(|(x, clients)| {
            let rounds = of_peer().filter(|figure| figure.clients == *clients);
            Some((x as f64, median(rounds.map(|figure| figure.per_second).collect())?))
        });
        Some(Line::of(of_peer().next()?.peer, points.collect()))
    });
    let frame = Frame {
        title: "GET by id, PostgreSQL: requests per second",
        x_title: "clients",
        x_labels: clients.iter().map(usize::to_string).collect(),
        is_logarithmic: false,
    };
    write_plot(path, &frame, &lines.collect::<Vec<_>>())
}

fn sweep(results: &Results, path: &Path) -> Result<bool> {
    let sizes = sweep_sizes(results);
    let lines = [true, false].map(|batch| {
        let points = sizes
            .iter()
            .enumerate()
            .filter_map(|(x, max)| Some((x as f64, sweep_median(results, batch, *max, |figure| figure.per_second)?)));
        let colour = COLOURS[usize::from(!batch)];
        Line { name: format!("pool.batch={batch}"), colour, points: points.collect() }
    });
    let frame = Frame {
        title: "GET by id, PostgreSQL, 64 clients: requests per second",
        x_title: "pool.max",
        x_labels: sizes.iter().map(u32::to_string).collect(),
        is_logarithmic: false,
    };
    write_plot(path, &frame, &lines)
}

fn overload(results: &Results, path: &Path) -> Result<bool> {
    let lines = |value: fn(&OverloadFigure) -> f64| -> Vec<Line> {
        let points = |peer| -> Vec<(f64, f64)> {
            let loads = offered(results, peer);
            loads.iter().map(|(times, points)| (*times, overload_median(points, value))).collect()
        };
        let line = |peer: Peer| Line::of(peer, points(peer));
        overload_peers(results).into_iter().map(line).collect()
    };
    let (goodput, p99) = (lines(|point| point.good_per_second), lines(|point| point.p99_ms));
    if goodput.is_empty() {
        return Ok(false);
    }
    let x_title = "offered load / peak of the peer";
    let upper_frame =
        Frame { title: "Goodput, requests per second", x_title, x_labels: Vec::new(), is_logarithmic: false };
    let lower_frame = Frame { title: "p99 in milliseconds", x_title, x_labels: Vec::new(), is_logarithmic: true };
    let area = SVGBackend::new(path, (WIDTH, 2 * HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(HEIGHT);
    chart(&upper, &upper_frame, &goodput)?;
    chart(&lower, &lower_frame, &p99)?;
    area.present()?;
    Ok(true)
}

/// Writes a file with a single plot.
fn write_plot(path: &Path, frame: &Frame<'_>, lines: &[Line]) -> Result<bool> {
    if lines.iter().all(|line| line.points.is_empty()) {
        return Ok(false);
    }
    let area = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    chart(&area, frame, lines)?;
    area.present()?;
    Ok(true)
}

fn chart(area: &Area<'_>, frame: &Frame<'_>, lines: &[Line]) -> Result<()> {
    let (area, right) = area.split_horizontally(WIDTH - LEGEND);
    legend(&right, lines)?;
    let all = || lines.iter().flat_map(|line| &line.points);
    let max = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(0.0, f64::max);
    let x_range = match frame.x_labels.len() {
        0 => 0.0..max(|(x, _)| *x) * 1.03,
        count => -0.2..count as f64 - 0.8,
    };
    let top = max(|(_, y)| *y) * 1.05;
    if frame.is_logarithmic {
        let min = all().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
        draw(&area, frame, lines, x_range, ((min / 1.5).max(0.001)..top * 1.5).log_scale())
    } else {
        draw(&area, frame, lines, x_range, 0.0..top)
    }
}

fn draw<Y>(area: &Area<'_>, frame: &Frame<'_>, lines: &[Line], x: std::ops::Range<f64>, y: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(frame.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)?;
    let x_label = |x: &f64| match frame.x_labels.len() {
        0 => format!("{x}"),
        _ if x.fract() != 0.0 || *x < 0.0 => String::new(),
        _ => frame.x_labels.get(*x as usize).cloned().unwrap_or_default(),
    };
    let y_label = |value: &f64| if *value < 10.0 { format!("{value}") } else { grouped(*value) };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(frame.x_labels.len().max(8))
        .y_labels(if frame.is_logarithmic { 5 } else { 10 })
        .x_label_formatter(&x_label)
        .y_label_formatter(&y_label)
        .x_desc(frame.x_title)
        .label_style(("sans-serif", 13))
        .draw()?;
    for line in lines {
        let width = if line.name == Peer::UsersApi.name() { 3 } else { 2 };
        chart.draw_series(LineSeries::new(line.points.iter().copied(), line.colour.stroke_width(width)))?;
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, line.colour.filled())))?;
    }
    Ok(())
}

/// Draws the legend outside of the plot, where it covers no lines.
fn legend(area: &Area<'_>, lines: &[Line]) -> Result<()> {
    let style = ("sans-serif", 13).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    for (index, line) in (0..).zip(lines) {
        let y = 60 + 22 * index;
        area.draw(&PathElement::new([(4, y), (24, y)], line.colour.stroke_width(3)))?;
        area.draw(&Text::new(line.name.as_str(), (30, y), style.clone()))?;
    }
    Ok(())
}
