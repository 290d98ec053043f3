use super::Summary;
use crate::text::{counted, grouped, measured};

impl Summary {
    /// One sentence that says what the adapter is: method, rank, scale, where it acts, for which base, how large.
    pub fn sentence(&self) -> String {
        let rank = match self.ranks[..] {
            [] => String::new(),
            [rank] => format!(" of rank {rank}"),
            [first, .., last] => format!(" of ranks {first} to {last}"),
        };
        let scale = match self.scales[..] {
            [scale] if scale != 1.0 => format!(" (scale {})", measured(scale)),
            _ => String::new(),
        };
        let base = match (&self.base.name, &self.base.architecture) {
            (Some(name), _) => format!("for {name}"),
            (None, Some(architecture)) => format!("for a {architecture} that is not named"),
            (None, None) => "for a base that is not named".to_owned(),
        };
        let size = match self.parameters {
            0 => "no parameters".to_owned(),
            // A compressed change has a dtype in its base alone.
            count if self.dtypes.is_empty() => format!("{} parameters", grouped(count)),
            count => format!("{} parameters in {}", grouped(count), self.dtypes.join(" and ")),
        };
        let (main, beside) = self.what();
        format!("{main}{rank}{scale}{}{beside}, {base}: {size}.", self.place())
    }

    /// What it is, and what it brings beside that.
    fn what(&self) -> (String, String) {
        let main = ["DoRA", "rsLoRA", "LoRA", "intervention", "bit-exact diff"];
        let order = |method: &&str| main.iter().position(|known| known == method).unwrap_or(main.len());
        let mut methods = self.methods.clone();
        methods.sort_by_key(order);
        match &methods[..] {
            [] => ("An adapter that changes nothing".to_owned(), String::new()),
            [first] => (format!("A {}", named(first)), String::new()),
            [first, rest @ ..] => {
                let rest: Vec<&str> = rest.iter().map(|method| named(method)).collect();
                (format!("A {}", named(first)), format!(", with a {}", rest.join(" and a ")))
            }
        }
    }

    fn place(&self) -> String {
        let sites = self.kinds.get("intervention").copied().unwrap_or(0);
        let layers = match self.layers {
            0 => String::new(),
            layers => format!(" in {}", counted(layers, "layer")),
        };
        match (self.modules, self.base.touched_tensors, sites) {
            (0, 0, 0) => String::new(),
            (0, 0, sites) => format!(" at {}{layers}", counted(sites, "site")),
            (0, tensors, _) => format!(" on {}", counted(tensors, "tensor")),
            (modules, ..) => format!(" on {}{layers}", counted(modules, "module")),
        }
    }
}

fn named(method: &str) -> &str {
    match method {
        "rsLoRA" => "rank-stabilised LoRA",
        "intervention" => "set of interventions on hidden states",
        "dense update" => "set of dense updates",
        "sparse update" => "set of sparse updates",
        "replaced elements" => "set of replaced elements",
        "replaced rows" => "set of replaced rows",
        "replaced tensors" => "set of replaced tensors",
        "new tensors" => "set of new tensors",
        "removed tensors" => "list of removed tensors",
        "config" => "change of the config",
        other => other,
    }
}
