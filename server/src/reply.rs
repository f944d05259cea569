//! What a client is told, as bytes of RESP2 or RESP3 (P-4).
//!
//! RESP3 has maps, pushes, null and big numbers; in RESP2 they are flat arrays, arrays, a null bulk
//! string, and bulk strings.
//!
//! Not here: which reply belongs to which request (`connection`).

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::encode as resp2;
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::encode as resp3;
use redis_protocol::resp3::types::BytesFrame as Frame3;

use crate::error::Refusal;

/// The two forms of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A short fixed text.
    Simple(&'static str),
    /// A number.
    Number(u64),
    /// At least so many arguments: minus the number, as `COMMAND INFO` has it.
    Arity(u64),
    /// Bytes.
    Bulk(Bytes),
    /// Nothing.
    Null,
    /// Replies in order.
    Array(Vec<Reply>),
    /// Names and what they stand for, in order.
    Map(Vec<(Reply, Reply)>),
    /// What is told without having been asked for.
    Push(Vec<Reply>),
    /// It was refused.
    Error(Refusal),
}

impl Reply {
    /// It was done.
    pub const OK: Self = Self::Simple("OK");

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(text.into().into())
    }

    /// A name, or another text that never changes.
    #[must_use]
    pub fn word(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// A map of names.
    pub fn map<const N: usize>(fields: [(&'static str, Reply); N]) -> Self {
        Self::Map(fields.map(|(name, value)| (Self::word(name), value)).into())
    }

    /// 1 or 0.
    #[must_use]
    pub fn flag(flag: bool) -> Self {
        Self::Number(flag.into())
    }

    /// Bytes that it takes, about, until it is sent.
    #[must_use]
    pub fn size(&self) -> usize {
        let parts = match self {
            Self::Bulk(bytes) => bytes.len(),
            Self::Error(refusal) => refusal.text.len(),
            Self::Array(all) | Self::Push(all) => all.iter().map(Self::size).sum(),
            Self::Map(fields) => fields.iter().map(|(a, b)| a.size() + b.size()).sum(),
            Self::Simple(_) | Self::Number(_) | Self::Arity(_) | Self::Null => 0,
        };
        size_of::<Self>() + parts
    }

    /// Adds it to `out`.
    pub fn encode(self, protocol: Protocol, out: &mut BytesMut) {
        let encoded = match protocol {
            Protocol::Resp2 => resp2::extend_encode(out, &self.into_resp2(), false),
            Protocol::Resp3 => resp3::complete::extend_encode(out, &self.into_resp3(), false),
        };
        encoded.expect("the buffer was extended to fit, and the frame is of no streaming kind");
    }

    fn into_resp2(self) -> Frame2 {
        let all = |replies: Vec<Self>| replies.into_iter().map(Self::into_resp2).collect();
        match self {
            Self::Simple(text) => Frame2::SimpleString(Bytes::from_static(text.as_bytes())),
            Self::Number(number) => match i64::try_from(number) {
                Ok(number) => Frame2::Integer(number),
                Err(_) => Frame2::BulkString(number.to_string().into()),
            },
            Self::Arity(least) => Frame2::Integer(-at_least(least)),
            Self::Bulk(bytes) => Frame2::BulkString(bytes),
            Self::Null => Frame2::Null,
            Self::Array(replies) | Self::Push(replies) => Frame2::Array(all(replies)),
            Self::Map(fields) => {
                Frame2::Array(all(fields.into_iter().flat_map(|(a, b)| [a, b]).collect()))
            }
            Self::Error(refusal) => Frame2::Error(refusal.line().into()),
        }
    }

    fn into_resp3(self) -> Frame3 {
        let attributes = None;
        let all = |replies: Vec<Self>| replies.into_iter().map(Self::into_resp3).collect();
        match self {
            Self::Simple(text) => {
                Frame3::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes }
            }
            Self::Number(number) => match i64::try_from(number) {
                Ok(data) => Frame3::Number { data, attributes },
                Err(_) => Frame3::BigNumber { data: number.to_string().into(), attributes },
            },
            Self::Arity(least) => Frame3::Number { data: -at_least(least), attributes },
            Self::Bulk(data) => Frame3::BlobString { data, attributes },
            Self::Null => Frame3::Null,
            Self::Array(replies) => Frame3::Array { data: all(replies), attributes },
            Self::Push(replies) => Frame3::Push { data: all(replies), attributes },
            Self::Map(fields) => {
                let fields = fields.into_iter().map(|(a, b)| (a.into_resp3(), b.into_resp3()));
                Frame3::Map { data: fields.collect(), attributes }
            }
            Self::Error(refusal) => Frame3::SimpleError { data: refusal.line().into(), attributes },
        }
    }
}

fn at_least(least: u64) -> i64 {
    i64::try_from(least).expect("a command has few arguments")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_kind_is_what_both_protocols_say() {
        use Protocol::{Resp2, Resp3};
        let map = Reply::map([("z", Reply::Number(1)), ("a", Reply::Null)]);
        assert_eq!(encoded(map.clone(), Resp3), "%2\r\n$1\r\nz\r\n:1\r\n$1\r\na\r\n_\r\n");
        assert_eq!(encoded(map, Resp2), "*4\r\n$1\r\nz\r\n:1\r\n$1\r\na\r\n$-1\r\n");
        let push = Reply::Push(vec![Reply::word("x")]);
        assert_eq!(encoded(push.clone(), Resp3), ">1\r\n$1\r\nx\r\n");
        assert_eq!(encoded(push, Resp2), "*1\r\n$1\r\nx\r\n");
        let big = u64::MAX;
        assert_eq!(encoded(Reply::Number(big), Resp3), format!("({big}\r\n"));
        assert_eq!(encoded(Reply::Number(big), Resp2), format!("$20\r\n{big}\r\n"));
        let error = Reply::Error(Refusal::new("NOLOG", "none\r\nof it".to_owned()));
        for protocol in [Resp2, Resp3] {
            assert_eq!(encoded(error.clone(), protocol), "-NOLOG none  of it\r\n");
            assert_eq!(encoded(Reply::OK, protocol), "+OK\r\n");
            assert_eq!(encoded(Reply::Array(vec![]), protocol), "*0\r\n");
        }
    }
}
