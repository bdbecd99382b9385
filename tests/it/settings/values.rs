//! The valid values of each kind: durations, sizes, counts, choices, addresses, URLs.

use std::time::Duration;

use alim_bridge::{
    config::{Config, SETTINGS},
    middleware::origins::Origins,
};

use super::{KEY, assert_accepted, assert_rejected, error, invalid, parse, parsed};

type Read = fn(&Config) -> Duration;

/// Every duration, and where the config has it.
const DURATIONS: [(&str, Read); 13] = [
    ("CONNECT_TIMEOUT", |it| it.upstream.connect_timeout),
    ("INVOKE_TIMEOUT", |it| it.server.timeouts.invoke),
    ("STREAM_INITIAL_TIMEOUT", |it| it.server.timeouts.initial),
    ("STREAM_IDLE_TIMEOUT", |it| it.server.timeouts.idle),
    ("STREAM_LIFETIME", |it| it.server.timeouts.lifetime),
    ("POOL_IDLE_TIMEOUT", |it| it.upstream.pool_idle_timeout),
    ("KEEPALIVE_INTERVAL", |it| it.server.keepalive_interval),
    ("KEEPALIVE_TIMEOUT", |it| it.server.keepalive_timeout),
    ("MAX_CONNECTION_AGE", |it| {
        it.server.max_connection_age.unwrap_or_default()
    }),
    ("UPSTREAM_HEALTH_INTERVAL", |it| it.server.health_interval),
    ("QUOTA_WAIT", |it| it.upstream.quota.wait),
    ("DRAIN_DELAY", |it| it.server.drain_delay),
    ("DRAIN_TIMEOUT", |it| it.server.drain_timeout),
];

#[test]
fn each_duration_reaches_its_timeout() {
    for (name, read) in DURATIONS {
        let config = parsed(&[(name, "1234ms")]);
        assert_eq!(read(&config), Duration::from_millis(1234), "{name}");
    }
}

#[test]
fn probes_that_count_against_the_key_are_rare_by_default() {
    let base = ("UPSTREAM_URL", "http://alim:8000/api/v1");
    let interval = |url: &str, more: &[(&str, &str)]| {
        let settings = [&[base, ("UPSTREAM_HEALTH_URL", url)], more].concat();
        parsed(&settings).server.health_interval
    };
    let (often, rarely) = (Duration::from_secs(5), Duration::from_secs(60));
    let counted = "http://alim:8000/api/v1/graph/health";
    assert_eq!(interval("", &[]), often);
    assert_eq!(interval("http://alim:8000/live", &[]), often);
    assert_eq!(
        interval("https://alim:8000/api/v1/graph/health", &[]),
        often
    );
    assert_eq!(interval(counted, &[]), rarely);
    let explicit = ("UPSTREAM_HEALTH_INTERVAL", "10s");
    assert_eq!(interval(counted, &[explicit]), Duration::from_secs(10));
}

#[test]
fn durations_need_a_unit_and_few_can_be_zero() {
    for (name, read) in DURATIONS {
        assert_rejected(name, &["3", "0", "-3s", "3 parsecs", "s", "1000y"]);
        assert_accepted(name, &["500ms", "3s", "15m", "1h 30m"]);
        match name {
            "DRAIN_DELAY" | "DRAIN_TIMEOUT" | "QUOTA_WAIT" => {
                assert_eq!(read(&parsed(&[(name, "0s")])), Duration::ZERO);
            }
            _ => assert_rejected(name, &["0s", "0ms"]),
        }
    }
}

#[test]
fn sizes_are_bytes_with_or_without_a_unit() {
    for name in ["MAX_REQUEST_BYTES", "MAX_REPLY_BYTES", "MAX_EVENT_BYTES"] {
        assert_rejected(
            name,
            &["0", "-1", "lots", "4 parsecs", "1073741825", "2GiB"],
        );
    }
    let settings = [
        ("MAX_REQUEST_BYTES", "65536"),
        ("MAX_REPLY_BYTES", "1GiB"),
        ("MAX_EVENT_BYTES", "4MB"),
    ];
    let Config {
        server, upstream, ..
    } = parsed(&settings);
    assert_eq!(server.max_request_bytes, 65_536);
    assert_eq!(
        (server.max_reply_bytes, upstream.max_reply_bytes),
        (1 << 30, 1 << 30)
    );
    assert_eq!(upstream.sse.max_event_bytes, 4_000_000);
}

