//! Why a forecast is what it is.

/// How a forecast came about: `log_price` plus all contributions is `log_point`, unless the protocol's bounds cut it.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Steps ahead.
    pub steps: u32,
    /// Log of the next block's base fee (or of the last one, where the next is not determined).
    pub log_price: f64,
    /// Log of the forecast.
    pub log_point: f64,
    /// What each feature adds to the log fee, largest first.
    pub contributions: Vec<(&'static str, f64)>,
    /// What no feature explains: the models' constants.
    pub constant: f64,
    /// Experts with their weight and the log move each of them predicts, heaviest first.
    pub experts: Vec<(&'static str, f64, f64)>,
}
