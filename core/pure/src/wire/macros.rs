/// Types of the API: camel case, read and written, with a schema. A field that is marked `= required` may be `null` or has a
/// default for older relayers, but the relayer always writes it, and the schema says so.
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty $(= $required:ident)?,)*
    })*) => {$(
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(rename_all = "camelCase")]
        $(#[$meta])*
        pub struct $name $(<$life>)? {
            $($(#[$field_meta])* $(#[cfg_attr(feature = "openapi", schema($required))])? pub $field: $type,)*
        }
    )*};
}

/// Reads a type from text; `E` is the error, `Self::EXPECTED` the description.
macro_rules! from_text {
    ($type:ty, $expected:literal, |$text:ident| $read:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Text {
                    const EXPECTED: &'static str = $expected;
                }

                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(Self::EXPECTED)
                    }

                    fn visit_str<E: serde::de::Error>(self, $text: &str) -> Result<$type, E> {
                        $read
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

pub(super) use {from_text, wire};
