//! `PATH[:WEIGHT]`.

use anyhow::bail;
use std::path::{Path, PathBuf};

/// An adapter argument with its weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) path: PathBuf,
    pub(crate) weight: f64,
}

impl Weighted {
    /// Splits at the last colon when what follows is a number; a path that exists as it stands is never split.
    pub(crate) fn parse(text: &str, exists: impl Fn(&Path) -> bool) -> anyhow::Result<Self> {
        let whole = Self { path: PathBuf::from(text), weight: 1.0 };
        let Some((path, weight)) = text.rsplit_once(':').filter(|_| !exists(Path::new(text))) else {
            return Ok(whole);
        };
        match weight.parse::<f64>() {
            Ok(weight) if weight.is_finite() && !path.is_empty() => {
                Ok(Self { path: PathBuf::from(path), weight })
            }
            Ok(weight) => bail!("{text}: weight {weight} is not a finite number behind a path"),
            // `PATH:` followed by no number is most likely a mistyped weight, unless the rest is a path of its own.
            Err(_) if exists(Path::new(path)) => bail!("{text}: {weight:?} is not a weight"),
            Err(_) => Ok(whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Weighted;
    use std::path::Path;

    fn parse(text: &str) -> Result<(String, f64), String> {
        let exists = |path: &Path| matches!(path.to_str(), Some("a" | "b:0.5"));
        let weighted = Weighted::parse(text, exists).map_err(|error| error.to_string())?;
        Ok((weighted.path.display().to_string(), weighted.weight))
    }

    #[test]
    fn the_number_behind_the_last_colon_is_the_weight() {
        assert_eq!(parse("a"), Ok(("a".into(), 1.0)));
        assert_eq!(parse("a:0.7"), Ok(("a".into(), 0.7)));
        assert_eq!(parse("x:y:-1e-3"), Ok(("x:y".into(), -1e-3)));
        assert_eq!(parse("c:/missing"), Ok(("c:/missing".into(), 1.0)));
    }

    #[test]
    fn a_path_that_exists_is_never_split() {
        assert_eq!(parse("b:0.5"), Ok(("b:0.5".into(), 1.0)));
    }

    #[test]
    fn what_cannot_be_a_weight_is_refused() {
        assert!(parse("a:nan").is_err());
        assert!(parse("a:0,7").unwrap_err().contains("is not a weight"));
        assert!(parse(":0.5").is_err());
    }
}
