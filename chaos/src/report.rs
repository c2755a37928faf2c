//! What a campaign found, for programs: `.dev/reports/chaos.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::checker::Verdict;

/// A violation.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The seed that shows it.
    pub seed: u64,
    /// Which invariant.
    pub invariant: String,
    /// Contradictions found.
    pub contradictions: usize,
    /// The first few.
    pub shown: Vec<String>,
}

impl Finding {
    /// What a verdict found under a seed.
    pub fn new(seed: u64, verdict: &Verdict) -> Self {
        Self {
            seed,
            invariant: verdict.invariant.to_owned(),
            contradictions: verdict.contradictions,
            shown: verdict.shown.clone(),
        }
    }
}

/// What schedules found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CampaignReport {
    /// The first and the last seed.
    pub seeds: [u64; 2],
    /// Schedules run.
    pub schedules: usize,
    /// Operations of clients.
    pub operations: usize,
    /// Orders accepted.
    pub accepted: usize,
    /// Faults injected.
    pub faults: usize,
    /// By kind.
    pub fault_counts: BTreeMap<String, usize>,
    /// What did not hold.
    pub findings: Vec<Finding>,
    /// Schedules that could not be played, with why.
    pub unusable: Vec<String>,
    /// Seconds.
    pub took_s: f64,
}

/// What crash points showed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CrashPointReport {
    /// Points times actions in the code.
    pub listed: usize,
    /// Those that were passed while armed.
    pub ran: Vec<String>,
    /// Those that were not: each is a violation.
    pub not_reached: Vec<String>,
    /// Point and invariant.
    pub violations: Vec<(String, String)>,
    /// Seconds.
    pub took_s: f64,
}

/// A planted mistake that was noticed.
#[derive(Debug, Clone, Serialize)]
pub struct Caught {
    /// Its name.
    pub mistake: String,
    /// The seed that noticed it.
    pub seed: u64,
    /// By which invariants.
    pub invariants: Vec<String>,
    /// The first contradiction.
    pub shown: String,
}

/// What planted mistakes showed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PlantedReport {
    /// Mistakes planted.
    pub total: usize,
    /// Those that were noticed.
    pub caught: Vec<Caught>,
    /// Those that were not.
    pub missed: Vec<String>,
    /// Seconds.
    pub took_s: f64,
}

/// Writes into the report at `path` what was run this time; what was not run this time stays as it was.
///
/// # Errors
/// The file cannot be written.
pub fn write(
    path: &Path,
    git_hash: &str,
    campaign: Option<&CampaignReport>,
    crash_points: Option<&CrashPointReport>,
    planted: Option<&PlantedReport>,
) -> anyhow::Result<()> {
    let before = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut report: Map<String, Value> = before.unwrap_or_default();
    for key in
        ["schedules", "operations", "accepted", "faults", "violations", "planted_found", "planted_total"]
    {
        report.entry(key).or_insert(json!(0));
    }
    if let Some(campaign) = campaign {
        report.insert("schedules".to_owned(), json!(campaign.schedules));
        report.insert("operations".to_owned(), json!(campaign.operations));
        report.insert("accepted".to_owned(), json!(campaign.accepted));
        report.insert("faults".to_owned(), json!(campaign.faults));
        report.insert("violations".to_owned(), json!(campaign.findings.len() + campaign.unusable.len()));
        report.insert("campaign".to_owned(), section(campaign, git_hash)?);
    }
    if let Some(crash_points) = crash_points {
        report.insert("crash_points".to_owned(), section(crash_points, git_hash)?);
    }
    if let Some(planted) = planted {
        report.insert("planted_found".to_owned(), json!(planted.caught.len()));
        report.insert("planted_total".to_owned(), json!(planted.total));
        report.insert("planted".to_owned(), section(planted, git_hash)?);
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    Ok(())
}

fn section(of: &impl Serialize, git_hash: &str) -> anyhow::Result<Value> {
    let mut section = serde_json::to_value(of)?;
    section["git"] = json!(git_hash);
    #[expect(clippy::disallowed_methods, reason = "when it was run, for people")]
    let at = chrono::Utc::now();
    section["at"] = json!(at);
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_run_this_time_stays_in_the_report() {
        let folder = std::env::temp_dir().join(format!("chaos-report-{}", uuid::Uuid::new_v4()));
        let path = folder.join("chaos.json");
        let planted = PlantedReport { total: 3, missed: vec!["one".to_owned()], ..PlantedReport::default() };
        write(&path, "abc", None, None, Some(&planted)).unwrap();
        let campaign = CampaignReport { schedules: 7, accepted: 11, ..CampaignReport::default() };
        write(&path, "def", Some(&campaign), None, None).unwrap();

        let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&report["schedules"], &report["accepted"]), (&json!(7), &json!(11)));
        assert_eq!((&report["planted_total"], &report["planted_found"]), (&json!(3), &json!(0)));
        assert_eq!((&report["planted"]["git"], &report["campaign"]["git"]), (&json!("abc"), &json!("def")));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
