//! `shunt check`: whether an agent can run on this host, what it would lack, and what is in its way.

use super::{Exit, columns, plain, print};
use crate::check::gather::{Wanted, gather};
use crate::check::{Finding, State, judge, worst};
use crate::cli::CheckArgs;
use crate::devices::Choice;

/// Looks, judges and prints. A host where an agent cannot run is an answer and not an error, but for the exit code.
pub fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let wanted = Wanted {
        cgroup: args.cgroup.clone(),
        pin_dir: args.pin.pin_dir.clone(),
        devices: Choice {
            devices: args.devices.devices.clone(),
            pod_devices: args.devices.pod_devices.clone(),
            more_pods: None,
        },
        healthz_address: args.healthz_address,
        metrics_address: args.metrics.metrics_address,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = judge(&runtime.block_on(gather(&wanted)));
    print(args.output.output, &findings, |findings| table(findings))?;
    Ok(exit_for(worst(&findings)))
}

/// What nobody could look at is no good news: a check that saw too little does not pass.
const fn exit_for(worst: State) -> Exit {
    match worst {
        State::Ok | State::Info => Exit::Done,
        State::Unseen | State::Warning => Exit::Found,
        State::Missing => Exit::Unfit,
    }
}

/// All findings, a line each, then what there is to say of those that are not as they should be, worst first.
fn table(findings: &[Finding]) -> String {
    let row =
        |finding: &Finding| [plain(&finding.check), finding.state.name().to_owned(), plain(&finding.found)];
    let text = columns(["CHECK", "STATE", "FOUND"], findings.iter().map(row));
    let mut told: Vec<&Finding> = findings.iter().filter(|finding| finding.advice.is_some()).collect();
    told.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    let line = |finding: &&Finding| {
        let advice = plain(finding.advice.as_deref().unwrap_or_default());
        format!("{}: {}: {advice}\n", finding.state.name(), plain(&finding.check))
    };
    let advice: String = told.iter().map(line).collect();
    format!("{text}\n{advice}\n{}\n", summary(findings))
}

fn summary(findings: &[Finding]) -> String {
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let counts = [
        (count(State::Missing), "missing"),
        (count(State::Warning), "warnings"),
        (count(State::Unseen), "not seen"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{what}: {count}"))
        .collect();
    match worst(findings) {
        State::Ok | State::Info => "an agent can run here, and nothing needs to be done".to_owned(),
        State::Unseen | State::Warning => format!("an agent can run here; {}", counts.join(", ")),
        State::Missing => format!("an agent cannot run here; {}", counts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &str, state: State, advice: Option<&str>) -> Finding {
        Finding {
            check: check.to_owned(),
            state,
            found: "it\u{1b}s".to_owned(),
            advice: advice.map(str::to_owned),
        }
    }

    #[test]
    fn exit_codes_follow_from_the_worst_finding() {
        let codes = [State::Ok, State::Info, State::Unseen, State::Warning, State::Missing].map(exit_for);
        assert_eq!(codes, [Exit::Done, Exit::Done, Exit::Found, Exit::Found, Exit::Unfit]);
        let of = |states: &[State]| {
            let findings: Vec<Finding> = states.iter().map(|state| finding("x", *state, None)).collect();
            exit_for(worst(&findings))
        };
        assert_eq!(of(&[]), Exit::Done);
        assert_eq!(of(&[State::Info, State::Unseen, State::Ok]), Exit::Found);
        assert_eq!(of(&[State::Missing, State::Warning]), Exit::Unfit);
    }

    #[test]
    fn the_table_tells_the_worst_first_and_drives_no_terminal() {
        let findings = [
            finding("kernel", State::Ok, None),
            finding("IPv6", State::Info, Some("one")),
            finding("pins", State::Warning, Some("two")),
        ];
        let text = table(&findings);
        assert_eq!(
            text,
            "CHECK   STATE    FOUND\nkernel  ok       it\u{fffd}s\nIPv6    info     it\u{fffd}s\n\
             pins    WARNING  it\u{fffd}s\n\nWARNING: pins: two\ninfo: IPv6: one\n\n\
             an agent can run here; warnings: 1\n"
        );
        assert!(summary(&findings[..2]).ends_with("nothing needs to be done"));
        let unfit = summary(&[finding("a", State::Missing, None), finding("b", State::Unseen, None)]);
        assert_eq!(unfit, "an agent cannot run here; missing: 1, not seen: 1");
    }

    #[test]
    fn programs_read_the_same_fields() {
        let json = serde_json::to_value(finding("pins", State::Unseen, Some("why"))).unwrap();
        let wanted = serde_json::json!({
            "check": "pins", "state": "unseen", "found": "it\u{1b}s", "advice": "why"
        });
        assert_eq!(json, wanted);
    }
}
