//! Two bodies that differ in little, of pieces that matter in the format that their media type names.

use arbitrary::{Arbitrary, Result, Unstructured};

/// A form by what it means: names, file names and contents.
pub type Form = Vec<(String, Option<String>, Vec<u8>)>;

pub enum Input {
    Bodies {
        kind: Kind,
        sorted: bool,
        leave_out: bool,
        bodies: [Vec<u8>; 2],
    },
    Forms {
        forms: [Form; 2],
        boundaries: [u32; 2],
    },
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Json,
    Form,
    Multipart,
    Text,
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    " ",
    "\"a\"",
    "\"a\":",
    "\"b\":",
    "\"\\u0061\":",
    "\"csrf\":",
    "\"csrf\":1,",
    "\"\\u0063srf\":2,",
    "{\"a\":1,\"b\":2}",
    "{\"b\":2,\"a\":1}",
    "null",
    "1",
    "1.0",
    "-0",
    "9007199254740993",
    "9007199254740992",
    "1e999",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"}\"",
    "\"\\\"\"",
];

const FORM: &[&str] = &[
    "a",
    "b",
    "=",
    "&",
    "+",
    "%20",
    "%",
    "%61",
    "%ff",
    "%fe",
    "%EF%BF%BD",
    "csrf",
    "csrf=1&",
    "cs%72f=2",
    "a=1",
    "b=2",
];

const MULTIPART: &[&str] = &[
    "--b",
    "--",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\n",
    " ",
    "\r\n--b\r\n",
    "\r\n--b--",
    "\r\n--b--\r\n",
    "--b\r\n",
    "Content-Disposition: form-data; name=\"a\"",
    "content-disposition:form-data; name=b; filename=\"c\"",
    "Content-Disposition: form-data; name=\"csrf\"",
    "Content-Type: text/plain",
    "content-type:text/csv",
    "X:",
    ":",
    "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n",
    "--b\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\n",
];

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        if u.ratio(1, 4)? {
            let form: Form = u.arbitrary()?;
            let mut other = form.clone();
            match u.int_in_range(0..=3)? {
                0 => other = u.arbitrary()?,
                1 => other.push(u.arbitrary()?),
                2 => other.reverse(),
                _ => {}
            }
            return Ok(Self::Forms {
                forms: [form, other],
                boundaries: u.arbitrary()?,
            });
        }
        let kind = u.arbitrary()?;
        let (sorted, leave_out) = u.arbitrary()?;
        let known = match kind {
            Kind::Json => JSON,
            Kind::Form => FORM,
            Kind::Multipart => MULTIPART,
            Kind::Text => &["a"],
        };
        // What is put in, left out or replaced in the second body.
        let changes: [(u8, u8, u8); 2] = u.arbitrary()?;
        let mut list = Vec::new();
        while !u.is_empty() {
            list.push(piece(u, known)?);
        }
        let mut other = list.clone();
        for (how, at, with) in changes {
            let at = usize::from(at) % (other.len() + 1);
            let with = known[usize::from(with) % known.len()].into();
            match how % 4 {
                0 => other.insert(at, with),
                1 if at < other.len() => other[at] = with,
                2 if at < other.len() => _ = other.remove(at),
                _ => {}
            }
        }
        let bodies = [list.concat(), other.concat()];
        Ok(Self::Bodies {
            kind,
            sorted,
            leave_out,
            bodies,
        })
    }
}

/// A piece that is known, or now and then a byte of one's own.
fn piece(u: &mut Unstructured<'_>, known: &[&str]) -> Result<Vec<u8>> {
    Ok(match usize::from(u.arbitrary::<u8>()?) {
        piece if piece < 8 * known.len() => known[piece % known.len()].into(),
        _ => vec![u.arbitrary()?],
    })
}

/// As text, which is what a reader wants to see of a failure.
impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bodies {
                kind,
                sorted,
                leave_out,
                bodies,
            } => {
                let [one, other] = bodies.each_ref().map(|body| body.escape_ascii());
                write!(f, "{kind:?}, sorted {sorted}, leave out {leave_out}\n{one}\n{other}")
            }
            Self::Forms { forms, boundaries } => write!(f, "{forms:?} {boundaries:?}"),
        }
    }
}
