//! How the server is set up, and what of it breaks a promise. In a cluster, each finding is the worst of all servers.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, Value, cmd};

use super::super::errors::unavailable;
use super::super::store::RedisStore;
use oneflight::store::{Finding, Soundness, StoreError};

mod info;
mod replication;

use info::Info;
use replication::replicas;

/// Clocks that differ by less differ by nothing that matters, in milliseconds.
const SAME_CLOCK: i64 = 2_000;

pub(super) async fn all(store: &RedisStore) -> Result<Vec<Finding>, StoreError> {
    let connection = &store.0.connection;
    let asked = async |command: &Cmd| connection.answer_to(command, store.0.patience).await;
    let mut findings = match asked(cmd("INFO").arg("everything")).await {
        Ok(answer) => worst(texts(answer).into_iter().map(|text| of(&Info(text)))),
        Err(error) if error.code().is_some() => vec![Finding::new(
            "server",
            Soundness::Unknown,
            format!("it may not be asked: {error}"),
        )],
        Err(error) => return Err(unavailable(error)),
    };
    let before = here();
    findings.push(match asked(&cmd("TIME")).await {
        Ok(answer) => clock(&answer, before, here()),
        Err(error) => Finding::new("clock", Soundness::Unknown, format!("it may not be asked for: {error}")),
    });
    findings.push(match asked(cmd("CONFIG").arg("GET").arg("appendfsync")).await {
        Ok(answer) => appendfsync(&answer),
        Err(error) => Finding::new(
            "appendfsync",
            Soundness::Unknown,
            format!("it may not be asked for: {error}"),
        ),
    });
    findings.push(acknowledgement(store));
    findings.push(setbacks(store));
    Ok(findings)
}

/// What each server has answered.
fn texts(answer: Value) -> Vec<String> {
    match answer {
        Value::BulkString(text) => vec![String::from_utf8_lossy(&text).into_owned()],
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => vec![text],
        Value::Map(servers) => servers.into_iter().flat_map(|(_, answer)| texts(answer)).collect(),
        Value::Array(servers) => servers.into_iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Returns the worst finding of each name.
fn worst(servers: impl Iterator<Item = Vec<Finding>>) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for finding in servers.flatten() {
        match all.iter_mut().find(|known| known.name == finding.name) {
            Some(known) if known.verdict < finding.verdict => *known = finding,
            Some(_) => {}
            None => all.push(finding),
        }
    }
    all
}

fn of(info: &Info) -> Vec<Finding> {
    vec![
        version(info),
        eviction(info),
        memory(info),
        persistence(info),
        role(info),
        replicas(info),
        cluster(info),
        latency(info),
    ]
}

fn version(info: &Info) -> Finding {
    let found = info.text("valkey_version").map(|version| format!("Valkey {version}"));
    let redis = info.text("redis_version").unwrap_or_default();
    let found = found.unwrap_or_else(|| format!("Redis {redis}"));
    let mut numbers = redis.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        (0, _) => Finding::new("version", Soundness::Unknown, "the server does not say it"),
        known if known >= (6, 2) => Finding::new("version", Soundness::Sound, found),
        _ => Finding::new("version", Soundness::Broken, found)
            .advise("Upgrade the server to Redis 6.2 or newer, or to Valkey."),
    }
}

fn eviction(info: &Info) -> Finding {
    let policy = info.text("maxmemory_policy").unwrap_or("unknown");
    let most = info.number("maxmemory");
    let finding = |verdict| Finding::new("eviction policy", verdict, policy);
    match (policy, most) {
        ("unknown", _) => finding(Soundness::Unknown),
        ("noeviction", _) => finding(Soundness::Sound),
        (_, 0) => finding(Soundness::Remarkable).advise(
            "Set maxmemory-policy to noeviction before maxmemory is set: then the server would delete records.",
        ),
        _ => finding(Soundness::Broken)
            .advise("Set maxmemory-policy to noeviction: a record that is evicted lets its mutation be done again."),
    }
}

