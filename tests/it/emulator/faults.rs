//! The faults that a caller can order from the embedded ALİM.

use super::*;

#[tokio::test]
async fn faults_in_front_of_the_graph_are_the_same_for_both_calls() {
    let alim = Alim::start(AT_ONCE).await;
    for path in [INVOKE, STREAM] {
        let limited = alim.post(path, &ordering("rate_limited")).await;
        assert!(limited.said().starts_with(r#"429 {"detail":"Rate limit"#));
        assert_eq!(limited.headers["retry-after"], "2");
        let unavailable = alim.post(path, &ordering("unavailable")).await;
        assert!(unavailable.said().starts_with("503 <html>"));
        assert_eq!(unavailable.headers["content-type"], "text/html");
    }
}

#[tokio::test]
async fn what_nobody_caught_is_told_with_the_calls_url() {
    let alim = Alim::start(AT_ONCE).await;
    for path in [INVOKE, STREAM] {
        let url = format!("http://{}{path}", alim.address);
        for (fault, told) in [
            (
                "bad_value",
                r#"400 {"error":"Bad Request","detail":"emulated bad value""#,
            ),
            (
                "crashed",
                r#"500 {"error":"Internal Server Error","detail":"emulated crash""#,
            ),
        ] {
            let said = alim.post(path, &ordering(fault)).await.said();
            assert_eq!(said, format!(r#"{told},"path":"{url}"}}"#));
        }
    }
}

#[tokio::test]
async fn faults_of_the_graph_come_in_the_stream() {
    let alim = Alim::start(AT_ONCE).await;
    let failed = alim.post(STREAM, &ordering("agent_failed")).await.said();
    let error = "event: token\ndata: Suvar\n\nevent: error\ndata: emulated agent failure\n\n";
    assert!(failed.ends_with(error), "{failed}");
    assert_eq!(alim.post(STREAM, &ordering("empty")).await.said(), "200 ");
    let truncated = alim.post(STREAM, &ordering("truncated")).await;
    assert!(truncated.data_of("token").len() > 10 && truncated.data_of("done").is_empty());
    let odd = alim.post(STREAM, &ordering("unknown_event")).await;
    assert_eq!(odd.data_of("citation").len(), 1);
    assert!(odd.text.ends_with(DONE));
}

#[tokio::test]
async fn faults_of_the_graph_break_the_reply() {
    let alim = Alim::start(AT_ONCE).await;
    let failed = alim.post(INVOKE, &ordering("agent_failed")).await.said();
    let detail = r#"500 {"detail":"Graph execution failed: emulated agent failure"}"#;
    assert_eq!(failed, detail);
    assert_eq!(alim.post(INVOKE, &ordering("empty")).await.said(), "200 ");
    let odd = alim.post(INVOKE, &ordering("unknown_event")).await;
    assert!(odd.json()["citations"].is_array());
    let mut truncated = alim.raw_post(INVOKE, &ordering("truncated")).await;
    let cut = read_until(&mut truncated, "\r\n0\r\n\r\n").await;
    assert!(cut.contains(r#"{"response":"Suvar"#) && !cut.ends_with("\r\n0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_takes_a_second_for_each_event() {
    let alim = Alim::start(AT_ONCE).await;
    let before = Instant::now();
    let stream = alim.post(STREAM, &ordering("slow")).await;
    let events = stream.data_of("node").len() + stream.data_of("token").len();
    assert_eq!(before.elapsed().as_secs(), events as u64);
    let before = Instant::now();
    alim.post(INVOKE, &ordering("slow")).await;
    assert_eq!(before.elapsed().as_secs(), events as u64);
}
