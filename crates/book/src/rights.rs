//! The rights that the roles of `docs/database-roles.sql` are to have, read from that file.

/// A right of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) role: String,
    /// The table, or the function.
    pub(crate) table: String,
    /// Empty: the whole table.
    pub(crate) column: String,
    pub(crate) privilege: String,
}

const ROLES: &str = include_str!("../../../docs/database-roles.sql");

/// Every right that the file grants.
pub(crate) fn rights() -> Vec<Right> {
    let lines: Vec<&str> = ROLES.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let text = lines.join(" ");
    text.split(';').filter_map(|statement| granted(statement.trim())).flatten().collect()
}

/// The rights of a statement `grant select, update (a, b) on t, u to r, s`; `None` for any other.
fn granted(statement: &str) -> Option<Vec<Right>> {
    let (privileges, rest) = statement.strip_prefix("grant ")?.split_once(" on ")?;
    let (tables, roles) = rest.split_once(" to ")?;
    let tables = tables.trim().strip_prefix("function ").unwrap_or(tables);
    let mut rights = Vec::new();
    for (privilege, columns) in privileges_of(privileges) {
        for table in names(tables) {
            for role in names(roles) {
                for column in &columns {
                    let (role, table) = (role.to_owned(), table.to_owned());
                    rights.push(Right { role, table, column: column.clone(), privilege: privilege.clone() });
                }
            }
        }
    }
    Some(rights)
}

/// Each privilege with its columns; one without a name stands for the whole table.
fn privileges_of(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find([',', '(']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let (columns, after) = match after.strip_prefix('(').and_then(|list| list.split_once(')')) {
            Some((list, after)) => (names(list).map(str::to_owned).collect(), after),
            None => (vec![String::new()], after),
        };
        found.push((word.trim().to_owned(), columns));
        rest = after.trim_start_matches([',', ' ']);
    }
    found
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_tables_and_roles_are_told_apart() {
        let executes = granted("grant execute on function f, g to r").unwrap();
        assert_eq!(executes.iter().map(|right| right.table.as_str()).collect::<Vec<_>>(), ["f", "g"]);
        let rights = granted("grant select, update (a, b), delete on t, u to r").unwrap();
        let shown: Vec<String> = rights
            .iter()
            .map(|right| format!("{} {}.{} {}", right.privilege, right.table, right.column, right.role))
            .collect();
        let expected = [
            "select t. r",
            "select u. r",
            "update t.a r",
            "update t.b r",
            "update u.a r",
            "update u.b r",
            "delete t. r",
            "delete u. r",
        ];
        assert_eq!(shown, expected);
        assert_eq!(granted("grant overdue_worker to overdue_api"), None, "a role, not a right");
    }

    #[test]
    fn the_file_is_understood() {
        let rights = rights();
        let worker = |table: &str, column: &str, privilege: &str| {
            rights.iter().any(|right| {
                right.role == "overdue_worker"
                    && right.table == table
                    && right.column == column
                    && right.privilege == privilege
            })
        };
        assert!(
            worker("orders", "closed_at", "update")
                && worker("outbox", "", "insert")
                && worker("refunds", "", "select")
        );
    }
}