fn memory(info: &Info) -> Finding {
    let (used, most) = (info.number("used_memory"), info.number("maxmemory"));
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match most {
        0 => Finding::new(
            "memory",
            Soundness::Sound,
            format!("{} MiB, without a limit of the server's", mib(used)),
        ),
        _ => {
            let found = format!("{} MiB of {} MiB", mib(used), mib(most));
            match used > most / 10 * 9 {
                false => Finding::new("memory", Soundness::Sound, found),
                true => Finding::new("memory", Soundness::Remarkable, found).advise(
                    "Give the server more memory, or keep records for less long: a server without any claims nothing.",
                ),
            }
        }
    }
}

fn persistence(info: &Info) -> Finding {
    let finding = |verdict, found: &str| Finding::new("persistence", verdict, found);
    let failed = [
        "aof_last_write_status",
        "aof_last_bgrewrite_status",
        "rdb_last_bgsave_status",
    ]
    .into_iter()
    .find(|status| info.text(status).is_some_and(|status| status != "ok"));
    match (info.text("aof_enabled"), failed) {
        (_, Some(failed)) => finding(Soundness::Broken, failed)
            .advise("Look into the server's log: what is acknowledged is not written to the disk."),
        (Some("1"), None) => finding(Soundness::Sound, "appendonly is on"),
        (Some(_), None) => finding(Soundness::Broken, "appendonly is off")
            .advise("Set appendonly to yes: a server that stops has lost everything since its last snapshot, and those mutations may be done again."),
        (None, None) => finding(Soundness::Unknown, "the server does not say it"),
    }
}

fn role(info: &Info) -> Finding {
    match info.text("role") {
        Some("master") => Finding::new("role of the server", Soundness::Sound, "it is a primary"),
        Some(_) => Finding::new("role of the server", Soundness::Broken, "it is a replica")
            .advise("Connect to the primary: nothing can be claimed here."),
        None => Finding::new("role of the server", Soundness::Unknown, "the server does not say it"),
    }
}

fn cluster(info: &Info) -> Finding {
    let found = match info.number("cluster_enabled") {
        0 => "it is no cluster",
        _ => "it is a server of a cluster",
    };
    Finding::new("cluster", Soundness::Sound, found)
}

fn latency(info: &Info) -> Finding {
    let lua = info.number("used_memory_scripts");
    let clients = info.number("blocked_clients");
    Finding::new(
        "scripts",
        Soundness::Sound,
        format!("{lua} bytes of scripts, {clients} clients that wait"),
    )
}

