//! What the login role of a service's database may do there, against what the service's migrations grant.

use amends_pool::Pool;
use amends_postgres::citus;

use super::finding::Finding;
use crate::services::Service;

/// How many rights are named; the others are counted.
const NAMED_MOST: usize = 8;
/// The role in a statement of a migration that several workers share.
const ANY_WORKER: &str = "%s";

/// The role, and which of the wanted rights it lacks, by their places. An object that is not there counts as granted: a
/// distributed database has some that others have not, and whether the schema is this program's is another question.
const LACKING: &str = "
    SELECT quote_ident(current_user), array(
        SELECT wanted.place
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY
             AS wanted (kind, object, part, privilege, place)
        WHERE NOT coalesce(CASE
            WHEN kind = 'SCHEMA' THEN has_schema_privilege(to_regnamespace(object)::oid, privilege)
            WHEN kind = 'SEQUENCE' THEN has_sequence_privilege(to_regclass(object)::oid, privilege)
            WHEN kind = 'FUNCTION' AND object LIKE '%(%'
                THEN has_function_privilege(to_regprocedure(object)::oid, privilege)
            WHEN kind = 'FUNCTION' THEN has_function_privilege(to_regproc(object)::oid, privilege)
            WHEN part <> '' THEN has_column_privilege(to_regclass(object)::oid, part, privilege)
            ELSE has_table_privilege(to_regclass(object)::oid, privilege)
        END, true)
        ORDER BY wanted.place)";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Schema,
    Table,
    Sequence,
    Function,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "SCHEMA",
            Self::Table => "TABLE",
            Self::Sequence => "SEQUENCE",
            Self::Function => "FUNCTION",
        }
    }
}

/// A right in a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    kind: Kind,
    /// `timeline`, `retire_month(interval)`.
    object: String,
    /// The column, where the right is of one; else empty.
    part: String,
    /// `SELECT`, `EXECUTE`.
    privilege: String,
}

impl Right {
    /// Returns it as it stands in a `GRANT`: `UPDATE (method) ON TABLE gateway_charges`.
    fn text(&self) -> String {
        let Self { kind, object, part, privilege } = self;
        let of_part = if part.is_empty() { String::new() } else { format!(" ({part})") };
        format!("{privilege}{of_part} ON {} {object}", kind.as_str())
    }
}

/// The rights of a database's login role.
pub(super) struct Rights {
    /// The role, as SQL names it.
    role: String,
    /// The role that `amends migrate` creates.
    own_role: String,
    lacking: Vec<Right>,
}

impl Rights {
    /// Asks the database, which changes nothing.
    pub(super) async fn read(pool: &Pool, service: &Service) -> Result<Self, sqlx::Error> {
        let own_role = format!("amends_{}", service.name);
        let wanted = wanted(service);
        let of = |field: fn(&Right) -> &str| wanted.iter().map(field).collect::<Vec<_>>();
        let (role, places): (String, Vec<i64>) = sqlx::query_as(LACKING)
            .bind(of(|right| right.kind.as_str()))
            .bind(of(|right| &right.object))
            .bind(of(|right| &right.part))
            .bind(of(|right| &right.privilege))
            .fetch_one(pool)
            .await?;
        // Places count from 1.
        let at = |place: i64| wanted.get(usize::try_from(place).ok()?.checked_sub(1)?).cloned();
        Ok(Self { role, own_role, lacking: places.into_iter().filter_map(at).collect() })
    }

    /// Returns whether the role has every right that its program needs.
    pub(super) fn are_whole(&self) -> bool {
        self.lacking.is_empty()
    }

    /// Returns whether no table can be seen, as if there were none.
    pub(super) fn hide_the_schema(&self) -> bool {
        self.lacking.iter().any(|right| right.kind == Kind::Schema)
    }

    /// Judges them.
    pub(super) fn finding(&self, subject: &str) -> Finding {
        let Self { role, own_role, lacking } = self;
        if lacking.is_empty() {
            return Finding::good(subject, format!("the login role {role} has every right that it needs"));
        }
        let named: Vec<_> = lacking.iter().take(NAMED_MOST).map(Right::text).collect();
        let rest = match lacking.len().saturating_sub(NAMED_MOST) {
            0 => String::new(),
            rest => format!(", and {rest} more"),
        };
        let found = format!("the login role {role} lacks rights: {}{rest}", named.join(", "));
        let grants: Vec<_> =
            lacking.iter().map(|right| format!("GRANT {} TO {role};", right.text())).collect();
        // Many are lacking of a role that was made by hand.
        let advice = match lacking.len() > NAMED_MOST && role != own_role {
            true => format!(
                "Use {own_role}, which `amends migrate` creates; or as the tables' owner: GRANT {own_role} TO {role};"
            ),
            false => format!("As the tables' owner: {}", grants.join(" ")),
        };
        Finding::wrong(subject, found, advice)
    }
}

/// Returns the rights that a service's program needs in its database: what its migrations grant.
fn wanted(service: &Service) -> Vec<Right> {
    let role = format!("amends_{}", service.name);
    // Postgres grants it to everyone, and some revoke that.
    let mut wanted = vec![Right {
        kind: Kind::Schema,
        object: "public".to_owned(),
        part: String::new(),
        privilege: "USAGE".to_owned(),
    }];
    let of_citus: &[(&str, &str)] = if service.name == "engine" { &citus::FILES } else { &[] };
    let files = service.migrator.iter().map(|migration| migration.sql.as_str());
    for sql in files.chain(of_citus.iter().map(|(_, sql)| *sql)) {
        wanted.extend(granted(sql, &role));
    }
    wanted.sort();
    wanted.dedup();
    wanted
}

