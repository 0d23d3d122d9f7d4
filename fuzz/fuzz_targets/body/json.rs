//! JSON by the letter of RFC 8259, slowly: whether a text is JSON, and what members its outermost object has.
//!
//! Beyond the grammar it refuses what is no text: a lone surrogate where a string is kept, which are names of outermost
//! members, and the value of a wanted member.

use oneflight::http::KEY_FIELD;

pub enum Json {
    Object(Vec<(String, Member)>),
    Other,
}

pub enum Member {
    Null,
    Text(String),
    Other,
}

/// Whether a string is kept or skipped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Keep,
    Skip,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Json {
    pub fn read(body: &[u8]) -> Option<Self> {
        std::str::from_utf8(body).ok()?;
        let mut reader = Reader { rest: body };
        reader.space();
        let json = if reader.rest.starts_with(b"{") {
            Self::Object(reader.outermost()?)
        } else {
            reader.value(Use::Skip)?;
            Self::Other
        };
        reader.space();
        reader.rest.is_empty().then_some(json)
    }
}

impl Reader<'_> {
    fn space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn expect(&mut self, text: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    fn outermost(&mut self) -> Option<Vec<(String, Member)>> {
        let mut members = Vec::new();
        self.expect(b"{")?;
        self.space();
        if self.expect(b"}").is_some() {
            return Some(members);
        }
        loop {
            self.space();
            let name = self.text(Use::Keep)?;
            self.space();
            self.expect(b":")?;
            self.space();
            let used = if name == KEY_FIELD { Use::Keep } else { Use::Skip };
            let member = self.value(used)?;
            members.push((name, member));
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Some(members),
                _ => return None,
            }
        }
    }

    fn value(&mut self, used: Use) -> Option<Member> {
        match *self.rest.first()? {
            b'"' => return self.text(used).map(Member::Text),
            b'n' => return self.expect(b"null").map(|()| Member::Null),
            b't' => self.expect(b"true")?,
            b'f' => self.expect(b"false")?,
            b'[' => {
                self.next();
                self.list(b']', |reader| reader.value(Use::Skip).map(drop))?;
            }
            b'{' => {
                self.next();
                self.list(b'}', |reader| {
                    reader.text(Use::Skip)?;
                    reader.space();
                    reader.expect(b":")?;
                    reader.space();
                    reader.value(Use::Skip).map(drop)
                })?;
            }
            _ => self.number()?,
        }
        Some(Member::Other)
    }

    fn list(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.space();
        if self.expect(&[end]).is_some() {
            return Some(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            match self.next()? {
                b',' => {}
                byte if byte == end => return Some(()),
                _ => return None,
            }
        }
    }

    fn text(&mut self, used: Use) -> Option<String> {
        self.expect(b"\"")?;
        // UTF-16 units are gathered, so that surrogates find each other of themselves.
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => text.push(match self.next()? {
                    escaped @ (b'"' | b'\\' | b'/') => escaped.into(),
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => 10,
                    b'r' => 13,
                    b't' => 9,
                    b'u' => {
                        let digits = self.rest.get(..4)?;
                        self.rest = &self.rest[4..];
                        let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
                        let unit = digits
                            .collect::<Option<Vec<_>>>()?
                            .into_iter()
                            .fold(0, |unit, digit| unit * 16 + digit);
                        u16::try_from(unit).ok()?
                    }
                    _ => return None,
                }),
                ..0x20 => return None,
                first => {
                    let bytes = first.leading_ones().saturating_sub(1) as usize;
                    let character = [&[first], &self.rest[..bytes]].concat();
                    self.rest = &self.rest[bytes..];
                    text.extend(std::str::from_utf8(&character).ok()?.encode_utf16());
                }
            }
        }
        match (String::from_utf16(&text), used) {
            (Ok(text), _) => Some(text),
            (Err(_), Use::Keep) => None,
            (Err(_), Use::Skip) => Some(String::new()),
        }
    }

    fn digits(&mut self) -> Option<()> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.rest = &self.rest[digits..];
        (digits > 0).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.expect(b"-");
        if self.expect(b"0").is_none() {
            self.digits()?;
        }
        if self.expect(b".").is_some() {
            self.digits()?;
        }
        if self.expect(b"e").or_else(|| self.expect(b"E")).is_some() {
            let _ = self.expect(b"+").or_else(|| self.expect(b"-"));
            self.digits()?;
        }
        Some(())
    }
}
