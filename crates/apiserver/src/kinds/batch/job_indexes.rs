//! Lists of indexes as jobs write them: `1,3-5,7`.

/// Their number; Err: what is wrong, in the original's words.
pub fn count(indexes: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    if indexes.is_empty() {
        return Ok(0);
    }
    for part in indexes.split(',') {
        let (first, end) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let ends: Vec<&str> = part.split('-').collect();
    if ends.len() > 2 {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let number = |text: &str| -> Result<i64, String> {
        let number: i64 =
            text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
    };
    let first = number(ends[0])?;
    let Some(end) = ends.get(1) else { return Ok((first, first)) };
    let end = number(end)?;
    if first >= end {
        return Err(format!("non-increasing order, previous: {first}, current: {end}"));
    }
    Ok((first, end))
}

/// The first index that both lists hold; what cannot be read is not looked at.
pub fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let others = read(other);
    read(one).into_iter().find_map(|(first, end)| {
        let meets = others.iter().find(|(other_first, other_end)| first <= *other_end && *other_first <= end);
        meets.map(|(other_first, _)| first.max(*other_first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        #[track_caller]
        fn check(indexes: &str, expected: Result<i64, &str>) {
            assert_eq!(count(indexes, 10), expected.map_err(str::to_owned), "{indexes}");
        }
        check("", Ok(0));
        check("0,2-4,9", Ok(5));
        check("0,2-4,4", Err("non-increasing order, previous: 4, current: 4"));
        check("3-2", Err("non-increasing order, previous: 3, current: 2"));
        check("10", Err("too large index: \"10\""));
        check("a", Err("cannot convert string to integer for index: \"a\""));
        check(
            "1-2-3",
            Err("the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'"),
        );
        assert_eq!(overlap("0-3", "5,3", 10), Some(3));
        assert_eq!(overlap("0-3", "4-5", 10), None);
    }
}
