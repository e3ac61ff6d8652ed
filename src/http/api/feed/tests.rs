//! Tests of an idle stream and of the parameter `wait`; the rest is tested over real sockets.

use super::*;
use crate::clock::ManualClock;
use crate::domain::time::Timestamp;
use crate::store::Feed as _;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};

fn reader(stop: &CancellationToken) -> Reader {
    let store = Arc::new(EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap());
    Reader {
        clock: Arc::new(ManualClock::new(Timestamp::from_secs(1_795_309_323))),
        pages: Arc::default(),
        head: store.feed_head(),
        store,
        stop: stop.clone(),
        after: 0,
        is_over: false,
        _permit: Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_news_says_every_15_seconds_that_it_is_there() {
    let stop = CancellationToken::new();
    let mut reader = reader(&stop);
    for _ in 0..3 {
        let asked = tokio::time::Instant::now();
        let (text, after) = reader.next().await.unwrap().unwrap();
        assert_eq!(asked.elapsed().as_secs(), 15);
        // A comment: it begins with a colon and ends with an empty line.
        assert!(text.starts_with(b":") && text.ends_with(b"\n\n"), "{text:?}");
        reader = after;
    }
    stop.cancel();
    let asked = tokio::time::Instant::now();
    assert!(reader.next().await.unwrap().is_none(), "the stream is over");
    assert!(asked.elapsed().is_zero());
}

#[test]
fn a_wait_is_a_number_of_seconds_or_milliseconds() {
    for (text, wanted) in [
        ("30s", Some(Duration::from_secs(30))),
        ("30", Some(Duration::from_secs(30))),
        ("500ms", Some(Duration::from_millis(500))),
        ("0", Some(Duration::ZERO)),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1m", None),
        ("1s ", None),
        ("99999999999999999999s", None),
    ] {
        assert_eq!(duration(text), wanted, "{text:?}");
    }
}
