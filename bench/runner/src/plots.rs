//! The plots. Clients and sizes of pools double, so their places are evenly apart.

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
    peers::Peer,
    report::grouped,
    report_extra::{middle, offered, overload_peers, sweep_median, sweep_sizes},
    results::{Figure, OverloadFigure, Results, median},
};

const GET: &str = "bench-get.svg";
const SWEEP: &str = "bench-sweep.svg";
const OVERLOAD: &str = "bench-overload.svg";

const WIDTH: u32 = 900;
const HEIGHT: u32 = 420;
const LEGEND: u32 = 250;
/// Told apart by people who see red and green alike, too.
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

/// What the axes are like.
struct Frame<'a> {
    title: &'a str,
    below: &'a str,
    /// Names of the places 0, 1, 2 and so on; without any, the places are numbers.
    places: Vec<String>,
    is_logarithmic: bool,
}

/// Writes every plot there are figures for; gives their names.
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
        GET => "GET by id on PostgreSQL: requests a second over the number of clients, a line a peer",
        SWEEP => "GET by id on PostgreSQL: requests a second over pool.max, with and without batching",
        _ => "Useful answers a second and p99 latency over the offered load",
    }
}

fn get(results: &Results, path: &Path) -> Result<bool> {
    let of = |figure: &&Figure| (figure.engine, figure.load) == (Engine::Postgres, Load::Get);
    let figures: Vec<&Figure> =
        results.figures.iter().filter(of).filter(|figure| figure.peer != Peer::Pgbench).collect();
    let places = |of: fn(&Figure) -> usize| {
        let mut places: Vec<usize> = figures.iter().map(|figure| of(figure)).collect();
        places.sort_unstable();
        places.dedup();
        places
    };
    let (clients, peers) = (places(|figure| figure.clients), places(|figure| figure.peer as usize));
    let lines = peers.iter().filter_map(|peer| {
        let of_peer = || figures.iter().filter(|figure| figure.peer as usize == *peer);
        let points = clients.iter().enumerate().filter_map(|(place, clients)| {
            let here = of_peer().filter(|figure| figure.clients == *clients);
            Some((place as f64, median(here.map(|figure| figure.per_second).collect())?))
        });
        Some(Line::of(of_peer().next()?.peer, points.collect()))
    });
    let frame = Frame {
        title: "GET by id, PostgreSQL: requests a second",
        below: "clients",
        places: clients.iter().map(usize::to_string).collect(),
        is_logarithmic: false,
    };
    alone(path, &frame, &lines.collect::<Vec<_>>())
}

fn sweep(results: &Results, path: &Path) -> Result<bool> {
    let sizes = sweep_sizes(results);
    let lines = [true, false].map(|batch| {
        let points = sizes.iter().enumerate().filter_map(|(place, max)| {
            Some((place as f64, sweep_median(results, batch, *max, |figure| figure.per_second)?))
        });
        let colour = COLOURS[usize::from(!batch)];
        Line { name: format!("pool.batch={batch}"), colour, points: points.collect() }
    });
    let frame = Frame {
        title: "GET by id, PostgreSQL, 64 clients: requests a second",
        below: "pool.max",
        places: sizes.iter().map(u32::to_string).collect(),
        is_logarithmic: false,
    };
    alone(path, &frame, &lines)
}

fn overload(results: &Results, path: &Path) -> Result<bool> {
    let lines = |value: fn(&OverloadFigure) -> f64| -> Vec<Line> {
        let points =
            |peer| offered(results, peer).iter().map(|(times, points)| (*times, middle(points, value))).collect();
        let line = |peer: Peer| Line::of(peer, points(peer));
        overload_peers(results).into_iter().map(line).collect()
    };
    let (useful, p99) = (lines(|point| point.good_per_second), lines(|point| point.p99_ms));
    if useful.is_empty() {
        return Ok(false);
    }
    let below = "offered load / the peer's own peak";
    let above = Frame { title: "Useful answers a second", below, places: Vec::new(), is_logarithmic: false };
    let under = Frame { title: "p99 in milliseconds", below, places: Vec::new(), is_logarithmic: true };
    let area = SVGBackend::new(path, (WIDTH, 2 * HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(HEIGHT);
    chart(&upper, &above, &useful)?;
    chart(&lower, &under, &p99)?;
    area.present()?;
    Ok(true)
}

fn alone(path: &Path, frame: &Frame<'_>, lines: &[Line]) -> Result<bool> {
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
    let (area, beside) = area.split_horizontally(WIDTH - LEGEND);
    legend(&beside, lines)?;
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(0.0, f64::max);
    let across = match frame.places.len() {
        0 => 0.0..most(|(x, _)| *x) * 1.03,
        count => -0.2..count as f64 - 0.8,
    };
    let top = most(|(_, y)| *y) * 1.05;
    if frame.is_logarithmic {
        let least = all().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
        draw(&area, frame, lines, across, ((least / 1.5).max(0.001)..top * 1.5).log_scale())
    } else {
        draw(&area, frame, lines, across, 0.0..top)
    }
}

fn draw<Y>(area: &Area<'_>, frame: &Frame<'_>, lines: &[Line], across: std::ops::Range<f64>, up: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(frame.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(across, up)?;
    let name = |place: &f64| match frame.places.len() {
        0 => format!("{place}"),
        _ if place.fract() != 0.0 || *place < 0.0 => String::new(),
        _ => frame.places.get(*place as usize).cloned().unwrap_or_default(),
    };
    let number = |value: &f64| if *value < 10.0 { format!("{value}") } else { grouped(*value) };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(frame.places.len().max(8))
        .y_labels(if frame.is_logarithmic { 5 } else { 10 })
        .x_label_formatter(&name)
        .y_label_formatter(&number)
        .x_desc(frame.below)
        .label_style(("sans-serif", 13))
        .draw()?;
    for line in lines {
        let width = if line.name == Peer::UsersApi.name() { 3 } else { 2 };
        chart.draw_series(LineSeries::new(line.points.iter().copied(), line.colour.stroke_width(width)))?;
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, line.colour.filled())))?;
    }
    Ok(())
}

/// Beside the plot and not inside, where it would cover lines.
fn legend(area: &Area<'_>, lines: &[Line]) -> Result<()> {
    let style = ("sans-serif", 13).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    for (place, line) in (0..).zip(lines) {
        let y = 60 + 22 * place;
        area.draw(&PathElement::new([(4, y), (24, y)], line.colour.stroke_width(3)))?;
        area.draw(&Text::new(line.name.as_str(), (30, y), style.clone()))?;
    }
    Ok(())
}
