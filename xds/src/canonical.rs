//! Deterministic encoding. Protobuf maps are encoded in the random order of their hash map; a version that is a content hash
//! needs one order. This sorts the entries of the maps that Malla fills, by their place in each resource type.

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use crate::resource::ResourceType;

/// Which fields of a message lead to maps.
struct Schema {
    fields: &'static [(u32, Field)],
}

/// What a field is.
enum Field {
    /// A message (or repeated messages), in whose fields maps occur.
    Message(&'static Schema),
    /// A map: entries sorted, values (field 2 of the entry) treated by the schema.
    Map(&'static Schema),
}

const LEAF: Schema = Schema { fields: &[] };
const STRUCT: Schema = Schema { fields: &[(1, Field::Map(&LEAF))] };
const STRUCT_ENTRY: Schema = Schema { fields: &[(2, Field::Message(&STRUCT))] };
const METADATA: Schema = Schema { fields: &[(1, Field::Map(&STRUCT_ENTRY)), (2, Field::Map(&LEAF))] };
const LB_ENDPOINT: Schema = Schema { fields: &[(3, Field::Message(&METADATA))] };
const LOCALITY: Schema = Schema { fields: &[(2, Field::Message(&LB_ENDPOINT)), (9, Field::Message(&METADATA))] };
const LOAD_ASSIGNMENT: Schema = Schema { fields: &[(2, Field::Message(&LOCALITY))] };
const CLUSTER: Schema = Schema {
    fields: &[(25, Field::Message(&METADATA)), (33, Field::Message(&LOAD_ASSIGNMENT)), (36, Field::Map(&LEAF))],
};
const ROUTE: Schema = Schema { fields: &[(4, Field::Message(&METADATA)), (13, Field::Map(&LEAF))] };
const VIRTUAL_HOST: Schema = Schema { fields: &[(3, Field::Message(&ROUTE)), (15, Field::Map(&LEAF))] };
const ROUTE_CONFIGURATION: Schema = Schema { fields: &[(2, Field::Message(&VIRTUAL_HOST)), (16, Field::Map(&LEAF))] };
const FILTER_CHAIN: Schema = Schema { fields: &[(5, Field::Message(&METADATA))] };
const LISTENER: Schema = Schema {
    fields: &[(3, Field::Message(&FILTER_CHAIN)), (6, Field::Message(&METADATA)), (25, Field::Message(&FILTER_CHAIN))],
};

/// Encodes a resource with its maps in order.
pub(crate) fn encode(kind: ResourceType, message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let schema = match kind {
        ResourceType::Cluster => &CLUSTER,
        ResourceType::Endpoints => &LOAD_ASSIGNMENT,
        ResourceType::Listener => &LISTENER,
        ResourceType::Route => &ROUTE_CONFIGURATION,
        ResourceType::Secret => &LEAF,
    };
    sort(&encoded, schema).unwrap_or(encoded)
}

/// The same message with sorted maps, or `None` where the bytes are not what the schema says.
fn sort(mut input: &[u8], schema: &Schema) -> Option<Vec<u8>> {
    if schema.fields.is_empty() {
        return Some(input.to_vec());
    }
    let mut output = Vec::with_capacity(input.len());
    let mut maps: Vec<(u32, Vec<Vec<u8>>)> = Vec::new();
    while input.has_remaining() {
        let start = input;
        let (tag, wire_type) = decode_key(&mut input).ok()?;
        match wire_type {
            WireType::Varint => drop(decode_varint(&mut input).ok()?),
            WireType::SixtyFourBit => input = input.get(8..)?,
            WireType::ThirtyTwoBit => input = input.get(4..)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut input).ok()?).ok()?;
                let (content, rest) = input.split_at_checked(length)?;
                input = rest;
                match schema.fields.iter().find(|(field, _)| *field == tag) {
                    Some((_, Field::Message(inner))) => {
                        write_field(tag, &sort(content, inner)?, &mut output);
                        continue;
                    }
                    Some((_, Field::Map(inner))) => {
                        let entry = sort(content, inner)?;
                        match maps.iter_mut().find(|(field, _)| *field == tag) {
                            Some((_, entries)) => entries.push(entry),
                            None => maps.push((tag, vec![entry])),
                        }
                        continue;
                    }
                    None => {}
                }
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        }
        output.extend_from_slice(start.get(..start.len().checked_sub(input.len())?)?);
    }
    for (tag, mut entries) in maps {
        entries.sort();
        entries.iter().for_each(|entry| write_field(tag, entry, &mut output));
    }
    Some(output)
}

fn write_field(tag: u32, content: &[u8], output: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, output);
    encode_varint(content.len() as u64, output);
    output.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::envoy::{core, endpoint};
    use crate::resource::string_struct;

    #[test]
    fn the_same_content_has_one_encoding() {
        let message = || {
            let fields = [("workload", "cart-1.shop"), ("identity", "spiffe://a/ns/b/sa/c"), ("third", "x")];
            let metadata = core::Metadata {
                filter_metadata: ["malla.dev", "other"].map(|key| (key.to_owned(), string_struct(fields))).into(),
                ..Default::default()
            };
            let lb_endpoint = endpoint::LbEndpoint { metadata: Some(metadata), ..Default::default() };
            endpoint::ClusterLoadAssignment {
                cluster_name: "cart.shop:80".into(),
                endpoints: vec![endpoint::LocalityLbEndpoints {
                    lb_endpoints: vec![lb_endpoint],
                    priority: 1,
                    ..Default::default()
                }],
                ..Default::default()
            }
        };
        let encodings: HashSet<Vec<u8>> = (0..50).map(|_| encode(ResourceType::Endpoints, &message())).collect();
        assert_eq!(encodings.len(), 1);
        let encoded = encodings.into_iter().next().expect("one");
        assert_eq!(endpoint::ClusterLoadAssignment::decode(&*encoded).expect("decodes"), message());
    }
}
