//! Reads what a Prometheus endpoint says: its text format, version 0.0.4, as far as ours are written in it.
//!
//! It is strict: a line that it cannot read makes the whole of no use, since a rate of half of the lines is no rate.

/// One line: a metric with its labels, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    /// Returns the value of a label: empty if it is not there, which is the same to Prometheus.
    pub(super) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// How many lines of ours are read.
const MOST: usize = 20_000;

/// Reads the lines whose metric begins with this.
pub(super) fn read(text: &str, prefix: &str) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let sample = Reader(line)
            .sample()
            .ok_or_else(|| format!("line {number} is not in Prometheus' text format"))?;
        if !sample.name.starts_with(prefix) {
            continue;
        }
        if samples.len() == MOST {
            return Err(format!("it has more than {MOST} lines that begin with {prefix}"));
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// What is left of a line.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn sample(mut self) -> Option<Sample> {
        let name = self.name(":")?.to_owned();
        self.spaces();
        let labels = match self.take('{') {
            true => self.labels()?,
            false => Vec::new(),
        };
        self.spaces();
        let mut rest = self.0.split_ascii_whitespace();
        let value = match rest.next()? {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            "NaN" => f64::NAN,
            number
                if number
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) =>
            {
                number.parse().ok()?
            }
            _ => return None,
        };
        // A time stamp may follow.
        if let Some(time) = rest.next() {
            time.parse::<i64>().ok()?;
        }
        rest.next().is_none().then_some(Sample { name, labels, value })
    }

    fn labels(&mut self) -> Option<Vec<(String, String)>> {
        let mut labels = Vec::new();
        loop {
            self.spaces();
            if self.take('}') {
                return Some(labels);
            }
            let name = self.name("")?.to_owned();
            self.spaces();
            let opened = self.take('=') && {
                self.spaces();
                self.take('"')
            };
            if !opened {
                return None;
            }
            labels.push((name, self.quoted()?));
            self.spaces();
            if !self.take(',') && !self.0.starts_with('}') {
                return None;
            }
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other @ ('\\' | '"') => other,
                    _ => return None,
                }),
                other => value.push(other),
            }
        }
        None
    }

    fn name(&mut self, also: &str) -> Option<&'a str> {
        let is_part =
            |character: char| character.is_ascii_alphanumeric() || character == '_' || also.contains(character);
        let end = self.0.find(|character| !is_part(character)).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        (!name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit())).then_some(name)
    }

    fn spaces(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn take(&mut self, character: char) -> bool {
        match self.0.strip_prefix(character) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_they_were_written() {
        let text = "# HELP a_b of \"all\"\n# TYPE a_b counter\na_b{route=\"/orders/{id}\",origin=\"x\\\"y\\\\z\\nw\",} 3\n\na_c 1.5e3 1700000000000\n\
                    other 7\na_d { x = \"\" } NaN\n";
        let samples = read(text, "a_").unwrap_or_default();
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].label("route"), "/orders/{id}");
        assert_eq!(samples[0].label("origin"), "x\"y\\z\nw");
        assert_eq!((samples[1].name.as_str(), samples[1].value), ("a_c", 1500.0));
        assert!(samples[2].value.is_nan() && samples[2].label("none").is_empty());
    }

    #[test]
    fn what_is_no_exposition_is_an_error_that_names_the_line() {
        for broken in [
            "<html>",
            "a",
            "a{",
            "a{b} 1",
            "a{b=\"c} 1",
            "a{b=\"c\" d=\"e\"} 1",
            "a 1 2 3",
            "a inf",
            "a 0x10",
            "1a 1",
            "a{b=\"\\q\"} 1",
        ] {
            let told = read(&format!("a 1\n{broken}\n"), "a");
            assert!(told.is_err_and(|what| what.starts_with("line 2 ")), "{broken}");
        }
        let many = "a 1\n".repeat(MOST + 1);
        assert!(read(&many, "a").is_err());
        assert_eq!(read(&many, "b").map(|samples| samples.len()), Ok(0));
    }
}
