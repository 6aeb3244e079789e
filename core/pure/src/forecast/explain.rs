//! Attribution of a forecast to features and experts.

/// Attribution of one forecast: `log_price` plus all contributions is `log_point`, unless the protocol's bounds cut it.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Steps ahead.
    pub steps: u32,
    /// Log of the next block's base fee (of the last block's if the next is not determined).
    pub log_price: f64,
    /// Log of the forecast.
    pub log_point: f64,
    /// Contribution of each feature to the log fee, largest first.
    pub contributions: Vec<(&'static str, f64)>,
    /// The models' constants, which no feature explains.
    pub constant: f64,
    /// Experts with weight and predicted log move, heaviest first.
    pub experts: Vec<(&'static str, f64, f64)>,
}
