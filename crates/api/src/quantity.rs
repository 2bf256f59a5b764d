//! Amounts of resources: fixed-point numbers with suffixes, canonical as the original prints them.
//!
//! Invariant: never a float; a parsed amount is exact down to a billionth (nano), below that it is rounded away
//! from zero. Deliberately absent: arbitrary precision; amounts beyond about 1e29 saturate.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// How an amount was written, and so will be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// An amount: `value * 10^scale`, with `scale` at least -9.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityError {
    Format,
    Numeric,
    Suffix,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            QuantityError::Format => "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            QuantityError::Numeric => "unable to parse numeric part of quantity",
            QuantityError::Suffix => "unable to parse quantity's suffix",
        })
    }
}

impl std::error::Error for QuantityError {}

const NANO: i32 = -9;
const EXA: i32 = 18;
/// Digits that an i128 holds with room for a binary suffix.
const DIGITS_MAX: usize = 20;
/// Where the original caps binary amounts: 2^63-1.
const BINARY_MAX: i128 = i64::MAX as i128;
const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL_SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    pub const ZERO: Quantity = Quantity {
        value: 0,
        scale: 0,
        format: Format::DecimalSi,
    };

    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        scan(text).map(|(quantity, _)| quantity)
    }

    pub fn from_value(value: i64) -> Self {
        Quantity {
            value: i128::from(value),
            scale: 0,
            format: Format::DecimalSi,
        }
    }

    /// `1500` is `1500m`.
    pub fn from_milli(value: i64) -> Self {
        Quantity {
            value: i128::from(value),
            scale: -3,
            format: Format::DecimalSi,
        }
    }

    /// An amount of bytes, printed with binary suffixes.
    pub fn from_bytes(value: i64) -> Self {
        Quantity {
            value: i128::from(value),
            scale: 0,
            format: Format::BinarySi,
        }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn with_format(self, format: Format) -> Self {
        Quantity { format, ..self }
    }

    pub fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.value.signum() as i32
    }

    /// Whole units, rounded away from zero, saturating.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// Thousandths, rounded away from zero, saturating.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// In units of `10^scale`.
    pub fn scaled(&self, scale: i32) -> i64 {
        let (value, _) = self.at_scale(scale);
        value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Times `factor`, saturating.
    #[allow(clippy::should_implement_trait)] // Callers need no import for it.
    pub fn mul(self, factor: i64) -> Self {
        Quantity {
            value: self.value.saturating_mul(i128::from(factor)),
            ..self
        }
    }

    pub fn as_f64(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    /// The value in units of `10^scale`, and whether nothing was rounded.
    fn at_scale(&self, scale: i32) -> (i128, bool) {
        if self.scale >= scale {
            return (saturating_shift(self.value, self.scale.saturating_sub(scale)), true);
        }
        match 10i128.checked_pow(scale.saturating_sub(self.scale) as u32) {
            Some(divisor) => {
                let remainder = self.value % divisor;
                (
                    self.value / divisor
                        + if remainder == 0 {
                            0
                        } else {
                            self.value.signum()
                        },
                    remainder == 0,
                )
            }
            None => (self.value.signum(), self.value == 0),
        }
    }

    /// Both values at the finer of the two scales.
    fn aligned(self, other: Self) -> (i128, i128, i32) {
        let scale = self.scale.min(other.scale);
        (self.at_scale(scale).0, other.at_scale(scale).0, scale)
    }
}

fn saturating_shift(value: i128, decimals: i32) -> i128 {
    let factor = 10i128.checked_pow(decimals as u32).unwrap_or(i128::MAX);
    value.saturating_mul(factor)
}

/// The form that the original would print after parsing `text`: itself where that is canonical already.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    let (quantity, keeps_text) = scan(text)?;
    Ok(if keeps_text {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(quantity.to_string())
    })
}

/// Parses, and says whether the original keeps the text as it stands (it does for a little more than canonical forms).
fn scan(text: &str) -> Result<(Quantity, bool), QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    if text == "0" {
        return Ok((Quantity::ZERO, true));
    }
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let significant = unsigned.trim_start_matches('0');
    let (digits, rest) = split_digits(significant);
    let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    let letters = suffix.trim_start_matches(|letter| "eEinumkKMGTP".contains(letter));
    let exponent_digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if !exponent_digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let (binary, exponent, format) = interpret_suffix(suffix).ok_or(QuantityError::Suffix)?;
    // Past nano only "anything at all" matters, since it is rounded up.
    let kept = fraction.len().min(DIGITS_MAX);
    let lost = fraction[kept..].bytes().any(|byte| byte != b'0');
    let all: String = [digits, &fraction[..kept]].concat();
    if all.trim_start_matches('0').len() > 2 * DIGITS_MAX - 4 {
        return Err(QuantityError::Numeric);
    }
    let mut value: i128 = if all.is_empty() {
        0
    } else {
        all.parse().map_err(|_| QuantityError::Numeric)?
    };
    let mut scale = -(kept as i32);
    let keeps_text = keeps_text(digits, fraction, value, binary, exponent);
    if binary {
        value = value.saturating_mul(1i128 << exponent);
    } else {
        scale = scale.saturating_add(exponent);
    }
    if scale < NANO || lost {
        let exact = Quantity {
            value,
            scale,
            format,
        };
        let (nanos, even) = exact.at_scale(NANO);
        value = nanos.saturating_add(i128::from(lost && even));
        scale = NANO;
    }
    let mut quantity = Quantity {
        value,
        scale,
        format,
    };
    if binary {
        let cap = Quantity {
            value: BINARY_MAX,
            scale: 0,
            format,
        };
        if quantity > cap {
            quantity = cap;
        }
        if quantity.value > 0 && quantity < Quantity::from_value(1) {
            quantity.format = Format::DecimalSi;
        }
    }
    if negative {
        quantity.value = -quantity.value;
    }
    Ok((quantity, keeps_text))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn keeps_text(digits: &str, fraction: &str, value: i128, binary: bool, exponent: i32) -> bool {
    let places = fraction.len() as i32;
    let length = digits.len().max(1) + fraction.len();
    if binary {
        let precision = 15 - digits.len().max(1) as i32 - exponent * 3 / 10 - 1;
        return fraction.is_empty() && precision >= 0 && value & 7 != 0;
    }
    let scale = exponent.saturating_sub(places);
    let ends_in_thousand = [digits, fraction].concat().ends_with("000");
    length <= 18 && scale >= NANO && scale % 3 == 0 && !ends_in_thousand && !digits.is_empty()
}

