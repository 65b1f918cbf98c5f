//! The table.

use serde::Serialize;

use super::{Report, ReportRow};
use crate::takeover;

/// The value's JSON form without quotes.
pub fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

const GROUPS: [&str; 6] = ["engine", "workers", "api", "postgres", "kafka", "load"];

/// The table and its yardsticks.
pub fn render(report: &Report) -> String {
    let mut head: Vec<String> = ["", "in flight", "sagas/s", "p50 ms", "p99", "p99.9", "answer p50", "p99"]
        .map(String::from)
        .to_vec();
    head.push("CPU ms".into());
    head.extend(GROUPS.map(String::from));
    head.extend(["commits", "WAL bytes", "Kafka bytes", "MB"].map(String::from));
    if report.ceiling_per_s.is_some() {
        head.push("of ceiling".into());
    }
    let mut lines = vec![head];
    lines.extend(report.rows.iter().map(|row| cells(row, report.ceiling_per_s)));
    let mut text = align(&lines);
    for row in report.rows.iter().filter(|row| !row.books_balanced) {
        text.push_str(&format!("\nNO FIGURES for {}: the books do not balance\n", row.title()));
        for violation in &row.books.violations {
            text.push_str(&format!("  {violation}\n"));
        }
    }
    let watched = |row: &ReportRow| Some((row.title(), row.figures.clone()?.statements));
    for (title, statements) in report.rows.iter().filter_map(watched).filter(|(_, s)| !s.is_empty()) {
        text.push_str(&format!("\nStatements of {title}, by total time\n"));
        for s in &statements {
            let query: String = s.query.chars().take(110).collect();
            text.push_str(&format!(
                "  {:9.0} ms {:8} x {:8.3} ms {:9} rows  {:<12} {query}\n",
                s.total_ms, s.calls, s.mean_ms, s.rows, s.database
            ));
        }
    }
    for row in report.rows.iter().filter(|row| !row.profile.is_empty()) {
        text.push_str(&format!("\nWhere the time of {} went\n", row.title()));
        for spent in &row.profile {
            text.push_str(&format!("  {:5.1} %  {:<14} {}\n", spent.percent, spent.process, spent.function));
        }
    }
    for row in &report.rows {
        if let Some(read) = row.figures.as_ref().and_then(|figures| figures.read) {
            text.push_str(&format!(
                "\n{} reads in {}: p50 {:.1} ms, p99 {:.1} ms\n",
                thousands(read.count as f64),
                row.title(),
                read.p50_ms,
                read.p99_ms
            ));
        }
    }
    for row in &report.rows {
        if let Some(timers) = row.timers {
            text.push_str(&format!(
                "\n{} timers fired in {}: 99 of 100 within {:.0} ms\n",
                timers.timers,
                row.title(),
                timers.p99_ms
            ));
        }
    }
    for takeover in &report.takeovers {
        text.push_str(&format!("\n{}\n", takeover::summary(takeover).trim_start()));
    }
    if let (Some(reference), Some(ceiling)) = (report.reference_per_s, report.ceiling_per_s) {
        text.push_str(&format!(
            "\nreference {} sagas/s (plain SQL, frozen); ceiling {} sagas/s (an order's rows in the engine's database)\n",
            thousands(reference),
            thousands(ceiling)
        ));
    }
    text
}

fn cells(row: &ReportRow, ceiling: Option<f64>) -> Vec<String> {
    let pace = match (row.in_flight, row.rate_per_s) {
        (Some(places), _) => thousands(places as f64),
        (_, rate) => format!("open {}/s", thousands(rate.unwrap_or_default())),
    };
    let mut cells = vec![format!("{} {}", row.mode_title(), word(&row.mix)), pace];
    let Some(figures) = &row.figures else {
        cells.push("none".into());
        return cells;
    };
    let ms = |value: Option<f64>| match value {
        None => "–".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}"),
        Some(ms) => thousands(ms),
    };
    cells.push(thousands(figures.sagas_per_s));
    cells.push(ms(figures.latency.map(|l| l.p50_ms)));
    cells.push(ms(figures.latency.map(|l| l.p99_ms)));
    cells.push(ms(figures.latency.map(|l| l.p999_ms)));
    cells.push(ms(figures.answer.map(|l| l.p50_ms)));
    cells.push(ms(figures.answer.map(|l| l.p99_ms)));
    cells.push(format!("{:.3}", figures.cpu_ms_per_saga));
    let by_group = &figures.cpu_ms_per_saga_by_group;
    cells.extend(GROUPS.map(|group| by_group.get(group).map_or("–".to_owned(), |ms| format!("{ms:.3}"))));
    cells.push(format!("{:.3}", figures.commits_per_saga));
    cells.push(thousands(figures.wal_bytes_per_saga));
    cells.push(thousands(figures.kafka_bytes_per_saga));
    cells.push(thousands(figures.memory_mb.values().sum()));
    if let Some(ceiling) = ceiling {
        cells.push(format!("{:.0} %", figures.sagas_per_s / ceiling * 100.0));
    }
    cells
}

/// Aligns the first column left and the others right.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let wide = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    let mut text = String::new();
    for line in lines {
        for (n, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[n] - cell.chars().count());
            text.push_str(&if n == 0 { format!("{cell}{pad}") } else { format!("  {pad}{cell}") });
        }
        text.push('\n');
    }
    text
}

/// `13,974`
pub fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(0.0), "0");
    }
}
