//! A header's value with the type that it has on the wire, for who shows, keeps or repeats messages.
//!
//! Owned, and free of any AMQP library. A lobby needs no more than [`HeaderValue`].

use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use notify_protocol::HeaderValue;

use crate::{properties::short, publish_error::PublishError};

/// A named header.
pub type NamedField = (Vec<u8>, Field);

/// A value of a header table; the letter in brackets is the one on the wire. RabbitMQ reads `L` as `l`, and so does
/// this type.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// Boolean (`t`).
    Bool(bool),
    /// 8 bits, signed (`b`).
    I8(i8),
    /// 8 bits, unsigned (`B`).
    U8(u8),
    /// 16 bits, signed (`s`).
    I16(i16),
    /// 16 bits, unsigned (`u`).
    U16(u16),
    /// 32 bits, signed (`I`).
    I32(i32),
    /// 32 bits, unsigned (`i`).
    U32(u32),
    /// 64 bits, signed (`l`).
    I64(i64),
    /// 32-bit float (`f`).
    Float(f32),
    /// 64-bit float (`d`).
    Double(f64),
    /// Decimal (`D`): `value` divided by ten to the power of `scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// Long string (`S`): bytes, not always UTF-8.
    LongString(Vec<u8>),
    /// Byte array (`x`).
    Bytes(Vec<u8>),
    /// Timestamp (`T`).
    Timestamp(u64),
    /// Void (`V`).
    Void,
    /// Array (`A`).
    Array(Vec<Field>),
    /// Table (`F`).
    Table(Vec<NamedField>),
}

impl Field {
    /// The letter of its type on the wire.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self {
            Self::Bool(_) => 't',
            Self::I8(_) => 'b',
            Self::U8(_) => 'B',
            Self::I16(_) => 's',
            Self::U16(_) => 'u',
            Self::I32(_) => 'I',
            Self::U32(_) => 'i',
            Self::I64(_) => 'l',
            Self::Float(_) => 'f',
            Self::Double(_) => 'd',
            Self::Decimal { .. } => 'D',
            Self::LongString(_) => 'S',
            Self::Bytes(_) => 'x',
            Self::Timestamp(_) => 'T',
            Self::Void => 'V',
            Self::Array(_) => 'A',
            Self::Table(_) => 'F',
        }
    }

    /// The value in the contract's terms, as a lobby reads it.
    #[must_use]
    pub fn header(&self) -> HeaderValue<'_> {
        match self {
            Self::Bool(value) => HeaderValue::Bool(*value),
            Self::I8(value) => HeaderValue::Int((*value).into()),
            Self::U8(value) => HeaderValue::Int((*value).into()),
            Self::I16(value) => HeaderValue::Int((*value).into()),
            Self::U16(value) => HeaderValue::Int((*value).into()),
            Self::I32(value) => HeaderValue::Int((*value).into()),
            Self::U32(value) => HeaderValue::Int((*value).into()),
            Self::I64(value) => HeaderValue::Int(*value),
            Self::Float(value) => HeaderValue::Float(*value),
            Self::Double(value) => HeaderValue::Double(*value),
            Self::Decimal { scale, value } => HeaderValue::Decimal { scale: *scale, value: *value },
            Self::LongString(text) => HeaderValue::LongString(text),
            Self::Bytes(bytes) => HeaderValue::Bytes(bytes),
            Self::Timestamp(value) => HeaderValue::Timestamp(*value),
            Self::Void => HeaderValue::Void,
            Self::Array(_) => HeaderValue::Array,
            Self::Table(_) => HeaderValue::Table,
        }
    }

    /// Nested no deeper than lapin reads it, which the frame filter bounds.
    fn read(value: &AMQPValue) -> Self {
        match value {
            AMQPValue::Boolean(value) => Self::Bool(*value),
            AMQPValue::ShortShortInt(value) => Self::I8(*value),
            AMQPValue::ShortShortUInt(value) => Self::U8(*value),
            AMQPValue::ShortInt(value) => Self::I16(*value),
            AMQPValue::ShortUInt(value) => Self::U16(*value),
            AMQPValue::LongInt(value) => Self::I32(*value),
            AMQPValue::LongUInt(value) => Self::U32(*value),
            AMQPValue::LongLongInt(value) => Self::I64(*value),
            AMQPValue::Float(value) => Self::Float(*value),
            AMQPValue::Double(value) => Self::Double(*value),
            AMQPValue::DecimalValue(value) => Self::Decimal { scale: value.scale, value: value.value },
            AMQPValue::ShortString(text) => Self::LongString(text.as_str().into()),
            AMQPValue::LongString(text) => Self::LongString(text.as_bytes().to_vec()),
            AMQPValue::ByteArray(bytes) => Self::Bytes(bytes.as_slice().to_vec()),
            AMQPValue::Timestamp(value) => Self::Timestamp(*value),
            AMQPValue::Void => Self::Void,
            AMQPValue::FieldArray(items) => Self::Array(items.as_slice().iter().map(Self::read).collect()),
            AMQPValue::FieldTable(table) => Self::Table(read_table(table)),
        }
    }

    fn written(&self) -> Result<AMQPValue, PublishError> {
        Ok(match self {
            Self::Bool(value) => AMQPValue::Boolean(*value),
            Self::I8(value) => AMQPValue::ShortShortInt(*value),
            Self::U8(value) => AMQPValue::ShortShortUInt(*value),
            Self::I16(value) => AMQPValue::ShortInt(*value),
            Self::U16(value) => AMQPValue::ShortUInt(*value),
            Self::I32(value) => AMQPValue::LongInt(*value),
            Self::U32(value) => AMQPValue::LongUInt(*value),
            Self::I64(value) => AMQPValue::LongLongInt(*value),
            Self::Float(value) if value.is_finite() => AMQPValue::Float(*value),
            Self::Double(value) if value.is_finite() => AMQPValue::Double(*value),
            Self::Float(_) | Self::Double(_) => return Err(PublishError::NotFinite),
            Self::Decimal { scale, value } => {
                AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value })
            }
            Self::LongString(text) => AMQPValue::LongString(text.clone().into()),
            Self::Bytes(bytes) => AMQPValue::ByteArray(bytes.clone().into()),
            Self::Timestamp(value) => AMQPValue::Timestamp(*value),
            Self::Void => AMQPValue::Void,
            Self::Array(items) => {
                let items = items.iter().map(Self::written).collect::<Result<Vec<_>, _>>()?;
                AMQPValue::FieldArray(items.into())
            }
            Self::Table(fields) => AMQPValue::FieldTable(written_table(fields)?),
        })
    }
}

