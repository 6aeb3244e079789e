//! The schemas of what is written as one text or number (OpenAPI 3.1).

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, OpenApi, Ref, RefOr, Schema, SchemaFormat,
        schema::{ArrayItems, Object, ObjectBuilder, SchemaType, Type},
    },
};

use super::{Account, Count, HexBytes, Instant, OpenReason, OpenStatus, Span, Uint};
use crate::{
    request::{BatchId, RequestId},
    time::Timestamp,
};

/// Schema of a hash of 32 bytes.
#[derive(Debug)]
pub struct Hash;

macro_rules! text {
    ($($type:ty, $name:literal, $description:literal, $example:literal;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let schema = ObjectBuilder::new().schema_type(Type::String);
                schema.description(Some($description)).examples([serde_json::Value::from($example)]).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        }
    )+};
}

text! {
    HexBytes, "HexBytes", "Bytes as 0x-hex.", "0xd09de08a";
    Account, "Account", "Address; any case in, checksummed out.", "0xcA11bde05977b3631167028862bE2a173976CA11";
    Instant, "Instant", "RFC 3339 text, or Unix seconds as a number or digits.", "2026-01-31T12:00:00Z";
    Span, "Span", "Whole number with unit: ms, s, m, h or d.", "30s";
    Uint, "Uint", "Non-negative integer below 2^256. Out: decimal string. In: decimal or 0x-hex string, or a JSON integer up to 2^53.", "1000000000000000";
}

impl PartialSchema for Uint<u128> {
    fn schema() -> RefOr<Schema> {
        <Uint>::schema()
    }
}

impl ToSchema for Uint<u128> {
    fn name() -> Cow<'static, str> {
        <Uint>::name()
    }
}

impl PartialSchema for Count {
    fn schema() -> RefOr<Schema> {
        let description = "Non-negative integer below 2^64. In: also a decimal or 0x-hex string.";
        ObjectBuilder::new().schema_type(Type::Integer).description(Some(description)).minimum(Some(0)).into()
    }
}

impl ToSchema for Count {}

/// Schemas that stand where they are used: their names begin with this.
const INLINE: &str = "inline.";

macro_rules! inline {
    ($($type:ty, $name:literal, $schema:expr;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(concat!("inline.", $name))
            }
        }
    )+};
}

fn text(format: &str) -> Object {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    schema.format(Some(SchemaFormat::Custom(format.to_owned()))).build()
}

inline! {
    Hash, "hash", text("hex");
    RequestId, "id", text("hex");
    BatchId, "batch", ObjectBuilder::new().schema_type(Type::String);
    Timestamp, "ms", ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
    OpenStatus, "status", text("status");
    OpenReason, "reason", text("reason");
}

/// Puts the small schemas in the place of references to them.
pub fn inline(api: &mut OpenApi) {
    let Some(components) = &mut api.components else { return };
    let (small, rest) =
        std::mem::take(&mut components.schemas).into_iter().partition(|(name, _)| name.starts_with(INLINE));
    components.schemas = rest;
    components.schemas.values_mut().for_each(|schema| visit(schema, &small));
}

type Schemas = std::collections::BTreeMap<String, RefOr<Schema>>;

fn visit(schema: &mut RefOr<Schema>, small: &Schemas) {
    match schema {
        RefOr::Ref(Ref { ref_location, description, .. }) => {
            let name = ref_location.rsplit('/').next().unwrap_or_default();
            if let Some(RefOr::T(Schema::Object(found))) = small.get(name) {
                let mut found = found.clone();
                found.description = Some(std::mem::take(description));
                *schema = RefOr::T(Schema::Object(found));
            }
        }
        RefOr::T(Schema::Object(object)) => object.properties.values_mut().for_each(|member| visit(member, small)),
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                visit(items, small);
            }
        }
        RefOr::T(Schema::AllOf(all)) => all.items.iter_mut().for_each(|part| visit(part, small)),
        RefOr::T(Schema::OneOf(one)) => {
            one.items.iter_mut().for_each(|part| visit(part, small));
            // Or `null`.
            if let [RefOr::T(Schema::Object(some)), RefOr::T(Schema::Object(_))] = &mut one.items[..]
                && let SchemaType::Type(kind) = &some.schema_type
            {
                some.schema_type = SchemaType::Array(vec![kind.clone(), Type::Null]);
                *schema = RefOr::T(Schema::Object(some.clone()));
            }
        }
        RefOr::T(_) => {}
    }
}
