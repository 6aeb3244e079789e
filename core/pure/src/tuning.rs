//! Configuration keys, each written once: meaning, unit, range and default.
//!
//! `keys!` makes a group of them: a struct that serde reads and writes, its defaults, its [`Key`]s for a schema or a reference,
//! and the check of its ranges. The groups that both relays share are here.

use std::{
    fmt::{self, Debug},
    num::NonZeroU32,
    ops,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    chain::{ChainSpec, decimal},
    market::MAX_HISTORY_BLOCKS,
    time::millis,
};

/// A configuration key, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Name in the configuration, with its unit.
    pub name: &'static str,
    /// An older name that is still read; `None` if there is none.
    pub was: Option<&'static str>,
    /// Meaning.
    pub text: &'static str,
    /// Kind of its values.
    pub kind: Kind,
    /// Allowed numbers, of a list each; `None` for all.
    pub range: Option<Range>,
    /// The default: in TOML, or in words where it follows from something else.
    pub default: String,
}

/// Kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// Wei: a whole number, or its decimal digits as text.
    Amount,
    /// `true` or `false`.
    Flag,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list of whole numbers.
    Integers,
}

/// Allowed numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Least.
    pub min: u64,
    /// Most; `None` for no limit.
    pub max: Option<u64>,
}

impl From<ops::RangeInclusive<u64>> for Range {
    fn from(range: ops::RangeInclusive<u64>) -> Self {
        Self { min: *range.start(), max: Some(*range.end()) }
    }
}

impl From<ops::RangeFrom<u64>> for Range {
    fn from(range: ops::RangeFrom<u64>) -> Self {
        Self { min: range.start, max: None }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            Some(max) => write!(f, "between {} and {max}", self.min),
            None => write!(f, "{} or more", self.min),
        }
    }
}

/// Takes the key, the number and the range that it is out of.
pub type OutOfRange<'a> = dyn FnMut(&'static str, u128, Range) + 'a;

/// Tells the first of a key's numbers that is out of its range.
pub fn check(key: &'static str, value: &impl Value, range: Option<Range>, fail: &mut OutOfRange<'_>) {
    let Some(range) = range else { return };
    let is_out = |n: &u128| *n < range.min.into() || range.max.is_some_and(|max| *n > max.into());
    if let Some(n) = value.numbers().into_iter().find(is_out) {
        fail(key, n, range);
    }
}

/// A type of values.
pub trait Value: Sized {
    /// Their kind.
    const KIND: Kind;
    /// As it is written.
    type Wire: Serialize + DeserializeOwned + Debug;
    /// Written.
    fn wire(&self) -> Self::Wire;
    /// Read.
    fn of_wire(wire: Self::Wire) -> Self;
    /// Numbers that must be in the range.
    fn numbers(&self) -> Vec<u128>;
    /// In TOML.
    fn text(&self) -> String {
        format!("{:?}", self.wire())
    }
}

/// Fields of groups, for serde.
pub mod wire {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Value};

    /// Writes a field.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Value, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        value.wire().serialize(serializer)
    }

    /// Reads a field.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, T: Value, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::Wire::deserialize(deserializer).map(T::of_wire)
    }
}

/// Values of `$type`: their kind, how to write and to read them, and the numbers in them.
macro_rules! value {
    ($type:ty as $wire:ty: $kind:expr, $write:expr, $read:expr, $numbers:expr $(, $text:expr)?) => {
        impl Value for $type {
            const KIND: Kind = $kind;
            type Wire = $wire;

            fn wire(&self) -> $wire {
                ($write)(self)
            }

            fn of_wire(wire: $wire) -> Self {
                ($read)(wire)
            }

            fn numbers(&self) -> Vec<u128> {
                ($numbers)(self)
            }

            $(fn text(&self) -> String {
                ($text)(self)
            })?
        }
    };
    (integers: $($type:ty)*) => {
        $(value!($type as Self: Kind::Integer, Self::clone, |n| n, |n: &Self| vec![*n as u128]);)*
    };
}

value!(integers: u8 u32 u64 usize);
value!(NonZeroU32 as Self: Kind::Integer, Self::clone, |n| n, |n: &Self| vec![n.get().into()]);
// None is written as 0.
value!(
    Option<u32> as u32: Kind::Integer,
    |n: &Self| n.unwrap_or(0),
    |n| (n > 0).then_some(n),
    |n: &Self| vec![n.unwrap_or(0).into()]
);
value!(bool as Self: Kind::Flag, Self::clone, |flag| flag, |_| Vec::new());
value!(u128 as Wei: Kind::Amount, |n: &Self| Wei(*n), |wei: Wei| wei.0, |n: &Self| vec![*n], Self::to_string);
value!(Vec<u32> as Self: Kind::Integers, Self::clone, |list| list, |list: &Self| list.iter().map(|n| u128::from(*n)).collect());
value!(Duration as u64: Kind::Integer, |time: &Self| millis(*time), Self::from_millis, |time: &Self| vec![time.as_millis()]);
value!(
    Vec<Duration> as Vec<u64>: Kind::Integers,
    |times: &Self| times.iter().copied().map(millis).collect(),
    |times: Vec<u64>| times.into_iter().map(Duration::from_millis).collect(),
    |times: &Self| times.iter().map(Duration::as_millis).collect()
);