/// Binary or decimal, the exponent, and how it was written.
fn interpret_suffix(suffix: &str) -> Option<(bool, i32, Format)> {
    if let Some(at) = BINARY_SUFFIXES
        .iter()
        .skip(1)
        .position(|known| *known == suffix)
    {
        return Some((true, (at as i32 + 1) * 10, Format::BinarySi));
    }
    if let Some(at) = DECIMAL_SUFFIXES.iter().position(|known| *known == suffix) {
        return Some((false, at as i32 * 3 + NANO, Format::DecimalSi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    Some((false, exponent, Format::DecimalExponent))
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == 0 {
            return out.write_str("0");
        }
        let (whole, exact) = self.at_scale(0);
        // Small or fractional amounts would lose precision as multiples of 1024.
        if self.format == Format::BinarySi && exact && !(-1023..=1023).contains(&whole) {
            let (mut value, mut power) = (whole, 0);
            while value % 1024 == 0 && power < BINARY_SUFFIXES.len() - 1 {
                value /= 1024;
                power += 1;
            }
            return write!(out, "{value}{}", BINARY_SUFFIXES[power]);
        }
        let (mut value, mut exponent) = (self.value, self.scale);
        while value % 10 == 0 {
            value /= 10;
            exponent += 1;
        }
        let decimal_suffix = self.format != Format::DecimalExponent;
        let target = exponent.div_euclid(3) * 3;
        let target = if decimal_suffix {
            target.min(EXA)
        } else {
            target
        };
        value = saturating_shift(value, exponent - target);
        match target {
            0 => write!(out, "{value}"),
            _ if decimal_suffix => write!(
                out,
                "{value}{}",
                DECIMAL_SUFFIXES[((target - NANO) / 3) as usize]
            ),
            _ => write!(out, "{value}e{target}"),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Quantity::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right, _) = self.aligned(*other);
        left.cmp(&right)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Quantity::ZERO
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// The sum, in the format of the first that is not zero, as the original does.
    fn add(self, other: Quantity) -> Quantity {
        let (left, right, scale) = self.aligned(other);
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Quantity {
            value: left.saturating_add(right),
            scale,
            format,
        }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity {
            value: self.value.saturating_neg(),
            ..self
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(amounts: I) -> Quantity {
        amounts.fold(Quantity::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = canonical(text).map_or_else(|error| error.to_string(), Cow::into_owned);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn canonical_forms() {
        for unchanged in [
            "0", "1", "100m", "1500m", "128Mi", "1Gi", "8Gi", "1E", "512Ei", "12e6", "-5", "+1",
            "1k", "1n", "1.500",
        ] {
            let expected = if unchanged == "512Ei" {
                "9223372036854775807"
            } else {
                unchanged
            };
            check(unchanged, expected);
        }
        check("1.5", "1500m");
        check("0.5", "500m");
        check("1.5Gi", "1536Mi");
        check("1024Ki", "1Mi");
        check("0.5Ei", "512Pi");
        check("1000", "1k");
        check("1000m", "1");
        check("0.1n", "1n");
        check("0.0001", "100u");
        check("1024", "1024");
        check("0.5Ki", "512");
        check("0.0001Ki", "102400u");
        check("100000E", "100000E");
        check("1e-3", "1e-3");
        check("1e-2147483648", "1e-9");
        let beyond = Quantity::parse("9999.9222222222222222222222222E22222").expect("an amount, if a large one");
        assert!(beyond > Quantity::parse("1e29").expect("an amount"));
        check("", &QuantityError::Format.to_string());
        check("abc", &QuantityError::Format.to_string());
        check("1Mib", &QuantityError::Format.to_string());
        check("1.2.3", &QuantityError::Format.to_string());
        check("1mM", &QuantityError::Suffix.to_string());
        check(&"9".repeat(80), &QuantityError::Numeric.to_string());
    }

    #[test]
    fn numbers() {
        let parse = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(parse("1500m").value(), 2);
        assert_eq!(parse("-1500m").value(), -2);
        assert_eq!(parse("1.5").milli_value(), 1500);
        assert_eq!(parse("1Gi").value(), 1 << 30);
        assert_eq!(parse("1n").milli_value(), 1);
        assert_eq!(parse("1000m"), parse("1"));
        assert!(parse("1Ki") > parse("1k"));
        assert_eq!((parse("1Gi") + parse("512Mi")).to_string(), "1536Mi");
        assert_eq!((parse("1") - parse("100m")).to_string(), "900m");
        assert_eq!(Quantity::from_bytes(2048).to_string(), "2Ki");
        assert_eq!(Quantity::from_milli(250).to_string(), "250m");
        assert_eq!(parse("100m").mul(3).to_string(), "300m");
        assert_eq!(
            ["1", "2"].map(parse).into_iter().sum::<Quantity>().value(),
            3
        );
    }
}
