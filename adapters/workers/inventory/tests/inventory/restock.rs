//! Restock: what was taken comes back, once and never more than was taken.

use amends_protocol::{Command, Outcome};
use serde_json::{Value, json};

use crate::{
    transport::{attempt, code, execute, undo},
    world::{World, reserve, take},
};

fn restock(reserve: &Command, lines: &[(&str, i64)]) -> Command {
    let lines: Vec<Value> = lines.iter().map(|(p, n)| json!({ "productId": p, "quantity": n })).collect();
    execute("restock", json!({ "reservation": reserve.command_id, "lines": lines }))
}

fn back(reply: &amends_protocol::Reply) -> Vec<(&str, &str, i64)> {
    reply.exposure.iter().map(|e| (e.kind.as_str(), e.unit.as_str(), e.amount)).collect()
}

#[tokio::test]
async fn pieces_come_back_in_parts_once_each_and_never_more_than_were_taken() {
    let world = World::new().await;
    world.put("mug", 5).await;
    world.put("pen", 5).await;
    let reserved = reserve(&[("mug", 3), ("pen", 1)]);
    world.ask(&reserved).await;
    world.ask(&take(&reserved)).await;
    let first = restock(&reserved, &[("mug", 2)]);
    for repeated in [first.clone(), first.clone(), attempt(2, &first)] {
        let reply = world.ask(&repeated).await;
        assert_eq!((reply.outcome, back(&reply)), (Outcome::Succeeded, vec![("stock_returned", "mug", 2)]));
    }
    assert_eq!(world.stock("mug").await, (4, 0, 1));
    for lines in [vec![("mug", 2)], vec![("mug", 1), ("pen", 2)], vec![("cup", 1)]] {
        let reply = world.ask(&restock(&reserved, &lines)).await;
        assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, "not_shipped"), "{lines:?}");
    }
    // Two in one batch see each other.
    let (one, other) = (restock(&reserved, &[("mug", 1)]), restock(&reserved, &[("mug", 1), ("pen", 1)]));
    world.topics.send(&[one.clone(), other.clone()]);
    let outcomes = [world.topics.settled(&one).await.outcome, world.topics.settled(&other).await.outcome];
    assert!(outcomes.contains(&Outcome::Succeeded) && outcomes.contains(&Outcome::Refused), "{outcomes:?}");
    assert_eq!(world.stock("mug").await, (5, 0, 0));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn until_its_pieces_are_taken_a_restock_fails_for_now() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let reserved = reserve(&[("mug", 2)]);
    let command = restock(&reserved, &[("mug", 2)]);
    let early = world.ask(&command).await;
    assert_eq!((early.outcome, code(&early)), (Outcome::FailedTransient, "not_taken"), "not even reserved");
    world.ask(&reserved).await;
    let held = world.ask(&attempt(2, &command)).await;
    assert_eq!((held.outcome, code(&held)), (Outcome::FailedTransient, "not_taken"));
    world.ask(&take(&reserved)).await;
    assert_eq!(world.ask(&attempt(3, &command)).await.outcome, Outcome::Succeeded);
    assert_eq!(world.stock("mug").await, (5, 0, 0), "shipped never goes below 0");
    let released = reserve(&[("mug", 1)]);
    world.ask(&released).await;
    world.ask(&undo(&released)).await;
    let reply = world.ask(&restock(&released, &[("mug", 1)])).await;
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, "not_shipped"), "it will never be taken");
    world.assert_books_balance().await;
}
