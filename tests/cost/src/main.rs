//! Compares what a call costs with `figures.toml`, or keeps it there: the program behind `bin/cost`.
//!
//! It counts allocations, bytes and wake-ups itself, and reads the instructions that callgrind counted from standard
//! input, as the lines of JSON that `benches/instructions.rs` prints.

mod memory;

use oneflight_cost::figures::{Figure, Kept, Unit, compare, file};
use oneflight_cost::{scene, wakes};
use std::collections::HashMap;
use std::io::{Read, stdin};
use std::process::ExitCode;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/figures.toml");

fn main() -> ExitCode {
    match run() {
        Ok(passed) if passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, String> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (keep, toolchain) = match &arguments[..] {
        [verb, toolchain] if verb == "check" => (false, toolchain),
        [verb, toolchain] if verb == "keep" => (true, toolchain),
        _ => return Err("usage: oneflight-cost check|keep <toolchain>; `bin/cost` runs it".to_owned()),
    };
    let figures = counted()?;
    if keep {
        std::fs::write(FILE, file(toolchain, &figures)).map_err(|error| format!("{FILE}: {error}"))?;
        println!("cost: {} figures kept in tests/cost/figures.toml", figures.len());
        return Ok(true);
    }
    let text = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}; `bin/cost --keep` makes it"))?;
    let kept = Kept::parse(&text)?;
    print(&figures, &kept);
    let findings = compare(&kept, &figures);
    for finding in &findings {
        println!("{finding}");
    }
    if kept.toolchain != *toolchain {
        println!("another toolchain than the kept figures' counted the instructions, which may be all the difference:");
        println!("  kept {}\n  here {toolchain}", kept.toolchain);
    }
    let failed = findings.iter().filter(|finding| finding.fails()).count();
    let verdict = if failed == 0 { "passed" } else { "FAILED" };
    println!(
        "cost: {verdict}, {} figures, {failed} grown or without a kept one, {} fallen",
        figures.len(),
        findings.len() - failed
    );
    Ok(failed == 0)
}

fn counted() -> Result<Vec<Figure>, String> {
    let mut counts = instructions()?;
    let mut figures = Vec::new();
    for scene in scene::SCENES {
        let Some(count) = counts.remove(scene.name) else {
            return Err(format!("callgrind has not counted `{}`", scene.name));
        };
        let value = (count as f64 / scene.callers as f64).round() as u64;
        figures.push(Figure::new(Unit::Instructions, scene.name, scene.what, value));
    }
    if let Some(name) = counts.into_keys().next() {
        return Err(format!("callgrind has counted `{name}`, which is no scene"));
    }
    figures.extend(scene::SCENES.iter().map(memory::allocations));
    figures.extend(memory::bytes());
    figures.extend(wakes::figures());
    Ok(figures)
}

/// The instructions of each scene by its name.
fn instructions() -> Result<HashMap<String, u64>, String> {
    let mut text = String::new();
    stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
    let mut counts = HashMap::new();
    for line in text.lines() {
        let summary: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{error} in what gungraun printed: {line}"))?;
        let name = summary.get("function_name").and_then(serde_json::Value::as_str);
        let count = summary.pointer("/profiles/0/data/total/metrics/Ir/values/new");
        let (Some(name), Some(count)) = (name, count.and_then(serde_json::Value::as_u64)) else {
            return Err(format!("there is no count in what gungraun printed: {line}"));
        };
        counts.insert(name.to_owned(), count);
    }
    Ok(counts)
}

/// The table: what was counted, and what is kept.
fn print(figures: &[Figure], kept: &Kept) {
    println!("{:<14}{:<26}{:>10}{:>10}", "", "", "counted", "kept");
    for figure in figures {
        let old = kept.value(figure).map_or("-".to_owned(), |value| value.to_string());
        println!(
            "{:<14}{:<26}{:>10}{:>10}",
            figure.unit.name(),
            figure.name,
            figure.value,
            old
        );
    }
}
