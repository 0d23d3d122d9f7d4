//! Whether what was acknowledged is in more than one server: of a primary by each of its replicas, of a replica by its link.

use oneflight::store::{Finding, Soundness};

use super::info::Info;

/// A replica that is behind by more bytes has not received what was acknowledged a while ago.
const FAR_BEHIND: u64 = 1 << 20;
/// A replica acknowledges, and a primary is heard of, every second. In seconds.
const LONG_SILENT: u64 = 10;

/// What a primary says of one of its replicas.
struct Replica<'i> {
    /// `online`, once it has received all that was there when it connected.
    state: &'i str,
    /// In bytes.
    behind: u64,
    /// How long ago it acknowledged, in seconds.
    lag: u64,
}

impl<'i> Replica<'i> {
    fn read(line: &'i str, at: u64) -> Self {
        let part = |name: &str| {
            let mut parts = line.split(',').filter_map(|part| part.split_once('='));
            parts.find(|(known, _)| *known == name).map_or("", |(_, value)| value)
        };
        let number = |name: &str| part(name).parse().unwrap_or(0);
        Self {
            state: part("state"),
            behind: at.saturating_sub(number("offset")),
            lag: number("lag"),
        }
    }
}

pub(super) fn replicas(info: &Info) -> Finding {
    if info.text("role") == Some("slave") {
        return link(info);
    }
    let at = info.number("master_repl_offset");
    let lines = (0..info.number("connected_slaves")).filter_map(|number| info.text(&format!("slave{number}")));
    let all: Vec<_> = lines.map(|line| Replica::read(line, at)).collect();
    let count = match all.len() {
        0 => return Finding::new("replication", Soundness::Sound, "there is no replica"),
        1 => "1 replica".to_owned(),
        count => format!("{count} replicas"),
    };
    if let Some(loads) = all.iter().find(|it| it.state != "online") {
        let found = format!(
            "{count}, of which {} not received everything yet (state {})",
            match all.iter().filter(|it| it.state != "online").count() {
                1 => "1 has".to_owned(),
                many => format!("{many} have"),
            },
            if loads.state.is_empty() { "unknown" } else { loads.state },
        );
        return Finding::new("replication", Soundness::Remarkable, found).advise(
            "Promote no replica before its state is online: it lacks records, and their mutations would be done again.",
        );
    }
    let behind = all.iter().map(|it| it.behind).max().unwrap_or(0);
    let lag = all.iter().map(|it| it.lag).max().unwrap_or(0);
    let found = format!("{count}, up to {behind} bytes behind, heard of {lag} s ago at most");
    match behind <= FAR_BEHIND && lag <= LONG_SILENT {
        true => Finding::new("replication", Soundness::Sound, found),
        false => Finding::new("replication", Soundness::Remarkable, found).advise(
            "Look for what slows the replicas down: after a failover, what they have not received may be done again.",
        ),
    }
}

/// What a replica says of its primary.
fn link(info: &Info) -> Finding {
    const NEVER: &str = "Do not promote it: it lacks records, and their mutations would be done again. Look into its log, and whether it \
                         reaches its primary.";
    let finding = |verdict, found: String| Finding::new("replication", verdict, found);
    match (info.text("master_link_status"), info.number("master_sync_in_progress")) {
        (_, 1..) => finding(
            Soundness::Broken,
            "this replica is still loading what its primary has".to_owned(),
        )
        .advise(NEVER),
        (Some("up"), 0) => {
            let silent = info.number("master_last_io_seconds_ago");
            let found = format!("this replica is linked to its primary, and heard of it {silent} s ago");
            match silent <= LONG_SILENT {
                true => finding(Soundness::Sound, found),
                false => finding(Soundness::Remarkable, found)
                    .advise("Look whether the primary lives: what it has acknowledged since is not here."),
            }
        }
        (Some(_), 0) => {
            let since = match info.text("master_link_down_since_seconds").map(str::parse::<u64>) {
                Some(Ok(seconds)) => format!("for {seconds} s"),
                _ => "since its start".to_owned(),
            };
            let found = format!("the link of this replica to its primary is down {since}");
            finding(Soundness::Broken, found).advise(NEVER)
        }
        (None, 0) => finding(
            Soundness::Unknown,
            "this replica does not say whether it is linked to its primary".to_owned(),
        ),
    }
}
