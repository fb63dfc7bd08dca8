//! Changes of inputs that keep their structure, so that they get past the first check: lines stay lines, and the lengths of protobuf
//! messages stay right. Seeded: the same seed makes the same changes on every machine.

/// What an input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines of text.
    Lines,
    /// Bytes.
    Bytes,
    /// A message of protobuf.
    Message,
}

/// A source of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from this one.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or_default()
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// Longest input that changes make.
const LONGEST: usize = 64 * 1024;

/// An input made from one of `inputs` by a few changes.
pub fn mutated(random: &mut Random, form: Form, words: &[&str], inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.one_of(inputs).cloned().unwrap_or_default();
    for _ in 0..=random.below(4) {
        let other = random.one_of(inputs).cloned().unwrap_or_default();
        match (form, random.below(4)) {
            (Form::Lines, 0..=2) => lines(random, &mut bytes, &other),
            (Form::Message, 0..=2) => {
                if let Some(mut message) = parse(&bytes, 0) {
                    change(random, &mut message, words);
                    bytes = encoded(&message);
                }
            }
            _ => flat(random, &mut bytes, words),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn lines(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(6) {
        0 => drop(lines.remove(a)),
        1 => lines.insert(b, lines[a].clone()),
        2 => lines.swap(a, b),
        3 => lines.truncate(a + 1),
        _ => {
            let foreign: Vec<&[u8]> = other.split_inclusive(|byte| *byte == b'\n').collect();
            if let Some(foreign) = random.one_of(&foreign) {
                lines.insert(a, foreign.to_vec());
            }
        }
    }
    *bytes = lines.concat();
}

fn flat(random: &mut Random, bytes: &mut Vec<u8>, words: &[&str]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(8)).min(bytes.len());
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 => drop(bytes.drain(at.min(end)..end)),
        3 => {
            let piece = bytes[at.min(end)..end].to_vec();
            bytes.splice(at..at, piece);
        }
        4 => bytes.truncate(at),
        _ => {
            if let Some(word) = random.one_of(words) {
                bytes.splice(at..at, word.bytes());
            }
        }
    }
}

/// A field of a message whose meaning is not known.
#[derive(Debug, Clone)]
enum Value {
    Number(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<(u64, Value)>),
}

/// Deepest message that is taken apart.
const DEEPEST: usize = 12;

fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<(u64, Value)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(number(&mut bytes)?),
            1 => Value::Fixed(take(&mut bytes, 8)?.to_vec()),
            5 => Value::Fixed(take(&mut bytes, 4)?.to_vec()),
            2 => {
                let length = usize::try_from(number(&mut bytes)?).ok()?;
                let inside = take(&mut bytes, length)?;
                match parse(inside, depth + 1).filter(|fields| depth < DEEPEST && !fields.is_empty()) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(inside.to_vec()),
                }
            }
            _ => return None,
        };
        if tag >> 3 == 0 {
            return None;
        }
        fields.push((tag, value));
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn encoded(fields: &[(u64, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, value) in fields {
        put(*tag, &mut bytes);
        let inside = match value {
            Value::Number(number) => {
                put(*number, &mut bytes);
                continue;
            }
            Value::Fixed(fixed) => {
                bytes.extend_from_slice(fixed);
                continue;
            }
            Value::Bytes(inside) => inside.clone(),
            Value::Message(fields) => encoded(fields),
        };
        put(inside.len() as u64, &mut bytes);
        bytes.extend_from_slice(&inside);
    }
    bytes
}

/// Changes one field, somewhere.
fn change(random: &mut Random, fields: &mut Vec<(u64, Value)>, words: &[&str]) {
    const NUMBERS: [u64; 10] = [0, 1, 2, 100, 255, 65_536, u32::MAX as u64, i64::MAX as u64, i64::MIN as u64, u64::MAX];
    if fields.is_empty() {
        return;
    }
    let (a, b) = (random.below(fields.len()), random.below(fields.len()));
    let deeper = random.below(4) > 0;
    match (&mut fields[a].1, random.below(6)) {
        (Value::Message(inside), _) if deeper => change(random, inside, words),
        (_, 0) => drop(fields.remove(a)),
        (_, 1) => fields.insert(b, fields[a].clone()),
        (_, 2) => fields.swap(a, b),
        (Value::Number(number), _) => *number = *random.one_of(&NUMBERS).unwrap_or(&0),
        (Value::Fixed(fixed), _) => flat_same_length(random, fixed),
        (Value::Bytes(inside), _) => flat(random, inside, words),
        // The same content as another field.
        (Value::Message(_), _) => fields[a].0 = (fields[a].0 & 7) | ((1 + random.below(40) as u64) << 3),
    }
}

fn flat_same_length(random: &mut Random, bytes: &mut [u8]) {
    match random.below(3) {
        0 => bytes.fill(0xff),
        1 => bytes.fill(0),
        _ => bytes.iter_mut().for_each(|byte| *byte = random.next() as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_written_as_they_were_read() {
        let inside = [0x0a, 3, b'a', b'b', b'c'];
        let message = [&[0x08, 0x96, 0x01, 0x12, 5][..], &inside, &[0x1d, 1, 2, 3, 4]].concat();
        let parsed = parse(&message, 0).expect("a message");
        assert!(matches!(&parsed[1].1, Value::Message(fields) if fields.len() == 1));
        assert_eq!(encoded(&parsed), message);
    }

    #[test]
    fn the_same_seed_makes_the_same_changes() {
        let inputs = [b"a: 1\nb: 2\n".to_vec(), b"c: 3\n".to_vec()];
        let made = |seed| {
            let mut random = Random::new(seed);
            (0..50).map(|_| mutated(&mut random, Form::Lines, &["x"], &inputs)).collect::<Vec<_>>()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }
}