/// Returns the rights that the statements of a migration grant to a role.
fn granted(sql: &str, role: &str) -> Vec<Right> {
    let code: Vec<_> = sql.lines().filter_map(|line| line.split("--").next()).collect();
    let code = code.join(" ");
    let mut rights = Vec::new();
    for statement in code.split("GRANT ").skip(1) {
        // Inside of a string it is part of a function.
        let statement = statement.split([';', '\'']).next().unwrap_or_default();
        let Some((what, grantee)) = statement.rsplit_once(" TO ") else { continue };
        let Some((privileges, objects)) = what.split_once(" ON ") else { continue };
        if ![role, ANY_WORKER].contains(&grantee.trim()) {
            continue;
        }
        let (kind, objects) = [Kind::Sequence, Kind::Function]
            .into_iter()
            .find_map(|kind| Some((kind, objects.trim().strip_prefix(kind.as_str())?)))
            .unwrap_or((Kind::Table, objects));
        for object in listed(objects) {
            for privilege in listed(privileges) {
                let (privilege, parts) = privilege.split_once('(').unwrap_or((privilege, ""));
                for part in listed(parts.trim_end_matches(')')) {
                    rights.push(Right {
                        kind,
                        object: object.to_owned(),
                        part: part.to_owned(),
                        privilege: privilege.trim().to_owned(),
                    });
                }
            }
        }
    }
    rights
}

/// Splits a list at those commas that are in no parentheses.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    let is_end = move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    };
    text.split(is_end).map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::{
        doctor::{database::BOUNDS, finding::Grade},
        services::SERVICES,
    };

    /// Everything that a database grants to a role by name.
    const GRANTED: &str = "
        WITH role AS (SELECT oid FROM pg_roles WHERE rolname = $1)
        SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname::text, '', acl.privilege_type
        FROM pg_class, aclexplode(relacl) AS acl, role WHERE acl.grantee = role.oid
        UNION ALL
        SELECT 'TABLE', relname::text, attname::text, acl.privilege_type
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid, aclexplode(attacl) AS acl, role
        WHERE acl.grantee = role.oid
        UNION ALL
        SELECT 'FUNCTION', proname::text, '', acl.privilege_type
        FROM pg_proc, aclexplode(proacl) AS acl, role WHERE acl.grantee = role.oid";

    type Grant = (String, String, String, String);

    #[tokio::test]
    async fn what_is_wanted_is_what_the_migrations_grant_and_nothing_else() {
        for service in SERVICES {
            let database = amends_testkit::database(service.migrator, service.name).await;
            let role = format!("amends_{}", service.name);
            let granted: Vec<Grant> =
                sqlx::query_as(GRANTED).bind(&role).fetch_all(&database.pool).await.unwrap();
            let granted: BTreeSet<Grant> = granted.into_iter().collect();
            let plain = |right: &Right| {
                let name = right.object.split('(').next().unwrap().to_owned();
                (right.kind.as_str().to_owned(), name, right.part.clone(), right.privilege.clone())
            };
            let wanted = service.migrator.iter().flat_map(|file| super::granted(file.sql.as_str(), &role));
            let wanted: BTreeSet<Grant> = wanted.map(|right| plain(&right)).collect();
            assert_eq!(wanted, granted, "{role}");
            assert!(wanted.len() > 5, "{wanted:?}");
        }
    }

    #[tokio::test]
    async fn every_right_that_is_taken_is_named_with_the_statement_that_gives_it_back() {
        for service in SERVICES {
            let database = amends_testkit::database(service.migrator, service.name).await;
            let role = format!("amends_{}", service.name);
            let pool = Pool::connect(&database.role_url(&role), 1, "test", BOUNDS).unwrap();
            let read = async || Rights::read(&pool, service).await.unwrap();
            let run = async |sql: &str| {
                let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&database.pool).await;
                done.unwrap_or_else(|error| panic!("{sql}: {error}"));
            };
            assert_eq!(read().await.finding("database").grade, Grade::Good, "{:?}", read().await.lacking);
            let of_citus = granted(&citus::FILES.map(|(_, sql)| sql).concat(), &role);
            for right in wanted(service) {
                if right.kind == Kind::Schema || of_citus.contains(&right) {
                    continue;
                }
                run(&format!("REVOKE {} FROM {role}", right.text())).await;
                let lacking = read().await;
                assert_eq!(lacking.lacking, std::slice::from_ref(&right));
                let finding = lacking.finding("database");
                assert_eq!(finding.grade, Grade::Wrong);
                assert!(finding.found.contains(&right.text()), "{}", finding.found);
                let advice = finding.advice.unwrap();
                run(advice.split_once(": ").unwrap().1).await;
                assert!(read().await.are_whole(), "{advice}");
            }
            run("REVOKE USAGE ON SCHEMA public FROM PUBLIC").await;
            let text = read().await.finding("database").found;
            assert!(text.ends_with("lacks rights: USAGE ON SCHEMA public"), "{text}");
            pool.close().await;
        }
    }

    #[tokio::test]
    async fn a_role_that_was_made_by_hand_is_told_which_one_there_is() {
        let service = &SERVICES[0];
        let database = amends_testkit::database(service.migrator, service.name).await;
        amends_testkit::login_role("amends_stranger").await;
        let url = database.role_url("amends_stranger");
        let pool = Pool::connect(&url, 1, "test", BOUNDS).unwrap();
        let finding = Rights::read(&pool, service).await.unwrap().finding("database");
        assert_eq!(finding.grade, Grade::Wrong);
        assert!(finding.found.contains(" more"), "{}", finding.found);
        let advice = finding.advice.unwrap();
        assert!(advice.ends_with("GRANT amends_engine TO amends_stranger;"), "{advice}");
        pool.close().await;
    }
}