/// In the order of the names; lapin keeps no other.
pub(crate) fn read_table(table: &FieldTable) -> Vec<NamedField> {
    table.inner().iter().map(|(name, value)| (name.as_str().into(), Field::read(value))).collect()
}

/// Of a name that stands twice the last counts, as for whoever reads it.
pub(crate) fn written_table(fields: &[NamedField]) -> Result<FieldTable, PublishError> {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        let name = str::from_utf8(name).map_err(|_| PublishError::NameNotUtf8)?;
        table.insert(short("header name", name)?, value.written()?);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_type() -> Vec<NamedField> {
        let inner = vec![(b"k".to_vec(), Field::Void), (b"n".to_vec(), Field::Array(vec![Field::I8(-1)]))];
        let fields = [
            Field::Bool(true),
            Field::I8(i8::MIN),
            Field::U8(u8::MAX),
            Field::I16(i16::MIN),
            Field::U16(u16::MAX),
            Field::I32(i32::MIN),
            Field::U32(u32::MAX),
            Field::I64(i64::MIN),
            Field::Float(1.5),
            Field::Double(-0.1),
            Field::Decimal { scale: 2, value: 314 },
            Field::LongString(b"\xff\0text".to_vec()),
            Field::Bytes(vec![0, 255]),
            Field::Timestamp(u64::MAX),
            Field::Void,
            Field::Array(vec![Field::Bool(false), Field::Table(inner.clone())]),
            Field::Table(inner),
        ];
        fields.into_iter().map(|field| (vec![field.letter() as u8], field)).collect()
    }

    #[test]
    fn every_type_survives_the_way_through_lapin() {
        let mut read = read_table(&written_table(&each_type()).unwrap());
        let mut fields = each_type();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        read.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(read, fields);
        let letters: std::collections::BTreeSet<_> = fields.iter().map(|(_, field)| field.letter()).collect();
        assert_eq!(letters.len(), 17);
    }

    #[test]
    fn what_the_broker_or_lapin_would_not_survive_is_refused() {
        let one = |name: &[u8], field| written_table(&[(name.to_vec(), field)]).map(drop);
        assert_eq!(one(b"x", Field::Double(f64::NAN)), Err(PublishError::NotFinite));
        assert_eq!(one(b"x", Field::Array(vec![Field::Float(f32::INFINITY)])), Err(PublishError::NotFinite));
        assert_eq!(one(b"\xff", Field::Void), Err(PublishError::NameNotUtf8));
        let long = PublishError::NameTooLong { what: "header name", len: 256 };
        assert_eq!(one(&[b'x'; 256], Field::Void), Err(long));
    }
}
