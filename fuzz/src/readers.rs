//! Two other readers of HTTP/1 (RFC 9112): a strict one of our own, written from the grammar alone, and httparse with the least that
//! is needed around it. Both stop at the first message that they refuse.

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) method: String,
    /// Path and query where the target has the origin form, without a fragment.
    pub(crate) path: Option<String>,
    /// Without its framing; `None` if it is cut short or wrong, which is the end.
    pub(crate) body: Option<Vec<u8>>,
    /// Nobody may refuse it.
    pub(crate) plain: bool,
    /// Perhaps the last of its connection.
    pub(crate) last: bool,
}

/// Name in lower case and value.
type Fields = Vec<(String, Vec<u8>)>;

/// Reads by the letter of the grammar; what it allows and nobody needs is refused.
pub(crate) fn strict(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(message) = strict_message(&mut bytes) {
        let ends = message.body.is_none();
        messages.push(message);
        if ends {
            break;
        }
    }
    messages
}

fn strict_message(bytes: &mut &[u8]) -> Option<Message> {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        *bytes = rest;
    }
    let before = bytes.len();
    let line = line(bytes)?;
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version, more) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return None,
    };
    let seen = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    if more.is_some() || !is_token(method) || target.is_empty() || !target.iter().all(seen) {
        return None;
    }
    let fields = fields(bytes)?;
    let values =
        |name: &str| fields.iter().filter(|(field, _)| field == name).map(|(_, value)| &**value).collect::<Vec<_>>();
    let (lengths, codings, hosts) = (values("content-length"), values("transfer-encoding"), values("host"));
    let head = before - bytes.len();
    let body = match (&*lengths, &*codings) {
        ([], []) => Some(Vec::new()),
        ([length], []) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length: u64 = std::str::from_utf8(length).ok().filter(|_| digits)?.parse().ok()?;
            usize::try_from(length).ok().and_then(|length| take(bytes, length)).map(<[u8]>::to_vec)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && minor == 1 => chunked(bytes),
        _ => return None,
    };
    let target = String::from_utf8_lossy(target).into_owned();
    let plain_target = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let plain = minor == 1
        && head < 4096
        && fields.len() < 50
        && method.len() <= 10
        && method.iter().all(u8::is_ascii_uppercase)
        && method != b"CONNECT"
        && target.starts_with('/')
        && target.bytes().all(plain_target)
        && matches!(&*hosts, [host] if !host.is_empty() && host.iter().all(u8::is_ascii_lowercase))
        && fields.iter().all(|(name, value)| name.len() < 100 && value.iter().all(|byte| (b' '..=b'~').contains(byte)))
        && !fields.iter().any(|(name, _)| matches!(&**name, "upgrade" | "expect"));
    let last = minor == 0 || fields.iter().any(|(name, _)| name == "connection");
    let method = String::from_utf8_lossy(method).into_owned();
    Some(Message { method, path: origin(&target), body, plain, last })
}

/// To the empty line.
fn fields(bytes: &mut &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    loop {
        let line = line(bytes)?;
        if line.is_empty() {
            return Some(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let allowed = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        if !is_token(name) || !value.iter().all(allowed) {
            return None;
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value[start..end].to_vec()));
    }
}

fn chunked(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(bytes)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = line.get(digits..)?.trim_ascii_start();
        if !(1..=16).contains(&digits) || !(extension.is_empty() || extension.starts_with(b";")) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(line.get(..digits)?).ok()?, 16).ok()?;
        if size == 0 {
            fields(bytes)?;
            return Some(body);
        }
        body.extend_from_slice(take(bytes, size)?);
        if take(bytes, 2)? != b"\r\n" {
            return None;
        }
    }
}

/// A line that ends in CRLF and has neither inside.
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = take(bytes, end + 1)?.strip_suffix(b"\r\n")?;
    (!line.contains(&b'\r')).then_some(line)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn is_token(bytes: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(token)
}

fn origin(target: &str) -> Option<String> {
    target.starts_with('/').then(|| target.split('#').next().unwrap_or_default().to_owned())
}

/// Reads heads and the sizes of chunks by httparse.
pub(crate) fn by_httparse(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = request.parse(bytes) else { return messages };
        let (Some(method), Some(target)) = (request.method, request.path) else { return messages };
        let is = |header: &httparse::Header<'_>, name: &str| header.name.eq_ignore_ascii_case(name);
        let chunks = request.headers.iter().any(|header| is(header, "transfer-encoding"));
        let length = request.headers.iter().find(|header| is(header, "content-length")).map(|header| header.value);
        let message =
            |body| Message { method: method.to_owned(), path: origin(target), body, plain: false, last: false };
        bytes = bytes.get(head..).unwrap_or_default();
        let body = match length {
            _ if chunks => chunks_by_httparse(&mut bytes),
            None => Some(Vec::new()),
            Some(length) => std::str::from_utf8(length)
                .ok()
                .and_then(|length| length.parse().ok())
                .and_then(|length| take(&mut bytes, length))
                .map(<[u8]>::to_vec),
        };
        let ends = body.is_none();
        messages.push(message(body));
        if ends {
            return messages;
        }
    }
}

fn chunks_by_httparse(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((start, size)) = httparse::parse_chunk_size(bytes).ok()? else { return None };
        take(bytes, start)?;
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 128];
            let httparse::Status::Complete((end, _)) = httparse::parse_headers(bytes, &mut trailers).ok()? else {
                return None;
            };
            take(bytes, end)?;
            return Some(body);
        }
        body.extend_from_slice(take(bytes, usize::try_from(size).ok()?)?);
        take(bytes, 2).filter(|end| *end == b"\r\n")?;
    }
}