#[test]
fn a_memory_limit_below_one_call_is_rejected_with_both_sizes() {
    assert_rejected("MEMORY_LIMIT", &["0", "4MiB", "40MiB", "much", "-1"]);
    assert_accepted("MEMORY_LIMIT", &["auto", "64MiB", "67108864", "2TiB"]);
    let small = [KEY, ("MEMORY_LIMIT", "40MiB")];
    let text = error(&small);
    assert!(
        text.contains("is 40.0 MiB") && text.contains("at least 5"),
        "{text}"
    );
    let large = [("MEMORY_LIMIT", "64MiB"), ("MAX_REPLY_BYTES", "32MiB")];
    assert_eq!(
        invalid(&[&[KEY], large.as_slice()].concat()),
        ["MEMORY_LIMIT"]
    );
    assert_accepted("MAX_REPLY_BYTES", &["1MiB"]);
}

#[test]
fn counts_and_choices_have_bounds() {
    assert_rejected("MAX_CALLS", &["0", "-1", "1.5", "1000001", "off"]);
    assert_rejected("MAX_CONNECTIONS", &["0", "1000001"]);
    assert_rejected("RETRIES", &["-1", "11", "two"]);
    assert_rejected("UPSTREAM_QUOTA", &["30", "1/min", "30/", "5/500ms", "on"]);
    assert_accepted(
        "UPSTREAM_QUOTA",
        &["off", "30/min", "5/s", "10/10s", "100/h"],
    );
    assert_rejected("CREDENTIALS", &["Service", "both"]);
    assert_rejected("SSE_FRAMING", &["Recover", "none"]);
    assert_rejected("LOG_FORMAT", &["xml"]);
    assert_rejected("LOG", &["alim_bridge=loud"]);
    assert_rejected("ACCESS_LOG", &["info", "true"]);
    let config = parsed(&[
        ("MAX_CALLS", "1000000"),
        ("MAX_CONNECTIONS", "1"),
        ("RETRIES", "0"),
    ]);
    let server = config.server;
    assert_eq!(
        (
            server.max_calls,
            server.max_connections,
            config.upstream.retries
        ),
        (1_000_000, 1, 0)
    );
}

#[test]
fn addresses_are_ip_and_port_and_only_the_admin_port_can_be_off() {
    assert_rejected(
        "LISTEN",
        &["50051", ":50051", "localhost:50051", "127.0.0.1", "off"],
    );
    assert_rejected("ADMIN_LISTEN", &["9464", "OFF"]);
    let config = parsed(&[("LISTEN", "[::1]:0"), ("ADMIN_LISTEN", "off")]);
    assert_eq!(
        (config.listen.to_string(), config.admin_listen),
        ("[::1]:0".into(), None)
    );
}

#[test]
fn urls_have_a_host_and_no_user_query_or_fragment() {
    for name in ["UPSTREAM_URL", "UPSTREAM_HEALTH_URL"] {
        assert_rejected(
            name,
            &[
                "http://u@h/",
                "http://u:p@h/",
                "http://:p@h/",
                "http://h/?a=b",
            ],
        );
        assert_rejected(
            name,
            &[
                "http://h/?",
                "http://h/#a",
                "ftp://h/",
                "h:8000",
                "/api",
                "http://",
            ],
        );
        assert_accepted(
            name,
            &[
                "http://h",
                "https://h:8443/api/v1/",
                "http://[::1]:8000/api/v1",
            ],
        );
    }
    let config = parsed(&[
        ("UPSTREAM_URL", "https://a/b"),
        ("UPSTREAM_HEALTH_URL", "http://c/d"),
    ]);
    assert_eq!(config.upstream.url.as_str(), "https://a/b");
    assert_eq!(
        config.upstream.health_url.expect("set").as_str(),
        "http://c/d"
    );
}

