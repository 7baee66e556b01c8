//! The same as pictures.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::backlog;
use crate::results::Measurement;

const SIZE: (u32, u32) = (900, 480);
const OURS: RGBColor = RGBColor(37, 99, 175);
const LIMIT: RGBColor = RGBColor(190, 190, 190);

/// Writes what there is to be seen.
pub(crate) fn write(directory: &Path, measurements: &[Measurement]) -> Result<()> {
    let rated: Vec<&Measurement> = measurements
        .iter()
        .filter(|measurement| {
            !measurement.rate().is_nan() && !measurement.name.contains('_') && measurement.name != "steady"
        })
        .collect();
    bars(&directory.join("rates.svg"), "orders a second (grey: the limit beside it)", &rated)?;
    let scale: Vec<&Measurement> = measurements.iter().filter(|m| m.name.starts_with("scale_")).collect();
    bars(&directory.join("scale.svg"), "orders a second, by workers and pipelines", &scale)?;
    let backlog: Vec<&Measurement> = measurements.iter().filter(|m| m.name.starts_with(backlog::NAME)).collect();
    bars(&directory.join("backlog.svg"), "orders a second, by orders pending besides", &backlog)
}

fn bars(path: &Path, title: &str, measurements: &[&Measurement]) -> Result<()> {
    if measurements.is_empty() {
        return Ok(());
    }
    draw(path, title, measurements).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn draw(path: &Path, title: &str, measurements: &[&Measurement]) -> Result<(), Box<dyn std::error::Error>> {
    let highest =
        measurements.iter().flat_map(|m| [m.rate(), m.limit()]).filter(|value| !value.is_nan()).fold(0.0, f64::max);
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let count = measurements.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..count, 0.0..highest * 1.1)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).y_label_formatter(&|value| format!("{value:.0}")).draw()?;
    for (index, measurement) in measurements.iter().enumerate() {
        let left = index as f64;
        if !measurement.limit().is_nan() {
            chart.draw_series([Rectangle::new(
                [(left + 0.1, 0.0), (left + 0.5, measurement.limit())],
                LIMIT.filled(),
            )])?;
        }
        chart.draw_series([Rectangle::new([(left + 0.3, 0.0), (left + 0.8, measurement.rate())], OURS.filled())])?;
        let name = measurement.name.trim_start_matches("scale_").trim_start_matches(backlog::NAME).to_owned();
        let style = ("sans-serif", 13).into_font();
        chart.draw_series([Text::new(name, (left + 0.1, highest * 1.07), style)])?;
    }
    area.present()?;
    Ok(())
}
