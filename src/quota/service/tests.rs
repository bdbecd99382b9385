//! Bridges that share a quota by the service, on a paused clock: who is admitted, who asks, and what a failing service costs.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::fake::{Fake, Mode};
use crate::quota::{
    Caller, Exhausted, LimitKind, Quota, Settings, Slots, UpstreamKey, window::MARGIN,
};

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);
const KEY: &str = "upstream_key=service";

/// A bridge whose quota is 6 in 10 s, of which its share is 2.
#[cfg(test)]
fn bridge(fake: &Fake, wait: Duration) -> Quota {
    let settings = Settings {
        rate: Some("6/10s".parse().expect("a rate")),
        replicas: 3,
        service: None,
        wait,
        has_service_key: true,
    };
    Quota::with(&settings, Some(fake.client()))
}

async fn acquire(quota: &Quota, name: &str, requests: u32) -> Result<Slots, Exhausted> {
    let caller = Caller {
        name: name.into(),
        weight: 1,
    };
    let far = Instant::now() + 3600 * SECOND;
    let trace = http::HeaderMap::new();
    quota
        .acquire(&UpstreamKey::Service, &caller, requests, far, &trace)
        .await
}

/// Sends one request. Returns how long it took to be admitted.
async fn send(quota: &Quota, name: &str) -> Result<Duration, Exhausted> {
    let start = Instant::now();
    let slots = acquire(quota, name, 1).await?;
    slots.current().expect("one").mark_sent();
    Ok(start.elapsed())
}

/// Starts a call. Its result is when it was sent.
#[cfg(test)]
fn start(quota: &Quota, name: &'static str) -> JoinHandle<Result<Instant, Exhausted>> {
    let quota = quota.clone();
    tokio::spawn(async move {
        send(&quota, name).await?;
        Ok(Instant::now())
    })
}

async fn sent(call: JoinHandle<Result<Instant, Exhausted>>) -> Instant {
    call.await.expect("no panic").expect("its turn")
}

fn is_up(quota: &Quota) -> bool {
    let report = quota.report().expect("on");
    report.service.expect("a service").is_up
}

/// How often it was asked, by outcome: ok, over_limit, error, timeout.
fn outcomes(quota: &Quota) -> [u64; 4] {
    let report = quota.report().expect("on");
    report.service.expect("a service").asked
}