/// The machine's time, in milliseconds.
fn here() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn clock(answer: &Value, before: i64, after: i64) -> Finding {
    let number = |value: &Value| match value {
        Value::BulkString(text) => str::from_utf8(text).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let there = match answer {
        Value::Array(parts) => match parts.as_slice() {
            [seconds, micros] => number(seconds).zip(number(micros)),
            _ => None,
        },
        _ => None,
    };
    let Some((seconds, micros)) = there else {
        return Finding::new("clock", Soundness::Unknown, "each server of a cluster has its own");
    };
    let there = seconds * 1000 + micros / 1000;
    let ahead = match there {
        there if there > after => there - after,
        there if there < before => there - before,
        _ => 0,
    };
    let found = format!("the server's clock is {ahead} ms ahead of this machine's");
    match ahead.abs() > SAME_CLOCK {
        false => Finding::new("clock", Soundness::Sound, found),
        true => Finding::new("clock", Soundness::Remarkable, found)
            .advise("Set both clocks by NTP: leases, retention and tokens go by the server's."),
    }
}

fn appendfsync(answer: &Value) -> Finding {
    let all = texts_of_settings(answer);
    let finding = |verdict, found: &str| Finding::new("appendfsync", verdict, found);
    match all.iter().find(|policy| policy.as_str() != "always") {
        _ if all.is_empty() => finding(Soundness::Unknown, "the server does not say it"),
        None => finding(Soundness::Sound, "always"),
        Some(policy) if policy == "no" => finding(Soundness::Broken, policy)
            .advise("Set appendfsync to everysec or always: a machine that crashes loses what the system has not written by itself."),
        Some(policy) => finding(Soundness::Remarkable, policy)
            .advise("Set appendfsync to always where no mutation may be done twice: a machine that crashes loses up to two seconds."),
    }
}

/// The values of one setting, of each server.
fn texts_of_settings(answer: &Value) -> Vec<String> {
    let policies = ["always", "everysec", "no"];
    let mut found = Vec::new();
    let mut values = vec![answer];
    while let Some(value) = values.pop() {
        match value {
            Value::Array(parts) => values.extend(parts),
            Value::Map(pairs) => values.extend(pairs.iter().map(|(_, value)| value)),
            Value::BulkString(text) => {
                let text = String::from_utf8_lossy(text).into_owned();
                found.extend(policies.contains(&&*text).then_some(text));
            }
            Value::SimpleString(text) => found.extend(policies.contains(&&**text).then(|| text.clone())),
            _ => {}
        }
    }
    found
}

fn acknowledgement(store: &RedisStore) -> Finding {
    match store.0.acknowledgement {
        Some(wanted) => Finding::new(
            "acknowledgement",
            Soundness::Sound,
            format!("{} replicas within {:?}", wanted.replicas, wanted.within),
        ),
        None => Finding::new("acknowledgement", Soundness::Remarkable, "replicas are not waited for by this tool")
            .advise("Have the service use `acknowledged_by` where there are replicas: a failover may lose what only the primary has."),
    }
}

fn setbacks(store: &RedisStore) -> Finding {
    match store.setbacks() {
        0 => Finding::new("setbacks", Soundness::Sound, "this process has seen none"),
        seen => Finding::new("setbacks", Soundness::Broken, format!("{seen}"))
            .advise("Look for a failover, or a restart from an older file: records that were as new are lost."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_judged() {
        let verdict = |text: &str, name| {
            let findings = of(&Info(text.to_owned()));
            findings.into_iter().find(|it| it.name == name).map(|it| it.verdict)
        };
        for (text, name, expected) in [
            ("redis_version:6.0.16", "version", Soundness::Broken),
            (
                "redis_version:7.2.4\r\nvalkey_version:8.1.0",
                "version",
                Soundness::Sound,
            ),
            (
                "maxmemory:0\r\nmaxmemory_policy:allkeys-lru",
                "eviction policy",
                Soundness::Remarkable,
            ),
            (
                "maxmemory:5\r\nmaxmemory_policy:allkeys-lru",
                "eviction policy",
                Soundness::Broken,
            ),
            (
                "maxmemory:5\r\nmaxmemory_policy:noeviction",
                "eviction policy",
                Soundness::Sound,
            ),
            ("maxmemory:100\r\nused_memory:95", "memory", Soundness::Remarkable),
            ("aof_enabled:0", "persistence", Soundness::Broken),
            (
                "aof_enabled:1\r\naof_last_write_status:err",
                "persistence",
                Soundness::Broken,
            ),
            (
                "aof_enabled:1\r\naof_last_write_status:ok",
                "persistence",
                Soundness::Sound,
            ),
            ("role:slave", "role of the server", Soundness::Broken),
            (
                "connected_slaves:1\r\nmaster_repl_offset:9000000\r\nslave0:ip=::1,state=online,offset=1,lag=0",
                "replication",
                Soundness::Remarkable,
            ),
            (
                "role:master\r\nconnected_slaves:1\r\nmaster_repl_offset:7\r\nslave0:ip=::1,state=online,offset=7,lag=1",
                "replication",
                Soundness::Sound,
            ),
            (
                "role:master\r\nconnected_slaves:1\r\nmaster_repl_offset:0\r\nslave0:ip=::1,state=wait_bgsave,offset=0,lag=0",
                "replication",
                Soundness::Remarkable,
            ),
            (
                "role:master\r\nconnected_slaves:1\r\nmaster_repl_offset:7\r\nslave0:ip=::1,state=online,offset=7,lag=60",
                "replication",
                Soundness::Remarkable,
            ),
            (
                "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:1\r\nmaster_sync_in_progress:0",
                "replication",
                Soundness::Sound,
            ),
            (
                "role:slave\r\nmaster_link_status:down\r\nmaster_sync_in_progress:1",
                "replication",
                Soundness::Broken,
            ),
            (
                "role:slave\r\nmaster_link_status:down\r\nmaster_link_down_since_seconds:3",
                "replication",
                Soundness::Broken,
            ),
        ] {
            assert_eq!(verdict(text, name), Some(expected), "{text}");
        }
    }
}
