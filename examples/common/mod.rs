//! What the examples share: their arguments, and the service that these name.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;

use backhaul::Service;

/// Words in their order, and `--name value` pairs.
pub(crate) struct Arguments {
    pub(crate) words: Vec<String>,
    options: HashMap<String, String>,
}

impl Arguments {
    pub(crate) fn new(arguments: impl IntoIterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut words, mut options) = (Vec::new(), HashMap::new());
        let mut arguments = arguments.into_iter();
        while let Some(word) = arguments.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    let value = arguments.next().ok_or_else(|| format!("{word} has no value"))?;
                    options.insert(name.to_owned(), value);
                }
                None => words.push(word),
            }
        }
        Ok(Self { words, options })
    }

    /// A number of bytes; none where it is not given.
    pub(crate) fn bytes(&self, name: &str) -> Result<Option<u64>, Box<dyn Error>> {
        let text = self.options.get(name);
        Ok(text.map(|text| text.parse()).transpose()?)
    }

    /// The engine behind `--socket`, or one of this process on the state directory of `--state`.
    pub(crate) fn service(&self) -> Result<Service, Box<dyn Error>> {
        if let Some(socket) = self.options.get("socket") {
            return Ok(Service::connect(socket)?);
        }
        Ok(Service::open(self.state())?)
    }

    /// The state directory of `--state`, or one that all examples share.
    pub(crate) fn state(&self) -> PathBuf {
        let state = self.options.get("state").map(PathBuf::from);
        state.unwrap_or_else(|| std::env::temp_dir().join("backhaul-examples"))
    }
}
