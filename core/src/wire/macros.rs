/// Types of the API: camel case, read and written, with a schema. A field that is marked `= required` may be `null` or has a
/// default for older relayers, but the relayer always writes it, and the schema says so.
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty $(= $always:ident)?,)*
    })*) => {$(
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(rename_all = "camelCase")]
        $(#[$meta])*
        pub struct $name $(<$life>)? {
            $($(#[$field_meta])* $(#[cfg_attr(feature = "openapi", schema($always))])? pub $field: $type,)*
        }
    )*};
}

pub(super) use wire;
