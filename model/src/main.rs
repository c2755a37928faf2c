//! Explores the cases and prints what was found.

fn main() -> anyhow::Result<()> {
    for named in model::cases::small() {
        let began = std::time::Instant::now();
        let report = model::cases::run(&named.case, 20_000_000)?;
        eprintln!("{}: {} states, {} quiet, {} moves, depth {}, {:?}, {:?}", named.name, report.states, report.quiet, report.moves, report.depth, report.outcome, began.elapsed());
    }
    Ok(())
}
