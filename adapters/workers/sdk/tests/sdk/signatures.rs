//! Which commands a worker accepts.

use amends_protocol::{Command, CommandKey, CommandKeys, Kind, Outcome, wire};
use amends_worker::{Answer, PgRows, PgTx, Settings, Transactional, TransactionalExecutor, Work, store};
use sqlx::PgPool;

use crate::{books::books, messages::execute, wire::Wire};

struct Nothing;

impl TransactionalExecutor<PgTx> for Nothing {
    async fn run(&self, _: &mut PgTx, work: &[Work]) -> Result<Vec<Answer>, store::Error> {
        Ok(work.iter().map(|_| Answer::succeeded(None, vec![])).collect())
    }
}

fn key(id: &str, byte: u8) -> CommandKey {
    CommandKey::new(id, [byte; 32])
}

async fn settle(
    pool: &PgPool,
    wire: &Wire,
    keys: CommandKeys,
    require_signatures: bool,
) -> Vec<(Kind, Outcome, u32)> {
    let settings = Settings { keys, require_signatures, ..Settings::new("payment") };
    let mut worker =
        Transactional::new(PgRows::new(pool.clone()), Nothing, wire.clone(), wire.clone(), settings);
    worker.run_once().await.unwrap();
    wire.outcomes()
}

fn put(wire: &Wire, command: &Command, key: Option<&CommandKey>) {
    let bytes = wire::write(command);
    wire.put_signed(&bytes, key.map(|key| key.sign(&bytes)).as_deref());
}

#[tokio::test]
async fn only_commands_that_are_signed_with_a_key_of_the_participant_are_done() {
    let (books, wire) = (books().await, Wire::default());
    let (previous, current, next) = (key("a", 1), key("b", 2), key("c", 3));
    for key in [&previous, &current, &next] {
        put(&wire, &execute("order"), Some(key));
    }
    put(&wire, &execute("order"), Some(&key("a", 9)));
    put(&wire, &execute("order"), Some(&key("d", 1)));
    put(&wire, &execute("order"), None);
    let changed = wire::write(&execute("order"));
    wire.put_signed(&changed, Some(&current.sign(b"something else")));
    // The message is not even parsed.
    wire.put_signed(b"not json", Some("v1;kid=b;00"));
    let keys: CommandKeys = [previous, current, next].into_iter().collect();
    let replies = settle(&books.pool, &wire, keys, true).await;
    assert_eq!(replies, [(Kind::Execute, Outcome::Succeeded, 1); 3]);
    let dead_letters: Vec<(i64, String)> = wire.dead_letters();
    let reasons: Vec<&str> = dead_letters.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "amends-signature: wrong",
            "amends-signature: the key is not one of this participant's",
            "amends-signature: missing",
            "amends-signature: wrong",
            "amends-signature: wrong",
        ]
    );
}

#[tokio::test]
async fn a_missing_signature_is_borne_until_all_senders_sign_and_a_wrong_one_never() {
    let (books, wire) = (books().await, Wire::default());
    put(&wire, &execute("order"), None);
    put(&wire, &execute("order"), Some(&key("a", 9)));
    let keys: CommandKeys = [key("a", 1)].into_iter().collect();
    let replies = settle(&books.pool, &wire, keys, false).await;
    assert_eq!(replies, [(Kind::Execute, Outcome::Succeeded, 1)]);
    assert_eq!(wire.dead_letters().len(), 1);
}

#[tokio::test]
async fn keys_are_written_by_their_owner_and_read_by_the_workers_role_alone() {
    let books = books().await;
    let hex = ["11".repeat(32), "22".repeat(32)];
    let keys = [("current", "a", hex[0].as_str()), ("next", "b", hex[1].as_str())];
    amends_worker::write_keys(&books.pool, &keys).await.unwrap();
    let role = PgPool::connect(&books.role_url("amends_payment")).await.unwrap();
    let accepted = amends_worker::accepted_keys(&role).await.unwrap();
    let signed = CommandKey::from_hex("b", &hex[1]).unwrap().sign(b"{}");
    assert_eq!(accepted.check(Some(&signed), b"{}"), Ok(()));
    assert!(amends_worker::write_keys(&role, &keys).await.is_err());
}
