//! Query strings.

pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Query {
        Query(api::percent::query(text).collect())
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    pub fn is_set(&self, key: &str) -> bool {
        matches!(self.first(key), Some("1" | "true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let query = Query::parse("command=ls&command=-l+%2Ftmp&stdin=1&tty=false&bad=%zz");
        assert_eq!(query.all("command"), ["ls", "-l /tmp"]);
        assert!(query.is_set("stdin") && !query.is_set("tty") && !query.is_set("none"));
        assert_eq!(query.first("bad"), Some("%zz"));
    }
}