#[tokio::test(start_paused = true)]
async fn three_bridges_send_one_quota_and_each_asks_once_too_often_in_a_window() {
    let fake = Fake::new(WINDOW, &[(KEY, 6)]);
    let began = Instant::now();
    let bridges = [(); 3].map(|()| bridge(&fake, 3600 * SECOND));
    let calls: Vec<_> = (0..36).map(|at| start(&bridges[at % 3], "a")).collect();
    let mut sent_in = [0; 7];
    for call in calls {
        let window = (sent(call).await - began).as_secs() / WINDOW.as_secs();
        sent_in[usize::try_from(window).expect("few")] += 1;
    }
    assert!(sent_in.iter().all(|sent| *sent <= 6), "{sent_in:?}");
    assert_eq!(sent_in.iter().sum::<i32>(), 36);
    let asked = fake.asked();
    for number in 0..7 {
        let of_window = |at: &Instant| (*at - began).as_secs() / WINDOW.as_secs() == number;
        let denied = asked
            .iter()
            .filter(|it| of_window(&it.at) && !it.is_admitted);
        // In the first window nothing is known, so all that the bridges' own counts allow ask at once.
        let most = if number == 0 { 12 } else { 3 };
        let denied = denied.count();
        assert!(denied <= most, "{denied} in window {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_wait_learns_when_the_window_ends() {
    let fake = Fake::new(WINDOW, &[(KEY, 1)]);
    let (one, other) = (bridge(&fake, Duration::ZERO), bridge(&fake, Duration::ZERO));
    sleep(SECOND).await;
    send(&one, "a").await.expect("the first");
    for quota in [&other, &other, &one] {
        let exhausted = send(quota, "a").await.expect_err("the second");
        assert_eq!((exhausted.wait, exhausted.of), (9 * SECOND, LimitKind::Key));
        assert_eq!(exhausted.limits.remaining, 0);
        assert_eq!(exhausted.limits.reset, 9 * SECOND);
    }
    assert_eq!(fake.asked().len(), 3, "a stopped key is not asked for");
    sleep(9 * SECOND).await;
    send(&other, "a").await.expect("as it said");
}

#[tokio::test(start_paused = true)]
async fn a_caller_over_its_own_limit_waits_alone() {
    let own = format!("{KEY}/caller=loud");
    let fake = Fake::new(WINDOW, &[(KEY, 6), (&own, 1)]);
    let quota = bridge(&fake, 3600 * SECOND);
    let began = Instant::now();
    let loud = [(); 2].map(|()| start(&quota, "loud"));
    sleep(SECOND).await;
    let third = start(&quota, "loud");
    for _ in 0..2 {
        assert_eq!(
            send(&quota, "polite").await.expect("its own"),
            Duration::ZERO
        );
    }
    let [first, second] = loud;
    assert_eq!(sent(first).await, began);
    assert_eq!(sent(second).await - began, WINDOW);
    assert_eq!(sent(third).await - began, 2 * WINDOW);
    let denied = fake.asked().iter().filter(|it| !it.is_admitted).count();
    assert_eq!(denied, 2, "once a window");
    let quota = bridge(&fake, Duration::ZERO);
    sleep(WINDOW).await;
    send(&quota, "loud").await.expect("the first");
    let exhausted = send(&quota, "loud").await.expect_err("the second");
    assert_eq!((exhausted.wait, exhausted.of), (WINDOW, LimitKind::Caller));
}

#[tokio::test(start_paused = true)]
async fn while_the_service_fails_calls_go_on_within_the_share() {
    let late = (
        Mode::Slow(500 * SECOND / 1000),
        50 * SECOND / 1000,
        [0, 0, 0, 1],
    );
    let at_once = Duration::ZERO;
    for (mode, costs, asked) in [
        late,
        (Mode::Fails, at_once, [0, 0, 1, 0]),
        (Mode::Babbles, at_once, [0, 0, 1, 0]),
        (Mode::Gone, at_once, [0, 0, 1, 0]),
    ] {
        let fake = Fake::new(WINDOW, &[(KEY, 6)]);
        fake.set(mode);
        let quota = bridge(&fake, Duration::ZERO);
        assert_eq!(
            send(&quota, "a").await.expect("its share"),
            costs,
            "{mode:?}"
        );
        assert_eq!(
            send(&quota, "a").await.expect("its share"),
            at_once,
            "{mode:?}"
        );
        let exhausted = send(&quota, "a").await.expect_err("its share is used up");
        assert_eq!(exhausted.wait, WINDOW + MARGIN, "{mode:?}");
        assert_eq!(exhausted.limits.limit, 2, "{mode:?}");
        assert_eq!(outcomes(&quota), asked, "{mode:?}");
        assert!(!is_up(&quota), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_costs_one_call_a_second_and_no_other() {
    let fake = Fake::new(WINDOW, &[(KEY, 6)]);
    fake.set(Mode::Slow(SECOND / 2));
    let quota = bridge(&fake, Duration::ZERO);
    let late = Duration::from_millis(50);
    assert_eq!(send(&quota, "a").await.expect("its share"), late);
    sleep(SECOND).await;
    let tries = start(&quota, "a");
    tokio::task::yield_now().await;
    assert!(send(&quota, "a").await.is_err(), "two are its share");
    sent(tries).await;
    assert_eq!(outcomes(&quota), [0, 0, 0, 2]);
    fake.set(Mode::Counts);
    assert!(
        send(&quota, "a").await.is_err(),
        "nobody asks within a second"
    );
    sleep(SECOND).await;
    send(&quota, "a").await.expect("the whole quota");
    assert!(is_up(&quota));
    assert_eq!(outcomes(&quota), [1, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_finds_out_that_the_service_is_back() {
    for mode in [Mode::Fails, Mode::Gone, Mode::Slow(SECOND / 2)] {
        // It counts late answers too, so it has room for them.
        let fake = Fake::new(WINDOW, &[(KEY, 60)]);
        fake.set(mode);
        let quota = bridge(&fake, 3600 * SECOND);
        for _ in 0..2 {
            send(&quota, "a").await.expect("its share");
        }
        let began = Instant::now();
        let waiting = [(); 3].map(|()| start(&quota, "a"));
        sleep(4 * SECOND).await;
        assert!(waiting.iter().all(|call| !call.is_finished()), "{mode:?}");
        fake.set(Mode::Counts);
        for call in waiting {
            let took = sent(call).await - began;
            assert!(took < 6 * SECOND, "{mode:?}: {took:?}");
        }
        let [ok, _, error, timeout] = outcomes(&quota);
        assert!(error + timeout <= 6, "one a second: {error} and {timeout}");
        assert!(ok >= 3 && is_up(&quota), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_go_on_within_the_share_while_the_service_is_gone() {
    let fake = Fake::new(WINDOW, &[(KEY, 6)]);
    fake.set(Mode::Gone);
    let quota = bridge(&fake, 3600 * SECOND);
    let began = Instant::now();
    let calls = [(); 6].map(|()| start(&quota, "a"));
    for (at, call) in (0..).zip(calls) {
        assert_eq!(sent(call).await - began, (WINDOW + MARGIN) * (at / 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_always_full_is_asked_once_a_second() {
    let fake = Fake::new(WINDOW, &[]);
    fake.set(Mode::Full);
    let quota = bridge(&fake, 3600 * SECOND);
    let waiting = [(); 5].map(|()| start(&quota, "a"));
    sleep(10 * SECOND).await;
    assert_eq!(
        outcomes(&quota)[1],
        14,
        "five at first, and then one a second"
    );
    assert!(is_up(&quota), "it answers");
    fake.set(Mode::Counts);
    for call in waiting {
        sent(call).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_admitted_by_the_bridges_own_count_before_they_ask() {
    let fake = Fake::new(WINDOW, &[]);
    let quota = bridge(&fake, Duration::ZERO);
    for _ in 0..6 {
        send(&quota, "a").await.expect("the whole quota");
    }
    send(&quota, "a").await.expect_err("no service allows more");
    assert_eq!(fake.asked().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_leaves_while_it_asks_holds_nothing() {
    let fake = Fake::new(WINDOW, &[]);
    let quota = bridge(&fake, 3600 * SECOND);
    fake.set(Mode::Slow(SECOND / 100));
    let tick = Duration::from_millis(5);
    let mut leaving: Vec<_> = (0..3).map(|_| Box::pin(acquire(&quota, "a", 2))).collect();
    for call in &mut leaving {
        assert!(timeout(tick / 10, call).await.is_err(), "it asks");
    }
    let waiting = start(&quota, "b");
    sleep(tick).await;
    assert!(!waiting.is_finished(), "six are reserved");
    drop(leaving);
    let began = Instant::now();
    assert_eq!(sent(waiting).await - began, SECOND / 100);
    assert!(is_up(&quota));
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_given_up_is_left_to_the_next_call() {
    let fake = Fake::new(WINDOW, &[]);
    fake.set(Mode::Slow(SECOND / 2));
    let quota = bridge(&fake, Duration::ZERO);
    send(&quota, "a").await.expect("its share");
    sleep(SECOND).await;
    let tries = timeout(SECOND / 100, acquire(&quota, "a", 1)).await;
    assert!(tries.is_err(), "it asks");
    fake.set(Mode::Counts);
    send(&quota, "a").await.expect("the next try");
    assert!(is_up(&quota));
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_deadline_is_rejected_at_once() {
    let fake = Fake::new(WINDOW, &[(KEY, 1)]);
    let quota = bridge(&fake, 3600 * SECOND);
    send(&quota, "a").await.expect("the first");
    let (caller, trace) = (
        Caller {
            name: "a".into(),
            weight: 1,
        },
        http::HeaderMap::new(),
    );
    for seconds in [9, 8] {
        let began = Instant::now();
        let deadline = began + seconds * SECOND;
        let asked = quota.acquire(&UpstreamKey::Service, &caller, 1, deadline, &trace);
        let exhausted = asked.await.expect_err("too late");
        assert_eq!((exhausted.wait, began.elapsed()), (WINDOW, Duration::ZERO));
    }
    assert_eq!(fake.asked().len(), 2, "the second of them knew");
}

#[tokio::test(start_paused = true)]
async fn the_service_learns_names_and_never_keys() {
    let fake = Fake::new(WINDOW, &[]);
    let quota = bridge(&fake, Duration::ZERO);
    let (far, trace) = (Instant::now() + SECOND, http::HeaderMap::new());
    let caller = |name: &str| Caller {
        name: name.into(),
        weight: 1,
    };
    for (key, name) in [
        (UpstreamKey::Service, ""),
        (UpstreamKey::Service, "orders"),
        (UpstreamKey::OfCaller("orders".into()), "orders"),
        (UpstreamKey::brought("test"), ""),
    ] {
        let slots = quota.acquire(&key, &caller(name), 2, far, &trace).await;
        drop(slots.expect("unlimited"));
    }
    quota
        .try_acquire(&UpstreamKey::Service)
        .await
        .expect("a probe");
    let asked = fake.asked();
    let descriptors: Vec<_> = asked.iter().map(|it| it.descriptors.join(" ")).collect();
    // The SHA-256 of "test" (FIPS 180-4).
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let expected = [
        KEY.to_owned(),
        format!("{KEY} {KEY}/caller=orders"),
        "upstream_key=orders upstream_key=orders/caller=orders".into(),
        format!("upstream_key=sha256:{hash}"),
        KEY.to_owned(),
    ];
    assert_eq!(descriptors, expected);
    let hits: Vec<_> = asked.iter().map(|it| it.hits).collect();
    assert_eq!(hits, [2, 2, 2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_report_at_the_end_of_a_stop_leaves_no_caller_behind() {
    let own = format!("{KEY}/caller=loud");
    let fake = Fake::new(WINDOW, &[(&own, 1)]);
    let quota = bridge(&fake, 3600 * SECOND);
    let end = Instant::now() + WINDOW;
    let mut until_end = Box::pin(tokio::time::sleep_until(end));
    assert!(
        timeout(SECOND, &mut until_end).await.is_err(),
        "its timer is the first"
    );
    send(&quota, "loud").await.expect("the first");
    let waiting = start(&quota, "loud");
    until_end.await;
    quota.report().expect("on");
    assert_eq!(sent(waiting).await, end);
}

#[tokio::test(start_paused = true)]
async fn calls_that_meet_the_same_failure_keep_to_the_share() {
    for wait in [Duration::ZERO, SECOND] {
        let fake = Fake::new(WINDOW, &[]);
        fake.set(Mode::Slow(SECOND / 2));
        let quota = bridge(&fake, wait);
        let mut admitted = 0;
        for call in [(); 5].map(|()| start(&quota, "a")) {
            admitted += u32::from(call.await.expect("no panic").is_ok());
        }
        assert_eq!(admitted, 2);
    }
}
