//! One frame of `top`: lines of text that fit the terminal. All text of the bridge is sanitized.

use serde_json::Value;

use crate::sanitize;

/// Lines that the failed calls may take, below the open ones.
const MAX_FAILED_LINES: usize = 10;

/// The lines of a frame, at most `height` of at most `width` characters each.
pub(super) fn frame(status: &Value, width: usize, height: usize) -> Vec<String> {
    let mut lines = summary(status);
    let failed = failed_lines(status);
    let left = height.saturating_sub(lines.len());
    let for_failed = failed.len().min(MAX_FAILED_LINES).min(left / 2);
    lines.extend(open_lines(status, left - for_failed));
    lines.extend(failed.into_iter().take(for_failed));
    lines.truncate(height);
    lines.iter().map(|line| cut(line, width)).collect()
}

/// The first `width` characters of a line, without control characters.
pub(super) fn cut(line: &str, width: usize) -> String {
    sanitize::line(line).chars().take(width).collect()
}

fn summary(status: &Value) -> Vec<String> {
    let upstream = &status["upstream"];
    let health = match (upstream["reachable"].as_bool(), upstream["fault"].as_str()) {
        (_, Some(fault)) => format!("not healthy: {fault}"),
        (Some(true), None) => format!("reachable at {}", text(&upstream["url"])),
        _ => format!("not known yet at {}", text(&upstream["url"])),
    };
    let drain = if status["draining"] == true {
        "  draining"
    } else {
        ""
    };
    let limits = &status["limits"];
    let used = |name: &str| {
        let (used, limit) = (&limits[name]["used"], &limits[name]["limit"]);
        format!("{}/{}", whole(used), whole(limit))
    };
    let held = &limits["bufferedBytes"];
    let quota = match status["quota"]["keys"].as_array() {
        Some(keys) => {
            let left = keys
                .iter()
                .map(|key| format!("{} {}", text(&key["name"]), whole(&key["remaining"])));
            let left: Vec<_> = left.collect();
            format!(
                "{} left, {} waiting",
                left.join(", "),
                whole(&status["quota"]["waiting"])
            )
        }
        None => "off".into(),
    };
    let latency = |name: &str| {
        let figures = &status[name];
        format!(
            "{} p99 {}",
            time(&figures["p50Seconds"]),
            time(&figures["p99Seconds"])
        )
    };
    let sum = |list: &str, field: &str| -> u64 {
        let items = status[list].as_array().into_iter().flatten();
        items.map(|item| whole(&item[field])).sum()
    };
    vec![
        format!(
            "alim-bridge {}  up {}  ALİM {health}{drain}",
            text(&status["version"]),
            time(&status["uptimeSeconds"]),
        ),
        format!(
            "calls {}  connections {}  held {} of {}  quota {quota}",
            used("calls"),
            used("connections"),
            size(whole(&held["used"])),
            size(whole(&held["limit"])),
        ),
        format!(
            "first token {}  between tokens {}  started {}  failed {}",
            latency("firstToken"),
            latency("interToken"),
            sum("methods", "started"),
            sum("failures", "count"),
        ),
        String::new(),
    ]
}

fn open_lines(status: &Value, height: usize) -> Vec<String> {
    let open = &status["openCalls"];
    let calls = open["calls"].as_array().map_or(&[][..], Vec::as_slice);
    let total = whole(&open["total"]);
    let mut lines = vec![format!(
        "{:>8} {:>9} {:<12} {:<22} {:<18} {:>7} {:>9}  {}",
        "CALL", "AGE", "METHOD", "CALLER", "STATE", "TOKENS", "MEMORY", "REQUEST ID"
    )];
    let room = height.saturating_sub(3); // the head, the number of calls that are not shown, an empty line
    for call in calls.iter().take(room) {
        lines.push(format!(
            "{:>8} {:>9} {:<12} {:<22} {:<18} {:>7} {:>9}  {}",
            whole(&call["id"]),
            time(&call["ageSeconds"]),
            text(&call["method"]),
            caller(call),
            text(&call["state"]),
            whole(&call["tokens"]),
            size(whole(&call["heldBytes"])),
            text(&call["requestId"]),
        ));
    }
    let shown = calls.len().min(room) as u64;
    if total > shown {
        lines.push(format!("{:>8} more open calls", total - shown));
    }
    if total == 0 {
        lines.push("         no call is open".into());
    }
    lines.push(String::new());
    lines
}

