//! HTTP/1 from bytes to requests: however the bytes are cut the same is read, two other readers read the same, nothing gets stuck, and
//! what is beyond doubt is not refused.

use malla_proxy::http::reading::{End, Reading, Taken, http1};

use crate::mutate::Form;
use crate::path::canonical;
use crate::readers;
use crate::{Target, no_seeds};

pub(crate) const TARGET: Target = Target {
    name: "http1",
    form: Form::Lines,
    words: &[
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        ":",
        ";",
        ",",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "Content-Length: 5\r\n",
        "content-length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding: identity\r\n",
        "Host: b\r\n",
        "Connection: close\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\n",
        "Expect: 100-continue\r\n",
        "GET / HTTP/1.1\r\n",
        "HTTP/1.0",
        "+",
        "0x",
        "é",
    ],
    run,
    seeds: no_seeds,
};

fn run(bytes: &[u8]) {
    let reading = http1(bytes, usize::MAX);
    assert_ne!(reading.end, End::Stuck, "there is more to read, and nobody reads it");
    assert_ne!(reading.end, End::Unnamed, "hyper refuses what was taken for good, and says nothing");
    for piece in [1, 13] {
        let pieces = http1(bytes, piece);
        assert_eq!(whole(&pieces), whole(&reading), "in pieces of {piece}");
        assert!(!matches!(pieces.end, End::Stuck | End::Unnamed), "in pieces of {piece}: {:?}", pieces.end);
    }
    let (strict, lenient) = (readers::strict(bytes), readers::by_httparse(bytes));
    for (number, taken) in reading.requests.iter().enumerate() {
        let Some(taken) = taken else { break };
        for (reader, messages) in [("the strict reader", &strict), ("httparse", &lenient)] {
            let Some(message) = messages.get(number) else {
                panic!("{reader} does not take request {number}: {taken:?}");
            };
            assert_eq!(message.method, taken.method, "{reader}, request {number}");
            if taken.body.is_some() {
                assert_eq!(message.body, taken.body, "{reader}, request {number}: the body");
            }
            if let Some(path) = &message.path {
                assert_eq!(canonical(path), taken.path, "{reader}, request {number}: the path");
            }
        }
    }
    for (number, message) in strict.iter().enumerate() {
        if !message.plain || message.body.is_none() {
            break;
        }
        let taken = reading.requests.get(number);
        assert!(matches!(taken, Some(Some(_))), "request {number} is beyond doubt: {message:?}, {reading:?}");
        if message.last {
            break;
        }
    }
}

/// Of a request: method, path, body.
type Seen<'a> = (&'a str, &'a str, Option<&'a [u8]>);

/// The requests without their headers.
fn whole(reading: &Reading) -> Vec<Option<Seen<'_>>> {
    reading.requests.iter().map(|taken| taken.as_ref().map(seen)).collect()
}

fn seen(taken: &Taken) -> Seen<'_> {
    (&taken.method, &taken.path, taken.body.as_deref())
}
