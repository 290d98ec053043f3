//! Keys of ReFT tensors: `model.layers.3.reft_layer.refts.NAME.units.0.learned_source.weight`.

use fitment_core::model::ModuleSite;

/// A key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key<'k> {
    /// The block: `model.layers.3`.
    pub(super) block: &'k str,
    /// Its number.
    pub(super) layer: u64,
    /// The adapter's name.
    pub(super) adapter: &'k str,
    /// 0 or 1.
    pub(super) unit: usize,
    pub(super) part: Part,
}

/// What a tensor is of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Weight,
    Bias,
    Projection,
    Original,
    Base,
}

impl Part {
    const ALL: [(Part, &'static str); 5] = [
        (Part::Weight, "learned_source.weight"),
        (Part::Bias, "learned_source.bias"),
        (Part::Projection, "projection.weight"),
        (Part::Original, "projection.parametrizations.weight.original"),
        (Part::Base, "projection.parametrizations.weight.0.base"),
    ];

    /// Its end of a key.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(part, _)| *part == self).map_or("", |(_, name)| name)
    }
}

/// Takes a key apart; `None` when it is of something else.
pub(super) fn parse(key: &str) -> Option<Key<'_>> {
    let (block, rest) = key.split_once(".reft_layer.refts.")?;
    let (adapter, rest) = rest.split_once(".units.")?;
    let (unit, part) = rest.split_once('.')?;
    let unit = match unit {
        "0" => 0,
        "1" => 1,
        _ => return None,
    };
    let (part, _) = Part::ALL.into_iter().find(|(_, name)| *name == part)?;
    Some(Key { block, layer: layer_of(block)?, adapter, unit, part })
}

/// The number of a block, the last part of its path; `None` where the path cannot be a module's.
pub(super) fn layer_of(block: &str) -> Option<u64> {
    ModuleSite::new(format!("{block}.output")).ok()?;
    let number = block.rsplit('.').next()?;
    number.parse().ok().filter(|layer: &u64| layer.to_string() == number)
}

/// The key of a tensor.
pub(super) fn name(block: &str, adapter: &str, unit: usize, part: Part) -> String {
    format!("{block}.reft_layer.refts.{adapter}.units.{unit}.{}", part.name())
}

#[cfg(test)]
mod tests {
    use super::{Part, name, parse};

    #[test]
    fn keys_read_back() {
        for (part, _) in Part::ALL {
            let key = name("bert.encoder.layer.11", "x", 1, part);
            let parsed = parse(&key).unwrap();
            assert_eq!((parsed.block, parsed.layer, parsed.adapter), ("bert.encoder.layer.11", 11, "x"));
            assert_eq!((parsed.unit, parsed.part), (1, part));
        }
        let odd = [
            "",
            "a b.0.reft_layer.refts.x.units.0.learned_source.bias",
            "a.0.loras.x.lora_A",
            "l.00.reft_layer.refts.x.units.0.learned_source.bias",
        ];
        assert!(odd.iter().all(|key| parse(key).is_none()));
        assert!(parse("l.0.reft_layer.refts.x.units.2.learned_source.bias").is_none());
    }
}