fn failed_lines(status: &Value) -> Vec<String> {
    let calls = status["lastFailures"].as_array();
    let lines = calls.into_iter().flatten().map(|call| {
        let ended = call["endedAt"].as_u64().unwrap_or_default();
        let (hours, minutes, seconds) = (
            ended / 3_600_000 % 24,
            ended / 60_000 % 60,
            ended / 1000 % 60,
        );
        format!(
            "{:>8} {:>9} {:<12} {:<22} {:<30} {}",
            format!("{hours:02}:{minutes:02}:{seconds:02}"),
            time(&call["durationSeconds"]),
            text(&call["method"]),
            caller(call),
            text(&call["reason"]),
            text(&call["requestId"]),
        )
    });
    let lines: Vec<_> = lines.collect();
    match lines.is_empty() {
        true => Vec::new(),
        false => {
            let head = format!(
                "{:>8} {:>9} {:<12} {:<22} {:<30} {}",
                "ENDED", "DURATION", "METHOD", "CALLER", "REASON", "REQUEST ID"
            );
            [vec![head], lines].concat()
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn caller(call: &Value) -> String {
    let names = [&call["caller"], &call["peer"]];
    let name = names.into_iter().find_map(Value::as_str);
    name.unwrap_or("unknown").to_owned()
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn time(value: &Value) -> String {
    match value.as_f64() {
        None => "-".into(),
        Some(seconds) if seconds < 0.01 => format!("{:.1} ms", seconds * 1000.0),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        Some(seconds) if seconds < 60.0 => format!("{seconds:.1} s"),
        Some(seconds) if seconds < 3600.0 => format!(
            "{:.0}m{:02.0}s",
            (seconds / 60.0).floor(),
            (seconds % 60.0).floor()
        ),
        Some(seconds) => format!(
            "{:.0}h{:02.0}m",
            (seconds / 3600.0).floor(),
            (seconds / 60.0 % 60.0).floor()
        ),
    }
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(calls: usize) -> Value {
        let call = |id| json!({"id": id, "requestId": "a\u{1b}[2Jb", "method": "Stream", "caller": "orders", "state": "streams", "ageSeconds": 75.5, "tokens": 7, "heldBytes": 32768});
        let calls: Vec<_> = (1..=calls).map(call).collect();
        let failed = json!({"endedAt": 3_723_000, "method": "Invoke", "reason": "IDLE_TIMEOUT", "requestId": "f", "peer": "127.0.0.1:1", "durationSeconds": 0.5});
        json!({
            "version": "1", "uptimeSeconds": 4000.0, "upstream": {"reachable": true, "url": "http://alim"},
            "limits": {"calls": {"used": 3, "limit": 9}, "bufferedBytes": {"used": 1024, "limit": 2048}},
            "openCalls": {"total": calls.len(), "calls": calls}, "lastFailures": vec![failed; 20],
        })
    }

    #[test]
    fn a_frame_fits_the_terminal_and_counts_what_it_leaves_out() {
        for (calls, width, height) in [
            (0, 80, 24),
            (100, 80, 24),
            (3, 20, 5),
            (1000, 1, 1),
            (5, 200, 0),
        ] {
            let lines = frame(&status(calls), width, height);
            assert!(lines.len() <= height, "{height}: {lines:#?}");
            let is_fit = |line: &String| line.chars().count() <= width;
            assert!(lines.iter().all(is_fit), "{width}: {lines:#?}");
        }
        let lines = frame(&status(100), 200, 24);
        assert!(
            lines.contains(&"      93 more open calls".to_owned()),
            "{lines:#?}"
        );
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.contains("IDLE_TIMEOUT"))
                .count(),
            9
        );
        assert_eq!(lines.len(), 24);
    }

    #[test]
    fn the_figures_stand_in_the_frame_without_control_characters() {
        let lines = frame(&status(1), 200, usize::MAX).join("\n");
        for part in [
            "alim-bridge 1  up 1h06m  ALİM reachable at http://alim",
            "calls 3/9",
            "held 1.0 KiB of 2.0 KiB",
            "1m15s Stream       orders                 streams                  7  32.0 KiB  a [2Jb",
            "01:02:03    500 ms Invoke       127.0.0.1:1",
        ] {
            assert!(lines.contains(part), "{part}\n{lines}");
        }
        assert!(!lines.contains('\u{1b}'));
    }
}