/// An amount as TOML and JSON can write it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wei(#[serde(with = "decimal")] u128);

/// Makes an enum a type of values: a few texts, as serde writes them.
#[macro_export]
macro_rules! choice {
    ($type:ty: $($variant:ident $text:literal),+) => {
        impl $crate::tuning::Value for $type {
            const KIND: $crate::tuning::Kind = $crate::tuning::Kind::Choice(&[$($text),+]);
            type Wire = Self;

            fn wire(&self) -> Self {
                *self
            }

            fn of_wire(wire: Self) -> Self {
                wire
            }

            fn numbers(&self) -> Vec<u128> {
                Vec::new()
            }

            fn text(&self) -> String {
                match self {
                    $(Self::$variant => format!("{:?}", $text)),+
                }
            }
        }
    };
}

/// Makes a group of keys, with `Default` or with a constructor for what its defaults depend on: `field: Type [range] = default;`, with `field "key"` where the key has another name than the field,
/// `was "old"` after it for an old name, and `=> "words"` after a default that follows from something else. Fields after
/// `beside` are no keys: they are neither written nor read.
#[macro_export]
macro_rules! keys {
    (
        $(#[$meta:meta])*
        pub struct $group:ident $(= $usual:ident($argument:ident: $of:ty))?;
        $(
            $(#[doc = $doc:literal])+
            $field:ident $($key:literal $(was $was:literal)?)?: $type:ty $([$range:expr])? = $default:expr $(=> $words:literal)?;
        )+
        $(beside {
            $($(#[doc = $other_doc:literal])+ $other:ident: $other_type:ty = $other_default:expr;)+
        })?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $group {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nKey `", $crate::keys!(@name $field $($key)?), "`", $(", `", stringify!($range), "`",)? ".")]
                #[serde(with = "slackwater_core::tuning::wire" $(, rename = $key $(, alias = $was)?)?)]
                pub $field: $type,
            )+
            $($(
                $(#[doc = $other_doc])+
                #[serde(skip)]
                pub $other: $other_type,
            )+)?
        }

        $crate::keys!(@usual $group $($usual $argument $of)? {
            $($field: $default,)+ $($($other: $other_default,)+)?
        });

        impl $group {
            /// The same with some values changed: `.with(|it| it.field = value)`.
            #[must_use]
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        }

        impl $crate::tuning::Group for $group {
            fn keys() -> Vec<$crate::tuning::Key> {
                vec![$($crate::tuning::Key {
                    name: $crate::keys!(@name $field $($key)?),
                    was: [$($(Some($was),)?)? None][0],
                    text: concat!($($doc),+).trim_ascii(),
                    kind: <$type as $crate::tuning::Value>::KIND,
                    range: [$(Some(($range).into()),)? None][0],
                    default: $crate::keys!(@default $type, $default, $($words)?),
                }),+]
            }

            fn take(&mut self, other: Self) {
                $(self.$field = other.$field;)+
            }

            fn check(&self, fail: &mut $crate::tuning::OutOfRange<'_>) {
                $($crate::tuning::check(
                    $crate::keys!(@name $field $($key)?),
                    &self.$field,
                    [$(Some(($range).into()),)? None][0],
                    fail,
                );)+
            }
        }
    };
    (@usual $group:ident { $($values:tt)+ }) => {
        impl Default for $group {
            fn default() -> Self {
                Self { $($values)+ }
            }
        }
    };
    (@usual $group:ident $usual:ident $argument:ident $of:ty { $($values:tt)+ }) => {
        impl $group {
            /// The defaults.
            #[must_use]
            pub fn $usual($argument: $of) -> Self {
                Self { $($values)+ }
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $key:literal) => { $key };
    (@default $type:ty, $default:expr,) => { <$type as $crate::tuning::Value>::text(&$default) };
    (@default $type:ty, $default:expr, $words:literal) => { $words.to_owned() };
}

pub use {choice, keys};

/// A group of keys.
pub trait Group {
    /// Its keys.
    fn keys() -> Vec<Key>;

    /// Takes the values of the keys from `other`.
    fn take(&mut self, other: Self);

    /// Tells what is out of its range.
    fn check(&self, fail: &mut OutOfRange<'_>);
}

impl<A: Group, B: Group> Group for (A, B) {
    fn keys() -> Vec<Key> {
        [A::keys(), B::keys()].concat()
    }

    fn take(&mut self, other: Self) {
        self.0.take(other.0);
        self.1.take(other.1);
    }

    fn check(&self, fail: &mut OutOfRange<'_>) {
        self.0.check(fail);
        self.1.check(fail);
    }
}

keys! {
    /// Size of transactions, and the wait for company.
    #[derive(Copy)]
    pub struct BatchTuning = for_spec(spec: &ChainSpec);

    /// Most requests in one transaction.
    max_batch: usize [1..=10_000] = 100;
    /// Highest gas limit of one transaction.
    max_batch_gas: u64 [21_000..] = spec.tx_gas_cap().unwrap_or(16_777_216).min(16_777_216)
        => "the chain's cap, at most 16777216";
    /// Longest time that a request waits for company, from its acceptance.
    linger "linger_ms": Duration [0..=3_600_000]
        = spec.block_time().clamp(Duration::from_millis(50), Duration::from_secs(2)) => "the block time, 50 to 2000";
    /// Cost of waiting for company through all of a request's slack, percent of what it would cost alone: a batch goes when no
    /// further company is worth the wait. 0: waiting costs nothing and lasts `linger_ms`.
    waiting_cost_percent: u32 [0..=100_000] = 100;
    /// Gas of one forward request inside a batch, beyond the gas that the user signed.
    forward_overhead_gas: u64 [0..=10_000_000] = 45_000;
}

keys! {
    /// Transactions of one sender account that are outside blocks.
    #[derive(Copy)]
    pub struct LaneTuning = for_spec(spec: &ChainSpec);

    /// Most transactions of one lane that are not in a block.
    max_in_flight: usize [1..=1_024] = 16;
    /// Blocks without inclusion after which a transaction is replaced at a higher price.
    bump_after_blocks: u64 [1..=100_000] = 3;
    /// Blocks without inclusion after which the same bytes are sent again.
    rebroadcast_after_blocks: u64 [1..=100_000] = 2;
    /// Most signed transactions for one nonce.
    max_attempts: u32 [1..=10_000] = 32;
    /// Most contents of one nonce that every node refused. Each refused one makes way for other requests; after so many the
    /// nonce is cancelled.
    max_refused_plans: u32 [1..=10_000] = 32;
    /// Gas of a transfer to oneself, which cancels a transaction.
    cancel_gas: u64 [21_000..=100_000_000] = if spec.has_mempool { 21_000 } else { 1_000_000 }
        => "21000, or 1000000 without a mempool";
    /// Blocks that are read one by one at each head in search of the transaction that took a nonce, where nodes show no receipt
    /// and have no state that old. The search goes on where it stopped.
    spender_scan_blocks: u64 [1..=100_000] = 128;
}

keys! {
    /// Offers per gas, and the reserve for the L1 data fee.
    #[derive(Copy)]
    pub struct FeeTuning = for_spec(spec: &ChainSpec);

    /// Highest offer per gas: no transaction offers more.
    max_fee_ceiling_wei_per_gas: u128 = spec.max_fee_ceiling_wei_per_gas
        => "the preset's: 3000 gwei on Ethereum, 5000 on Polygon, 200 or 1000 on rollups";
    /// Wanted chance that the tip is enough for inclusion within `tip_within_blocks`, thousandths. The smallest tip that
    /// has it is offered, as recent blocks and our own transactions show; a chain's minimum
    /// (`spec.min_priority_fee_wei_per_gas`) is the floor.
    tip_target_permille: u32 [1..=999] = 900;
    /// Blocks within which the tip should be enough. Fewer, and so a higher tip, where the deadline leaves no time for these
    /// and a bump.
    tip_within_blocks: u32 [1..=1_000] = 3;
    /// Highest tip that is learned; nor is one that is ten times as high as the median that was paid in the last day. A
    /// replacement may need more.
    tip_ceiling_wei_per_gas: u128 = spec.tip_ceiling_wei_per_gas
        => "the preset's: 20 gwei on Ethereum, 300 on Polygon, 1 on rollups";
    /// Margin of the L1 data fee that is reserved above the current one, percent. It follows L1 until inclusion, and no
    /// signature caps it.
    l1_fee_margin_percent: u32 [0..=100_000] = 300;
    /// Blocks of fee history that are read at start, and at most after an outage.
    fee_history_blocks: u64 [1..=MAX_HISTORY_BLOCKS] = 1_024;
}

impl FeeTuning {
    /// `tip_target_permille` as a chance, 0 to 1.
    pub fn tip_target(&self) -> f64 {
        f64::from(self.tip_target_permille) / 1_000.0
    }
}