#[test]
fn origins_are_exactly_what_browsers_send() {
    assert_rejected(
        "GRPC_WEB",
        &[
            "app.example.az",
            "https://app.example.az/",
            "https://app.example.az/page",
            "https://app.example.az?a",
            "https://app.example.az#a",
            "https://u@app.example.az",
            "https://App.example.az",
            "https://şəki.example.az",
            "https://app.example.az:443",
            "http://localhost:80",
            "http://localhost:x",
            "http://[::1",
            "ftp://app.example.az",
            "https://*.example.az",
            "https://",
            "null",
            "OFF",
            "**",
            "https://app.example.az,",
            "https://app.example.az,*",
            "https://app.example.az,off",
        ],
    );
    let wrong = [("GRPC_WEB", "https://a.az,b,http://localhost:3000,c/")];
    assert_eq!(invalid(&[&[KEY], &wrong[..]].concat()), ["GRPC_WEB"; 2]);
    let text = error(&[&[KEY], &wrong[..]].concat());
    assert!(
        text.contains("entry 2 ") && text.contains("entry 4 "),
        "{text}"
    );
    for (settings, expected) in [
        ("", None),
        ("off", None),
        ("*", Some(Origins::Any)),
        ("http://[::1]:3000", Some(listed(&["http://[::1]:3000"]))),
        (
            "https://a.az, http://localhost:3000,https://b.az:8443",
            Some(listed(&[
                "https://a.az",
                "http://localhost:3000",
                "https://b.az:8443",
            ])),
        ),
    ] {
        assert_eq!(parsed(&[("GRPC_WEB", settings)]).server.web, expected);
    }
}

fn listed(origins: &[&'static str]) -> Origins {
    let origins = origins.iter().copied();
    Origins::Listed(origins.map(http::HeaderValue::from_static).collect())
}

#[test]
fn only_a_star_without_keys_is_open_to_every_page() {
    let is_open = |settings: &[_]| parse(settings).expect("valid").is_open_to_every_page();
    assert!(is_open(&[KEY, ("GRPC_WEB", "*")]));
    assert!(!is_open(&[KEY, ("GRPC_WEB", "https://a.az")]));
    assert!(!is_open(&[KEY]));
    assert!(!is_open(&[("CREDENTIALS", "caller"), ("GRPC_WEB", "*")]));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, "[[caller]]\nname = 'orders'\n").expect("written");
    let path = file.path().to_str().expect("UTF-8");
    assert!(!is_open(&[KEY, ("GRPC_WEB", "*"), ("CALLERS_FILE", path)]));
}

#[test]
fn an_invalid_value_is_not_in_the_error_because_it_can_be_a_key() {
    for row in SETTINGS.iter().filter(|row| !row.name.ends_with("_FILE")) {
        let key = Some(KEY).filter(|key| key.0 != row.name);
        let settings: Vec<_> = key
            .into_iter()
            .chain([(row.name, "hunter2=ü hunter2")])
            .collect();
        let text = error(&settings);
        assert!(
            text.contains(row.name) && !text.contains("hunter2"),
            "{text}"
        );
    }
    assert!(!error(&[("APIKEY", "hunter2")]).contains("hunter2"));
}

#[test]
fn debug_does_not_contain_the_key() {
    let config = parse(&[("UPSTREAM_API_KEY", "hunter2")]).expect("valid");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn bridges_that_share_a_quota_need_one_and_two_requests_each() {
    let service = ("QUOTA_SERVICE", "https://ratelimit:8081");
    let quota = |rate| ("UPSTREAM_QUOTA", rate);
    let replicas = |count| ("QUOTA_REPLICAS", count);
    for (settings, expected) in [
        (&[KEY, service][..], &["QUOTA_SERVICE"][..]),
        (&[KEY, service, quota("30/min")], &[]),
        (&[KEY, service, quota("30")], &["UPSTREAM_QUOTA"]),
        (&[KEY, quota("30/min"), replicas("15")], &[]),
        (&[KEY, quota("30/min"), replicas("16")], &["QUOTA_REPLICAS"]),
        (&[KEY, replicas("16")], &[]),
    ] {
        assert_eq!(invalid(settings), expected, "{settings:?}");
    }
    assert_rejected("QUOTA_REPLICAS", &["0", "-1", "1001", "two"]);
    for url in ["ratelimit:8081", "http://ratelimit:8081/path"] {
        let settings = [KEY, quota("30/min"), ("QUOTA_SERVICE", url)];
        assert_eq!(invalid(&settings), ["QUOTA_SERVICE"], "{url}");
    }
}
