//! The faults that a caller can request from the embedded ALİM.

use super::*;

#[tokio::test]
async fn faults_before_the_graph_are_the_same_for_both_methods() {
    let alim = Alim::start(NO_DELAY).await;
    for path in [INVOKE, STREAM] {
        let limited = alim.post(path, &with_fault("rate_limited")).await;
        assert!(limited.line().starts_with(r#"429 {"detail":"Rate limit"#));
        assert_eq!(limited.headers["retry-after"], "2");
        let unavailable = alim.post(path, &with_fault("unavailable")).await;
        assert!(unavailable.line().starts_with("503 <html>"));
        assert_eq!(unavailable.headers["content-type"], "text/html");
    }
}

#[tokio::test]
async fn an_uncaught_exception_has_the_calls_url() {
    let alim = Alim::start(NO_DELAY).await;
    for path in [INVOKE, STREAM] {
        let url = format!("http://{}{path}", alim.address);
        for (fault, start) in [
            (
                "bad_value",
                r#"400 {"error":"Bad Request","detail":"emulated bad value""#,
            ),
            (
                "crashed",
                r#"500 {"error":"Internal Server Error","detail":"emulated crash""#,
            ),
        ] {
            let answer = alim.post(path, &with_fault(fault)).await.line();
            assert_eq!(answer, format!(r#"{start},"path":"{url}"}}"#));
        }
    }
}

#[tokio::test]
async fn faults_of_the_graph_are_events_of_the_stream() {
    let alim = Alim::start(NO_DELAY).await;
    let failed = alim.post(STREAM, &with_fault("agent_failed")).await.line();
    let error = "event: token\ndata: Suvar\n\nevent: error\ndata: emulated agent failure\n\n";
    assert!(failed.ends_with(error), "{failed}");
    assert_eq!(alim.post(STREAM, &with_fault("empty")).await.line(), "200 ");
    let truncated = alim.post(STREAM, &with_fault("truncated")).await;
    assert!(truncated.data_of("token").len() > 10 && truncated.data_of("done").is_empty());
    let unknown = alim.post(STREAM, &with_fault("unknown_event")).await;
    assert_eq!(unknown.data_of("citation").len(), 1);
    assert!(unknown.text.ends_with(DONE));
}

#[tokio::test]
async fn faults_of_the_graph_break_the_reply() {
    let alim = Alim::start(NO_DELAY).await;
    let failed = alim.post(INVOKE, &with_fault("agent_failed")).await.line();
    let detail = r#"500 {"detail":"Graph execution failed: emulated agent failure"}"#;
    assert_eq!(failed, detail);
    assert_eq!(alim.post(INVOKE, &with_fault("empty")).await.line(), "200 ");
    let unknown = alim.post(INVOKE, &with_fault("unknown_event")).await;
    assert!(unknown.json()["citations"].is_array());
    let mut truncated = alim.raw_post(INVOKE, &with_fault("truncated")).await;
    let half = read_until(&mut truncated, "\r\n0\r\n\r\n").await;
    assert!(half.contains(r#"{"response":"Suvar"#) && !half.ends_with("\r\n0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_takes_a_second_for_each_event() {
    let alim = Alim::start(NO_DELAY).await;
    let before = Instant::now();
    let stream = alim.post(STREAM, &with_fault("slow")).await;
    let events = stream.data_of("node").len() + stream.data_of("token").len();
    assert_eq!(before.elapsed().as_secs(), events as u64);
    let before = Instant::now();
    alim.post(INVOKE, &with_fault("slow")).await;
    assert_eq!(before.elapsed().as_secs(), events as u64);
}

#[tokio::test]
async fn the_page_of_faults_has_a_section_for_each() {
    const PAGE: &str = include_str!("../../../docs/faults.md");
    let alim = Alim::start(NO_DELAY).await;
    let unknown = alim.post(INVOKE, &with_fault("unknown")).await.line();
    let (_, listed) = unknown.split_once("Input should be ").expect("the names");
    let listed = listed.split('"').next().expect("a message");
    let names: Vec<_> = listed.split('\'').skip(1).step_by(2).collect();
    let sections = PAGE.split("## One by one").nth(1).expect("a section");
    let sections = sections.split("\n## ").next().expect("text");
    let sections: Vec<_> = sections.split("\n### ").skip(1).collect();
    let sections: Vec<_> = sections.iter().filter_map(|it| it.lines().next()).collect();
    assert_eq!(sections, names);
}
